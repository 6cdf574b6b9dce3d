from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from necklace.record import Record
from necklace.run.conditions import cluster, group_size, precision_note, rank, set_threads, started_outside
from necklace.tasks import Classification, Task


def test_bf16_on_a_processor_without_it_is_said_to_be_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    if not hasattr(torch.cpu, "get_capabilities"):
        pytest.skip("this torch cannot tell what the processor has")
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": False, "amx_bf16": False})
    assert "trainer.precision=32-true" in (precision_note("bf16-mixed", cpu) or "")
    assert precision_note("32-true", cpu) is None
    assert precision_note("bf16-mixed", cuda) is None
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    assert precision_note("bf16-mixed", cpu) is None


def test_a_run_in_bf16_has_losses_metrics_and_gates_of_full_precision(
    train_run: Callable[..., tuple[Record, Path]], monkeypatch: pytest.MonkeyPatch
) -> None:
    dtypes: set[torch.dtype] = set()
    inside: set[torch.dtype] = set()
    losses = Classification.losses

    def watched(task: Task, logits: torch.Tensor, labels: torch.Tensor, training: bool) -> torch.Tensor:
        result = losses(task, logits, labels, training)  # pyright: ignore[reportArgumentType]
        dtypes.update((logits.dtype, result.dtype))
        return result

    monkeypatch.setattr(Classification, "losses", watched)
    hook = torch.nn.modules.module.register_module_forward_hook(
        lambda module, _, output: inside.add(output.dtype) if isinstance(module, torch.nn.Conv2d) else None
    )
    try:
        half, folder = train_run(
            "trainer.precision=bf16-mixed", "trainer.gradient_clip_val=1", "neck=focal", "callbacks.gates=1"
        )
    finally:
        hook.remove()
    assert torch.bfloat16 in inside  # costs are counted outside of autocast
    assert dtypes == {torch.float32}
    full, _ = train_run("trainer.gradient_clip_val=1", "neck=focal", "callbacks.gates=1")
    assert half.hash != full.hash
    assert half.initial_hash == full.initial_hash
    state = torch.load(next((folder / "checkpoints").glob("best*")), weights_only=True)["state_dict"]
    assert {tensor.dtype for tensor in state.values() if tensor.is_floating_point()} == {torch.float32}
    assert half.metrics["val/loss"] == pytest.approx(full.metrics["val/loss"], abs=0.05)
    assert half.gates is not None
    assert full.gates is not None
    assert half.gates.keys() == full.gates.keys()


TASK = {"SLURM_JOB_ID": "4711", "SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2", "SLURM_PROCID": "1", "SLURM_LOCALID": "1"}
STEP = TASK | {"SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "2", "SLURM_NODELIST": "127.0.0.1"}
RANKS = {"LOCAL_RANK": "1", "WORLD_SIZE": "2"}
TORCHRUN = RANKS | {"RANK": "1", "TORCHELASTIC_RUN_ID": "none", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}


@pytest.mark.parametrize(
    ("environment", "devices", "expected"),
    [
        ({}, 2, (False, 0, "Lightning")),
        (TASK, 2, (False, 0, "Lightning")),  # a batch script, whose process starts the other ranks
        (STEP | {"SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"}, 2, (False, 0, "Lightning")),
        (STEP, 2, (True, 1, "SLURM")),
        (STEP | RANKS, 2, (True, 1, "Lightning")),
        (RANKS, 2, (True, 1, "Lightning")),
        (TORCHRUN, 2, (True, 1, "TorchElastic")),
        (STEP | TORCHRUN, "auto", (True, 1, "TorchElastic")),
        (STEP | TORCHRUN, 1, (False, 0, "Lightning")),  # a run of one process, whoever started that
    ],
)
def test_who_started_the_ranks_is_seen(
    environment: dict[str, str], devices: int | str, expected: tuple[bool, int, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "")  # so that they are put back
        monkeypatch.delenv(name)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    trainer = {"devices": devices}
    found = type(cluster(trainer)).__name__.removesuffix("Environment")
    assert (started_outside(trainer), rank(trainer), found) == expected
    if expected[0]:
        assert group_size(trainer) == 2
    rank({"devices": 1})


def test_threads_follow_the_cores_of_a_task(monkeypatch: pytest.MonkeyPatch) -> None:
    before = torch.get_num_threads()
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "6")
    try:
        set_threads()
        assert torch.get_num_threads() == before
        monkeypatch.delenv("OMP_NUM_THREADS")
        set_threads()
        assert torch.get_num_threads() == 6
        set_threads(2)
        assert torch.get_num_threads() == 3  # of the ranks that this task has started
        for name, value in STEP.items():
            monkeypatch.setenv(name, value)
        set_threads(2)
        assert torch.get_num_threads() == 6
        monkeypatch.delenv("SLURM_CPUS_PER_TASK")
        set_threads()
        assert torch.get_num_threads() == 6
    finally:
        torch.set_num_threads(before)
