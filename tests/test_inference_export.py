"""A run's model in other formats. The ONNX exporter takes seconds, so most of these use the other two."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch import Tensor
from torchvision.transforms.v2 import functional as transforms

import necklace
from necklace.cli.main import main
from necklace.heads import Pyramid
from necklace.inference import export
from necklace.inference.export import export_run
from necklace.inference.formats import _MaskedPyramid
from necklace.inference.loaded import LoadedRun
from necklace.record import Record
from tests import test_inference_loaded

Train = Callable[..., tuple[Record, Path]]
trained = test_inference_loaded.trained  # fixture


@pytest.fixture
def loaded(trained: Path, tmp_path: Path) -> LoadedRun:
    """A copy of the run, to be written to."""
    return necklace.load(shutil.copytree(trained, tmp_path / trained.name))


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (3, 2), (4, 4), (5, 9), (13, 8)])
def test_the_pyramid_of_masks_is_the_pyramid(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    head, features = Pyramid(3, 5, bins=(1, 2, 3, 4)), torch.randn(2, 3, *size)
    assert torch.equal(_MaskedPyramid(head)(features), head(features))


def test_safetensors_hold_the_weights_and_say_what_they_are(loaded: LoadedRun) -> None:
    lines = export_run(loaded, "safetensors")
    path = loaded.folder / "model.safetensors"
    assert lines[0] == f"{path}: the weights"
    assert "checked on 30 images of the run's test split, at " in lines[-1]
    with safe_open(path, "pt") as file:
        about = json.loads(file.metadata()["necklace"])
        state = loaded.model.state_dict()
        assert set(file.keys()) == set(state)
        assert all(torch.equal(file.get_tensor(name), value) for name, value in state.items())
    assert about["weights_hash"] == loaded.record.weights_hash
    assert path.stat().st_mode & 0o777 == (loaded.folder / "record.json").stat().st_mode & 0o777


def test_torchscript_gives_the_models_logits_at_any_size(loaded: LoadedRun, recwarn: pytest.WarningsRecorder) -> None:
    export_run(loaded, "torchscript")
    assert not recwarn.list  # torch's words on the format itself
    with pytest.warns(FutureWarning, match="torch.jit.load"):
        module = torch.jit.load(loaded.folder / "model.pt")
    for shape in ((1, 3, 24, 24), (3, 3, 41, 67), (2, 3, 100, 5)):
        images = torch.randn(shape)
        with torch.no_grad():
            assert torch.allclose(module(images), loaded.model(images), atol=1e-5)


@pytest.mark.parametrize("form", ["torchscript", "onnx"])
def test_views_that_evaluation_averages_are_in_the_file(loaded: LoadedRun, form: str) -> None:
    model = loaded.model
    model.head = Pyramid(model.neck.out_channels, len(loaded.classes), bins=(1, 2)).eval()  # pyright: ignore[reportArgumentType]
    with torch.no_grad():
        alone = model(images := torch.randn(2, 3, 24, 24))
        model.mirror, model.shift = True, 1
        assert not torch.allclose(model(images), alone, atol=1e-3)
    assert "checked on" in export_run(loaded, form)[-1]  # against the model that averages
    (about,) = (json.loads(path.read_text()) for path in loaded.folder.glob("model*.json"))
    assert about["views"] == {"mirror": True, "shift": 1}


def described_input(about: dict[str, Any], pixels: Tensor) -> Tensor:
    """The model's input by FILE.json alone: pixels uint8 [h, w, 3] to [1, 3, H, W]."""
    size, (height, width) = about["preprocessing"]["size"], pixels.shape[:2]
    if size["rule"] == "native":
        cap = size["max_side"] - size["max_side"] % size["stride"]
        scale = min(1.0, cap / max(height, width))
        height, width = (
            max(1, int(np.floor(side * scale / size["stride"] + 0.5))) * size["stride"] for side in (height, width)
        )
    else:
        height, width = size["height"], size["width"]
    resized = transforms.resize_image(pixels.permute(2, 0, 1), [height, width], antialias=True).double() / 255
    mean, std = (torch.tensor(about["preprocessing"][name]).view(3, 1, 1) for name in ("mean", "std"))
    return ((resized - mean) / std).float()[None]


@pytest.mark.parametrize("sizes", ["native", "fixed"])
def test_pre_processing_can_be_done_again_from_the_json(train_run: Train, trained: Path, tmp_path: Path, sizes: str) -> None:
    loaded = necklace.load(trained if sizes == "native" else train_run("data.size=[20,28]", "epochs=1")[1])
    export_run(loaded, "safetensors", tmp_path / "x.safetensors")
    about = json.loads((tmp_path / "x.safetensors.json").read_text())
    assert about["classes"] == list(loaded.classes)
    assert (about["task"], about["weights_hash"]) == ("classification", loaded.record.weights_hash)
    assert about["commit"] == (loaded.record.git or {"sha": None})["sha"]
    for shape in ((36, 52), (33, 47), (700, 300), (2, 1), (511, 1030)):
        pixels = torch.randint(0, 256, (*shape, 3), dtype=torch.uint8)
        assert torch.allclose(described_input(about, pixels), loaded.preprocess(pixels), atol=1e-5)


def test_a_head_of_one_size_is_said_and_kept_to(train_run: Train) -> None:
    _, folder = train_run("head=flatten", "epochs=1")
    lines = export_run(necklace.load(folder), "torchscript")
    assert lines[2].startswith("height and width are fixed at 24x24: head=flatten was built for images of about 24x24")
    assert "at 1 sizes" in lines[-1]
    assert json.loads((folder / "model.pt.json").read_text())["input"]["shape"] == ["N", 3, 24, 24]


def test_without_the_data_the_check_is_on_drawn_images_and_says_so(loaded: LoadedRun) -> None:
    config = loaded.record.config
    folder = {"_target_": "necklace.data.folder.Folder", "root": "/nowhere"}
    config["data"] = config["data"] | {"source": folder}
    lines = export_run(loaded, "safetensors")
    assert (
        "checked on 100 images drawn for the purpose, as the run's cannot be read (data.root=/nowhere does not exist)"
        in lines[-1]
    )


@pytest.mark.parametrize("form", ["torchscript", "safetensors"])
def test_a_file_that_differs_is_an_error_and_not_kept(loaded: LoadedRun, monkeypatch: pytest.MonkeyPatch, form: str) -> None:
    before = sorted(loaded.folder.rglob("*"))
    monkeypatch.setattr(export, "write_model", of_other_weights(export.write_model))
    with pytest.raises(
        ValueError, match=rf"^--format={form}: the file would not give the run's predictions \([^\n]*\), so there is none$"
    ):
        export_run(loaded, form)
    assert sorted(loaded.folder.rglob("*")) == before


def of_other_weights(write: Callable[..., None]) -> Callable[..., None]:
    """Writes the model with one weight changed a little."""

    def written(model: Any, *arguments: Any) -> None:
        weight = model.head.fc.bias
        with torch.no_grad():
            weight[0] += 1e-3
            write(model, *arguments)
            weight[0] -= 1e-3

    return written


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--format", "onnx", "--out", "nowhere/x.onnx"], "error: --out=nowhere/x.onnx: there is no folder nowhere"),
        (["--format", "torchscript", "--trust", "nowhere"], "error: trust=nowhere: there is no such folder"),
    ],
)
def test_what_is_wrong_is_one_sentence(
    trained: Path, tmp_path: Path, arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["necklace", "export", str(trained), *arguments])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == message


def test_missing_packages_are_named(loaded: LoadedRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "missing_packages", lambda form: ["onnxscript"])
    with pytest.raises(ValueError, match="--format=onnx: needs onnxscript; they come with the extra 'export'"):
        export_run(loaded, "onnx")
