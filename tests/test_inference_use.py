"""A trained run of each task is used by ten commands; ONNX gives the model's predictions at sizes never trained on."""

import csv
import json
import shlex
import tarfile
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image

import necklace
from necklace.cli.main import main
from necklace.data.glyphs import Glyphs
from necklace.data.images import ImageSet
from necklace.inference.loaded import LoadedRun
from necklace.run.runner import run
from tests.conftest import SMALL, spec_of
from tests.test_run_runner import voc_folder

# Not part of the project; without them, the comparison is on drawn images alone.
PHOTOS = Path(__file__).parents[2] / "shared" / "data" / "mask-voc.tar.xz"
pytestmark = pytest.mark.slow
TASKS = ("classification", "multilabel")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A run of each task."""
    outputs = tmp_path_factory.mktemp("use")
    options = {
        "classification": [*SMALL, "neck=focal", "head=pyramid", "data/sizes=multiscale", "data.sizes.sizes=[16,24]"],
        "multilabel": [
            *(text for text in SMALL if not text.startswith(("data.", "batch"))),
            "data=voc", "task=multilabel", f"data.root={voc_folder(outputs / 'voc')}", "batch_size=4", "neck=spp",
        ],
    }  # fmt: skip
    return {task: outputs / "runs" / run(spec_of([*chosen, f"outputs={outputs}"])).name for task, chosen in options.items()}


@pytest.fixture(scope="module")
def drawn() -> list[torch.Tensor]:
    """100 images of the project's own drawing, of sizes that no run was trained on."""
    images = Glyphs(train=1, test=100, image_size=(53, 119), seed=5).split("test")
    assert images is not None
    return [images.image(number) for number in range(100)]


@pytest.fixture(scope="module")
def photos() -> list[torch.Tensor]:
    """100 photos of many sizes, shrunk to 160 pixels for the time that the others take; none where they are not here."""
    found = []
    if not PHOTOS.exists():
        return found
    with tarfile.open(PHOTOS) as files:
        for member in files:
            if member.name.endswith((".png", ".jpg")) and len(found) < 100:
                with Image.open(files.extractfile(member)) as photo:  # pyright: ignore[reportArgumentType]
                    photo.thumbnail((160, 160))
                    found.append(torch.from_numpy(np.array(photo.convert("RGB"))))
    return found


@pytest.mark.parametrize("task", TASKS)
def test_ten_commands(
    folders: dict[str, Path],
    drawn: list[torch.Tensor],
    photos: list[torch.Tensor],
    task: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = folders[task]
    (tmp_path / "photos" / "more").mkdir(parents=True)
    for number, image in enumerate(drawn[:12]):
        Image.fromarray(image.numpy()).save(tmp_path / "photos" / ("more" if number % 2 else "") / f"{number:02}.png")
    monkeypatch.chdir(tmp_path)
    expected = necklace.load(folder).predict([Path("photos") / f"{number:02}.png" for number in range(0, 12, 2)])  # 1
    loaded = necklace.load(folder)
    with torch.no_grad():
        logits = loaded.model(loaded.preprocess("photos/00.png"))  # 2
    assert torch.allclose(loaded.activated(logits)[0], expected[0], atol=1e-6)
    for command in (
        f"predict {folder} photos/00.png",  # 3
        f"predict {folder} photos --out all.csv",  # 4
        f"predict {folder} photos/02.png photos/more --format json --out some.txt",  # 5
        f"predict {folder} photos --out all.json",  # 6
        f"export {folder} --format onnx --out model.onnx",  # 7
        f"export {folder} --format torchscript",  # 8
        f"export {folder} --format safetensors",  # 9
        f"predict {folder} photos/more --device cpu --out more.csv",  # 10
    ):
        monkeypatch.setattr("sys.argv", ["necklace", *shlex.split(command)])
        main()
    said = capsys.readouterr().out
    assert said.count("checked on ") == 3
    rows = list(csv.DictReader(Path("all.csv").read_text().splitlines()))
    assert len(rows) == 12 == len(json.loads(Path("all.json").read_text()))
    named = {row["image"]: [float(row[f"p/{name}"]) for name in loaded.classes] for row in rows}
    assert np.allclose([named[f"photos/{number:02}.png"] for number in range(0, 12, 2)], expected, atol=1e-5)
    assert len(json.loads(Path("some.txt").read_text())) == 7
    agree(loaded, Path("model.onnx"), drawn)
    if photos:
        agree(loaded, Path("model.onnx"), photos)


def agree(loaded: LoadedRun, path: Path, images: list[torch.Tensor]) -> None:
    """ONNX's predictions are the model's on these images, each at its own size, and in the run's pre-processing."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    about = json.loads(session.get_modelmeta().custom_metadata_map["necklace"])
    assert about["classes"] == list(loaded.classes)
    assert about["input"]["shape"] == ["N", 3, "H", "W"]
    assert len(images) == 100
    sizes, worst = set(), 0.0
    for image in images:
        for inputs in (loaded.preprocess(image), loaded.preprocessing.normalised(image[None])):
            (logits,) = session.run(["logits"], {"images": inputs.contiguous().numpy()})
            with torch.no_grad():
                expected = loaded.activated(loaded.model(inputs))
            worst = max(worst, float((loaded.activated(torch.from_numpy(logits)) - expected).abs().max()))
            sizes.add(tuple(inputs.shape[2:]))
    assert len(sizes) > 20
    assert worst <= 1e-4
    batch = loaded.preprocessing.normalised(ImageSet.build(images[:7], [0] * 7, list("abcdefg")).resized(37, 59))
    (logits,) = session.run(["logits"], {"images": batch.contiguous().numpy()})
    with torch.no_grad():
        assert np.allclose(np.asarray(logits), loaded.model(batch), atol=1e-4)
