"""What only a GPU can show: the same numbers as on a CPU, runs that repeat, other precisions, NCCL."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

import necklace
from necklace.necks import SPP, SPPF, ConvNeck, FocalBlock, FocalModulation
from necklace.record import Record, read_record
from necklace.run.runner import run
from tests.conftest import SMALL, spec_of
from tests.test_inference_loaded import recorded

ROOT = Path(__file__).parents[1]
# deterministic=warn says which of torch's operators are not: a warning, and no error here.
pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings("default")]
GPU = ["trainer.accelerator=gpu", "trainer.deterministic=warn"]
Train = Callable[..., tuple[Record, Path]]


@pytest.fixture(autouse=True, scope="module")
def whole_float32() -> Iterator[None]:
    """No TF32, whose products have ten bits."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


NECKS: dict[str, Callable[[], nn.Module]] = {
    "conv": lambda: ConvNeck(32),
    "spp": lambda: SPP(32),
    "sppf": lambda: SPPF(32),
    "focal": lambda: FocalModulation(32, focal_level=3),
    "focal, recomputed": lambda: FocalModulation(32, focal_window=5, recompute=True),
    "focal_block": lambda: FocalBlock(32),
}


@pytest.mark.parametrize("name", NECKS)
def test_a_neck_gives_on_a_gpu_what_it_gives_on_a_cpu(name: str) -> None:
    torch.manual_seed(0)
    neck = NECKS[name]().to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    state = {key: value.clone() for key, value in neck.state_dict().items()}
    x = torch.randn(4, 32, 13, 11).contiguous(memory_format=torch.channels_last)
    upstream = torch.randn(4, 32, 13, 11)
    found = []
    for device in ("cpu", "cuda"):
        neck.load_state_dict(state)
        neck.to(device).zero_grad()
        own = x.detach().to(device).requires_grad_()
        y = neck(own)
        y.backward(upstream.to(device))
        gradients = [parameter.grad for parameter in neck.parameters()]
        with torch.no_grad():
            evaluated = neck.eval()(own)
        neck.train()
        buffers = [buffer for buffer in neck.buffers() if buffer.is_floating_point()]
        kept = [y, own.grad, *gradients, evaluated, *buffers]
        found.append([tensor.detach().cpu().clone() for tensor in kept if tensor is not None])
    assert len(found[0]) == len(found[1]) > 5
    for due, got in zip(*found, strict=True):
        assert float((due - got).abs().max() / due.abs().max().clamp(min=1)) <= 1e-4


@pytest.fixture(scope="module")
def twice(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Record, Record, Path]]:
    """Each run, trained two times on the GPU, and the folder of the second."""
    found = {}
    for neck in ("none", "sppf", "focal"):
        places = [tmp_path_factory.mktemp("gpu") for _ in range(2)]
        records = [run(spec_of([*SMALL, *GPU, f"neck={neck}", f"outputs={place}"])) for place in places]
        found[neck] = (*records, places[1] / "runs" / records[1].name)
    return found


@pytest.mark.parametrize("neck", ["none", "sppf", "focal"])
def test_a_run_on_a_gpu_says_so_and_repeats_to_the_bit(twice: dict[str, tuple[Record, Record, Path]], neck: str) -> None:
    first, second, _ = twice[neck]
    assert first.device["kind"] == "cuda"
    assert first.device["name"] == torch.cuda.get_device_name()
    assert first.initial_hash == second.initial_hash
    assert first.metrics == second.metrics
    assert first.weights_hash == second.weights_hash


@pytest.mark.parametrize("neck", ["none", "sppf", "focal"])
def test_a_run_starts_and_ends_near_the_cpus(twice: dict[str, tuple[Record, Record, Path]], tmp_path: Path, neck: str) -> None:
    gpu, _, _ = twice[neck]
    cpu = run(spec_of([*SMALL, "trainer.accelerator=cpu", f"neck={neck}", f"outputs={tmp_path}"]))
    assert gpu.initial_hash == cpu.initial_hash
    assert gpu.hash == cpu.hash
    assert gpu.metrics["test/loss"] == pytest.approx(cpu.metrics["test/loss"], abs=0.05)


def test_a_run_of_a_gpu_is_loaded_and_predicts_on_a_cpu(twice: dict[str, tuple[Record, Record, Path]]) -> None:
    loaded = necklace.load(twice["focal"][2])
    assert {parameter.device.type for parameter in loaded.model.parameters()} == {"cpu"}
    data, correct = recorded(loaded)
    test = data.splits["test"]
    predicted = loaded.predict([test.image(number) for number in range(len(test))])
    agree = ((predicted.argmax(1) == test.labels).numpy() == correct).mean()
    assert agree >= 1 - 2 / len(test)  # but for two images whose classes are equal but for rounding


@pytest.mark.parametrize("precision", ["bf16-mixed", "16-mixed"])
def test_a_run_in_half_precision(twice: dict[str, tuple[Record, Record, Path]], train_run: Train, precision: str) -> None:
    record, _ = train_run("neck=focal", *GPU, f"trainer.precision={precision}")
    assert record.config["trainer"]["precision"] == precision
    assert record.hash != twice["focal"][0].hash
    assert record.metrics["test/loss"] == pytest.approx(twice["focal"][0].metrics["test/loss"], abs=0.1)


def command(folder: Path, *arguments: str) -> str:
    # In front of what is there, which may be where this machine's packages are.
    places = [str(ROOT / "src"), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(places)}
    done = subprocess.run(
        [sys.executable, str(ROOT / "train.py"), *SMALL, *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def records_in(folder: Path) -> list[Record]:
    found = [read_record(path) for path in (folder / "outputs" / "runs").glob("*/record.json")]
    return sorted(found, key=lambda record: record.config["seed"])


def test_ddp_by_nccl_on_one_gpu(twice: dict[str, tuple[Record, Record, Path]], tmp_path: Path) -> None:
    command(tmp_path, *GPU, "neck=sppf", "trainer.strategy=ddp", "trainer.devices=1")
    (record,) = records_in(tmp_path)
    single = twice["sppf"][0]
    assert (record.device["kind"], record.world_size) == ("cuda", 1)
    assert record.initial_hash == single.initial_hash
    assert record.metrics["test/loss"] == pytest.approx(single.metrics["test/loss"], abs=0.01)
