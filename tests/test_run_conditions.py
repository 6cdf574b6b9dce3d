from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from necklace.record import Record
from necklace.run.conditions import precision_note
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
