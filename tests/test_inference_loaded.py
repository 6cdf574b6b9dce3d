import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.v2 import functional as transforms

import necklace
from necklace.build import datamodule_of
from necklace.inference.loaded import LoadedRun
from necklace.inference.prediction import predicted
from necklace.model import weights_hash
from necklace.record import Record, read_record, unpack_bits, write_record
from necklace.run.runner import run
from necklace.tasks import Classification
from tests.conftest import SMALL, spec_of
from tests.test_run_runner import voc_folder

Train = Callable[..., tuple[Record, Path]]
WITHOUT_DATA = [text for text in SMALL if not text.startswith(("data.", "batch"))]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    outputs = tmp_path_factory.mktemp("loaded")
    record = run(spec_of([*SMALL, "neck=focal", "data/sizes=native", "head=pyramid", f"outputs={outputs}"]))
    return outputs / "runs" / record.name


def recorded(loaded: LoadedRun) -> tuple[Any, np.ndarray]:
    """The data of a run's record, and which test images it had right."""
    data = datamodule_of(loaded.record.config)
    test = data.splits["test"]
    assert loaded.record.test_correct is not None
    return data, unpack_bits(loaded.record.test_correct, len(test))


@pytest.mark.parametrize(
    "options",
    [
        ["neck=spp", "data/sizes=multiscale"],
        ["head=flatten", "neck=sppf"],
        ["trainer.precision=bf16-mixed", "neck=focal"],
        ["data.size=[20,28]", "optimizer.lr=0.02", "epochs=4"],
    ],
    ids=str,
)
def test_predictions_are_those_of_the_runs_own_test(train_run: Train, options: list[str]) -> None:
    _, folder = train_run(*options)
    same_as_recorded(necklace.load(folder))


def test_predictions_at_native_sizes_are_those_of_the_runs_own_test(trained: Path) -> None:
    same_as_recorded(necklace.load(trained))


def same_as_recorded(loaded: LoadedRun) -> None:
    data, correct = recorded(loaded)
    test = data.splits["test"]
    images = [test.image(number) for number in range(len(test))]
    predicted = loaded.predict(images)
    assert predicted.shape == (len(test), len(loaded.classes))
    assert torch.allclose(predicted.sum(1), torch.ones(len(test)))
    assert np.array_equal((predicted.argmax(1) == test.labels).numpy(), correct)
    for batch in data.test_dataloader():
        expected = data.prepare(batch, augment=False).images
        for place, number in enumerate(batch.indices.tolist()):
            assert torch.equal(loaded.preprocess(images[number])[0], expected[place])


def test_several_labels_are_those_of_the_runs_own_test(tmp_path: Path) -> None:
    root = voc_folder(tmp_path / "voc")
    chosen = [*WITHOUT_DATA, f"outputs={tmp_path}", "data=voc", "task=multilabel", f"data.root={root}", "batch_size=4"]
    loaded = necklace.load(tmp_path / "runs" / run(spec_of(chosen)).name)
    data, correct = recorded(loaded)
    labels = data.splits["test"].labels
    files = [root / "JPEGImages" / f"{number:06}.jpg" for number in range(20, 24)]
    predicted = loaded.predict(files)
    right = ((predicted > 0.5) == (labels > 0)) | (labels < 0)
    assert np.array_equal(right.all(1).numpy(), correct)
    with torch.no_grad():
        one_by_one = torch.cat([loaded.model(loaded.preprocess(file)).sigmoid() for file in files])
    assert torch.allclose(predicted, one_by_one, atol=1e-6)
    shutil.rmtree(root)  # to load a run, its data need not be there
    assert necklace.load(loaded.folder).classes == ("round", "square")


def test_the_model_has_the_weights_of_the_record_and_evaluates(trained: Path) -> None:
    loaded = necklace.load(str(trained))
    assert weights_hash(loaded.model) == loaded.record.weights_hash
    assert not loaded.model.training
    assert loaded.classes[:2] == ("circle", "square")
    image = torch.randint(0, 256, (45, 30, 3), dtype=torch.uint8)
    with torch.no_grad():
        assert torch.allclose(loaded.predict(image)[0], loaded.model(loaded.preprocess(image))[0].softmax(0), atol=1e-6)


def test_every_kind_of_image_gives_the_same(trained: Path, tmp_path: Path) -> None:
    loaded = necklace.load(trained)
    pixels = np.random.default_rng(0).integers(0, 256, (37, 52, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    tensor = torch.from_numpy(pixels)
    kinds = [
        tmp_path / "a.png",
        str(tmp_path / "a.png"),
        Image.open(tmp_path / "a.png"),
        pixels,
        tensor,
        tensor.permute(2, 0, 1),
    ]
    expected = transforms.resize_image(tensor.permute(2, 0, 1), [36, 52], antialias=True).permute(1, 2, 0)
    for kind in kinds:
        inputs = loaded.preprocess(kind)
        assert inputs.shape == (1, 3, 36, 52)
        values = (inputs[0].permute(1, 2, 0) * 0.21 + 0.5) * 255
        assert torch.allclose(values, expected.float(), atol=1e-3)
    rows = loaded.predict(kinds)
    assert torch.allclose(rows, rows[:1].expand_as(rows), atol=1e-6)
    assert torch.allclose(loaded.predict(np.stack([pixels, pixels])), rows[:2], atol=1e-6)
    assert torch.allclose(loaded.predict(iter(kinds)), rows, atol=1e-6)
    assert loaded.predict([]).shape == (0, 10)
    with pytest.raises(ValueError, match="image=NoneType: must be a file"):
        loaded.predict(None)  # pyright: ignore[reportArgumentType]


def test_files_are_decoded_as_the_data_are(trained: Path, tmp_path: Path) -> None:
    loaded = necklace.load(trained)
    grey = Image.fromarray(np.random.default_rng(1).integers(0, 65536, (24, 48), dtype=np.uint16))
    grey.save(tmp_path / "grey.png")
    turned = Image.fromarray(np.random.default_rng(1).integers(0, 256, (24, 48, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    turned.save(tmp_path / "turned.png", exif=exif)
    for name, shape in (("grey", (24, 48)), ("turned", (48, 24))):
        from_file = loaded.preprocess(tmp_path / f"{name}.png")
        assert from_file.shape[2:] == shape
        assert torch.equal(from_file, loaded.preprocess(Image.open(tmp_path / f"{name}.png")))


def test_an_image_may_have_as_many_pixels_as_in_the_runs_data(trained: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(trained, tmp_path / "run")
    record = json.loads((folder / "record.json").read_text())
    pixels = np.zeros((20, 30, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "image.png")
    for limit in (600, 599):
        record["config"]["data"]["max_pixels"] = limit
        (folder / "record.json").write_text(json.dumps(record))
        loaded = necklace.load(folder)
        assert loaded.predict(pixels).isfinite().all()
        if limit == 600:
            assert torch.equal(loaded.predict(tmp_path / "image.png"), loaded.predict(pixels))
            assert torch.equal(loaded.preprocess(tmp_path / "image.png"), loaded.preprocess(pixels))
            assert predicted(loaded, [str(tmp_path / "image.png")]).problems == {}
            continue
        words = "an image of 600 pixels, more than data.max_pixels=599, the run's own limit; "
        for call in (loaded.predict, loaded.preprocess):
            with pytest.raises(ValueError, match=words):
                call(tmp_path / "image.png")
        (reason,) = predicted(loaded, [str(tmp_path / "image.png")]).problems.values()
        assert reason.startswith(words)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((4, 4, 3), np.float32), r"image=float32 \[4, 4, 3\]: pixels must be uint8"),
        (np.zeros((4, 4), np.uint8), r"image=uint8 \[4, 4\]"),
        (np.zeros((0, 4, 3), np.uint8), r"image=uint8 \[0, 4, 3\]"),
        (3, "image=int: must be a file"),
        ("nowhere.jpg", r"nowhere\.jpg: there is no such file"),
        (__file__, "not an image, or of another format"),
    ],
)
def test_what_is_no_image_is_named(trained: Path, image: Any, message: str) -> None:
    loaded = necklace.load(trained)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        loaded.preprocess(image)


def test_memory_is_bounded_where_every_image_has_a_shape_of_its_own(trained: Path) -> None:
    loaded = necklace.load(trained)
    small = LoadedRun(**{**vars(loaded), "record": replace(loaded.record, config=loaded.record.config | {"batch_size": 1})})
    images = [torch.randint(0, 256, (8 + 4 * (n % 5), 8 + 4 * (n % 3), 3), dtype=torch.uint8) for n in range(40)]
    assert torch.allclose(small.predict(images), loaded.predict(images), atol=1e-6)
    rows, problems = small.probabilities([images[0], "broken", images[1]])
    assert problems == {1: "broken"}
    assert torch.isnan(rows[1]).all()
    assert torch.allclose(rows[[0, 2]], loaded.predict(images[:2]), atol=1e-6)


def test_what_is_no_finished_run_is_named(trained: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"^nowhere: there is no such folder; a run's is outputs/STUDY/RUN$"):
        necklace.load("nowhere")
    with pytest.raises(FileNotFoundError, match=r"it has no record\.json"):
        necklace.load(tmp_path)
    copy = Path(shutil.copytree(trained, tmp_path / "copy"))
    record = read_record(copy / "record.json")
    write_record(replace(record, weights_hash="0" * 64), copy / "record.json")
    with pytest.raises(ValueError, match=r"best\.ckpt does not hold the weights of record\.json"):
        necklace.load(copy)


@pytest.mark.parametrize(
    "change",
    [{"neck": {}}, {"neck": 3}, {"head": {"_target_": "necklace.heads.Gap", "bins": 3}}, {"backbone": None}, {"data": {}},
     {"data": {"sizes": {"_target_": "necklace.data.sizes.Fixed", "size": 0}}}, {"task": {}}],
    ids=str,
)  # fmt: skip
def test_a_record_that_describes_no_model_is_one_sentence(trained: Path, tmp_path: Path, change: dict[str, Any]) -> None:
    (tmp_path / "checkpoints").symlink_to(trained / "checkpoints")
    content = asdict(read_record(trained / "record.json"))
    content["config"] |= change
    (tmp_path / "record.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"^[^\n]*record\.json: [^\n]*$"):
        necklace.load(tmp_path)


def test_another_models_checkpoint_is_one_sentence(trained: Path, train_run: Train) -> None:
    _, other = train_run("epochs=1")
    shutil.copy(trained / "checkpoints" / "best.ckpt", other / "checkpoints" / "best.ckpt")
    with pytest.raises(ValueError, match=r"^[^\n]*best\.ckpt does not hold the weights of record\.json$"):
        necklace.load(other)


def test_lightnings_own_way_points_here(trained: Path) -> None:
    with pytest.raises(TypeError, match=rf"necklace\.load\('{trained}'\)\.model$"):
        Classification.load_from_checkpoint(trained / "checkpoints" / "best.ckpt")
    with pytest.raises(TypeError, match=r"necklace\.load\('outputs/STUDY/RUN'\)\.model$"):
        Classification.load_from_checkpoint("best.ckpt", map_location="cpu")


def test_the_package_itself_is_imported_at_once() -> None:
    code = "import necklace, sys; necklace.load; print([n for n in ('torch', 'numpy', 'hydra') if n in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
