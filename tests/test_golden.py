"""Runs of every kind end in the weights and metrics that they ended in before the code was last moved.

`tests/golden/weights.json` is written by `python -m tests.test_golden`, once, from code whose results are known to be right. A
change that is not meant to change results must leave it as it is; one that is meant to says so and writes it anew.
"""

import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import nn

from necklace.record import Record
from necklace.run.history import History
from necklace.run.runner import RunFailed, run
from tests.conftest import SMALL, spec_of
from tests.test_run_runner import voc_folder

GOLDEN = Path(__file__).parent / "golden" / "weights.json"
BACKBONE = [text for text in SMALL if not text.startswith("backbone")]
IMAGES = [text for text in SMALL if "data." not in text]
CONTEXT = ["data=context", "data.source.train=120", "data.source.test=30", "data.size=48", "data.train_images=100"]

# Name to overrides; `{folder}` and `{voc}` stand for data that is made for the test.
RUNS: dict[str, list[str]] = {
    **{f"neck={name}": [f"neck={name}"] for name in ("none", "conv", "spp", "sppf", "focal", "focal_block", "dw_convnet")},
    **{f"head={name}": [f"head={name}", "neck=sppf"] for name in ("gap", "flatten", "pyramid")},
    "optimizer=sgd schedule=cosine": ["optimizer=sgd", "schedule=cosine"],
    "schedule=constant": ["schedule=constant", "neck=conv"],
    "backbone=resnet18": ["backbone=resnet18", "backbone.stage=layer1"],
    "backbone=timm": [
        "backbone=timm",
        "backbone.name=test_convnext",
        "backbone.stage=1",
        "data.size=48",
        "neck=sppf",
        "head=pyramid",
    ],
    "neck of many options": [
        "neck=focal",
        "neck.focal_level=3",
        "neck.use_postln_in_modulation=true",
        "neck.normalize_modulator=true",
        "neck.proj_drop=0.1",
        "task.label_smoothing=0.1",
    ],
    "augmented": [
        "data.augment={flip: true, crop_padding: 2, cutout: 4, photometric: 0.2, crop_scale: 0.6}",
        "data.eval_sizes=[16,32]",
    ],
    "sizes=multiscale": ["data/sizes=multiscale", "data.sizes.sizes=[16,24]", "neck=sppf"],
    "sizes=multiscale, per epoch": ["data/sizes=multiscale", "data.sizes.sizes=[16,24]", "data.sizes.per=epoch"],
    "sizes=native": ["data/sizes=native", "data.sizes.max_side=48", "head=pyramid", "neck=focal"],
    "data=context": [*CONTEXT, "neck=sppf"],
    "data=folder": ["data=folder", "data.root={folder}", "data.size=24", "neck=focal"],
    "data=folder sizes=native": ["data=folder", "data.root={folder}", "data/sizes=native", "batch_size=4"],
    "data=voc task=multilabel": ["data=voc", "task=multilabel", "data.root={voc}", "batch_size=4", "neck=spp"],
    "data=voc sizes=fixed": ["data=voc", "task=multilabel", "data.root={voc}", "batch_size=4", "data/sizes=fixed"]
    + ["data.size=32", "data.eval_sizes=[24]"],
    "resumed": ["neck=focal", "neck.proj_drop=0.1", "epochs=4"],
}


def image_folder(root: Path) -> Path:
    """32 training and 8 test images of two classes and several shapes."""
    for split, count in (("train", 16), ("test", 4)):
        for name, shade in (("dark", 30), ("light", 180)):
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                ramp = Image.linear_gradient("L").resize((24 + 4 * (number % 3), 24))
                image = ramp.point([value // 4 + shade for value in range(256)])
                image.convert("RGB").rotate(90 * (number % 4), expand=True).save(folder / f"{number}.png")
    return root


def overrides_of(name: str, data: Path) -> list[str]:
    own = RUNS[name]
    small = BACKBONE if any(text.startswith("backbone") for text in own) else SMALL
    if any(text in ("data=folder", "data=voc") for text in own):
        small = IMAGES
    return [*small, *(text.replace("{folder}", str(data / "folder")).replace("{voc}", str(data / "voc")) for text in own)]


def train(name: str, data: Path, outputs: Path) -> Record:
    chosen = [*overrides_of(name, data), f"outputs={outputs}"]
    if name == "resumed":
        before = History.__dict__.get("on_train_batch_start")

        def stumble(self: History, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
            if trainer.current_epoch == 2 and batch_idx == 3:
                raise OSError("unplugged")

        History.on_train_batch_start = stumble
        try:
            with pytest.raises(RunFailed, match="unplugged"):
                run(spec_of(chosen))
        finally:
            if before is None:
                del History.on_train_batch_start
            else:
                History.on_train_batch_start = before
    return run(spec_of(chosen))


def outcome(record: Record) -> dict[str, Any]:
    """What must stay as it is."""
    return {
        "hash": record.hash,
        "initial_hash": record.initial_hash,
        "weights_hash": record.weights_hash,
        "metrics": record.metrics,
        "test_correct": record.test_correct,
        "best_epoch": record.best_epoch,
        "steps": record.steps,
        "resumed": record.resumed,
    }


def machine() -> str:
    """A few steps of plain torch, in no code of this project: two machines that differ here round differently."""
    generator = torch.Generator().manual_seed(0)

    def filled(*shape: int) -> nn.Parameter:
        return nn.Parameter(torch.rand(*shape, generator=generator) - 0.5)

    first, second, depthwise, last = filled(16, 3, 3, 3), filled(16, 16, 1, 1), filled(16, 1, 5, 5), filled(4, 16)
    images = torch.rand(16, 3, 24, 24, generator=generator).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW([first, second, depthwise, last], lr=1e-2)
    for _ in range(5):
        x = nn.functional.conv2d(images, first, stride=2, padding=1).relu()
        x = nn.functional.gelu(nn.functional.conv2d(nn.functional.conv2d(x, second), depthwise, padding=2, groups=16))
        x = nn.functional.max_pool2d(x, 5, 1, 2).mean((2, 3)) @ last.T
        optimizer.zero_grad()
        nn.functional.cross_entropy(x, torch.arange(16) % 4).backward()
        optimizer.step()
    end = float(sum(parameter.detach().double().sum() for parameter in (first, second, depthwise, last)))
    return f"torch {torch.__version__.partition('+')[0]}, {end.hex()}"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return drawn(tmp_path_factory.mktemp("data"))


def drawn(root: Path) -> Path:
    image_folder(root / "folder")
    voc_folder(root / "voc")
    return root


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_a_run_ends_as_it_did(name: str, data: Path, tmp_path: Path) -> None:
    golden = json.loads(GOLDEN.read_text())
    found, expected = outcome(train(name, data, tmp_path)), golden["runs"][name]
    # What runs measure besides may grow; what they measured then must all be there, and the same.
    assert expected["metrics"].keys() <= found["metrics"].keys()
    found["metrics"] = {metric: found["metrics"][metric] for metric in expected["metrics"]}
    if machine() == golden["machine"]:
        assert found == expected
        return
    # Another processor or torch rounds differently; what does not depend on rounding is due all the same.
    for exact in ("hash", "steps", "resumed"):
        assert found[exact] == expected[exact]
    assert found["metrics"]["val/loss"] == pytest.approx(expected["metrics"]["val/loss"], rel=0.1)


def write(train: Callable[[str, Path, Path], Record]) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        made = drawn(root / "data")
        runs = {name: outcome(train(name, made, root / str(number))) for number, name in enumerate(RUNS)}
    GOLDEN.write_text(json.dumps({"machine": machine(), "runs": runs}, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    torch.set_num_threads(1)
    write(train)
    sys.exit(0)
