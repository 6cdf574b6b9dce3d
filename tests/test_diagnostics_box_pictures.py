"""Pictures of a small detection run: of its record's numbers, over images that the data chooses."""

import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from necklace.boxes import COUNTS, ImageBoxes
from necklace.boxes.errors import KINDS
from necklace.diagnostics.box_pictures import LEAST, SHOWN, _chosen, _shown
from necklace.diagnostics.pictures import draw_run
from necklace.inference.trained_run import open_run
from necklace.record import read_record
from necklace.run.runner import run
from necklace.study.excerpts import read_pictures, read_thumbnails
from tests.conftest import spec_of
from tests.detection_data import boxes_folder, on_folder

NAMES = ["receptive_field", "gates", "detections", "precision_recall", "errors", "sizes"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was asked for its pictures; not to be changed."""
    root = tmp_path_factory.mktemp("boxes")
    chosen = [*on_folder(boxes_folder(root / "voc"), root), "neck=focal", "epochs=6"]
    record = run(spec_of([*chosen, "callbacks.pictures=true", "data.eval_sizes=[32]"]))
    return root / "runs" / record.name


@pytest.fixture(scope="module")
def numbers(trained: Path) -> dict[str, Any]:
    return json.loads((trained / "pictures" / "pictures.json").read_text())


def test_the_files(trained: Path, numbers: dict[str, Any]) -> None:
    assert numbers["pictures"] == [f"{name}.png" for name in NAMES]
    assert numbers["notes"] == []
    files = {path.name for path in (trained / "pictures").iterdir()}
    assert files == {*numbers["pictures"], "pictures.json", "images"}
    for name in NAMES:
        with Image.open(trained / "pictures" / f"{name}.png") as picture:
            assert picture.width == 920
    assert [path.name for path in sorted((trained / "pictures" / "images").iterdir())] == [f"{k}.png" for k in range(SHOWN)]
    assert list(read_thumbnails(trained)) == NAMES[:-1]
    assert read_pictures(trained).keys() == {"receptive_field", "contributions"}


def test_the_numbers_are_those_of_the_record(trained: Path, numbers: dict[str, Any]) -> None:
    record, boxes = read_record(trained / "record.json"), numbers["boxes"]
    assert boxes["split"] == "test"
    assert boxes["map50"] == pytest.approx(record.metrics["test/box_map50"], abs=1e-6)
    assert 0 < boxes["map50"] < 1
    assert list(boxes["errors"]) == list(KINDS)
    assert all(each["gain"] >= 0 for each in boxes["errors"].values())
    assert sum(each["count"] for each in boxes["errors"].values()) > 0
    assert numbers["by_size"] == {"metric": "test/box_map", "sides": [32], "values": [record.metrics["test/box_map@32"]]}
    # The receptive field is that of the map on which the neck stands.
    field = numbers["receptive_field"]
    assert field["theoretical"] == 25
    assert 0 < 2 * field["backbone"]["after"]["radius"] <= 25
    assert field["backbone+neck"]["after"]["extent"] > 25


def test_images_and_boxes_are_those_of_the_split(trained: Path, numbers: dict[str, Any]) -> None:
    test = open_run(trained).data.splits["test"]
    assert test.boxes is not None
    having = [index for index in range(len(test)) if (test.boxes.of(index)[2] == COUNTS).any()]
    assert [each["name"] for each in numbers["boxes"]["images"]] == [
        test.names[having[k * len(having) // SHOWN]] for k in range(SHOWN)
    ]
    for each in numbers["boxes"]["images"]:
        index = test.names.index(each["name"])
        with Image.open(trained / "pictures" / each["file"]) as image:
            np.testing.assert_array_equal(np.asarray(image), test.image(index).numpy())
        boxes, classes, flags = test.boxes.of(index)
        expected = torch.cat([boxes, classes[:, None], flags[:, None]], 1)
        np.testing.assert_array_equal(each["true"], expected.numpy())
        assert all(score >= LEAST for *_, score in each["found"])
    assert any(each["found"] for each in numbers["boxes"]["images"])


def test_inspect_draws_the_same_again_and_removes_what_is_old(trained: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(trained, tmp_path / trained.name))
    (copy / "pictures" / "images" / "9.png").write_bytes(b"old")
    said = draw_run(copy)
    for path in (trained / "pictures").rglob("*.*"):
        assert (copy / "pictures" / path.relative_to(trained / "pictures")).read_bytes() == path.read_bytes()
    assert not (copy / "pictures" / "images" / "9.png").exists()
    assert any(line.startswith("points of test mAP50 if one kind of error were fixed: classification ") for line in said)


def test_a_large_image_is_made_smaller_with_its_boxes(trained: Path) -> None:
    split = open_run(trained).data.splits["test"]
    height, width = split.shapes[0].tolist()
    box, none = np.array([[0, 0, 1300, 700]], np.float32), np.empty(0)
    large = ImageBoxes(
        0, 700, 1300, box, np.array([1]), np.array([0], np.uint8), box, np.array([0.5], np.float32), np.array([0])
    )
    shown = _shown(split, large)
    assert shown.pixels.shape == (345, 640, 3)
    np.testing.assert_allclose(shown.true_boxes, [[0, 0, 640, 345]])
    np.testing.assert_allclose(shown.boxes, [[0, 0, 640, 345]])
    empty = ImageBoxes(1, height, width, box[:0], none.astype(int), none.astype(np.uint8), box, large.scores, large.classes)
    assert _chosen([empty, large, empty]) == [large]  # fewer than there is room for, and only such with objects


def test_thumbnails_are_small(trained: Path) -> None:
    for content in read_thumbnails(trained).values():
        assert Image.open(io.BytesIO(content)).width == 440
        assert len(content) < 150_000
