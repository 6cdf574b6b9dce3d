from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from necklace.data.contents import data_line, split_notes
from necklace.data.images import ImageSet, SplitName
from necklace.run.runner import run
from tests.conftest import SMALL, spec_of


def labelled(labels: torch.Tensor, name: str = "x") -> ImageSet:
    pixel = torch.zeros(1, 1, 3, dtype=torch.uint8)
    return ImageSet.build([pixel] * len(labels), labels, [f"{name}/{index}" for index in range(len(labels))])


def test_the_line_counts_images_classes_and_skipped_files() -> None:
    images: dict[SplitName, ImageSet] = {"train": labelled(torch.arange(4)), "val": labelled(torch.arange(2))}
    assert data_line(images, "abcd", []) == "train 4, val 2 images, no test split, 4 classes"
    images["test"] = labelled(torch.arange(1))
    skipped = [("x", "image file is truncated"), ("y", "the file is empty")]
    assert data_line(images, ["a"], skipped) == "train 4, val 2, test 1 images, 1 class; 2 files skipped (1 empty, 1 truncated)"


def test_a_class_is_absent_where_no_image_shows_it() -> None:
    several = torch.tensor([[1, 0, -1], [1, 0, 0]], dtype=torch.int8)
    assert split_notes({"test": labelled(several)}, ["cat", "dog", "emu"], {}) == ["test: no image of classes dog, emu"]
    names = [f"class{index}" for index in range(9)]
    assert split_notes({"val": labelled(torch.tensor([0, 8]))}, names, {}) == [
        "val: no image of classes class1, class2, class3, class4, class5 and 2 more"
    ]


def test_classes_that_differ_in_case_are_named() -> None:
    images: dict[SplitName, ImageSet] = {"train": labelled(torch.arange(5))}
    found = split_notes(images, ["Cat", "cat", "CAT", "dog", "odd\udcff"], {})
    assert found == ["classes Cat and cat and CAT differ only in case"]


def test_a_run_says_what_entered_it_and_its_record_keeps_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for index in range(24):
        folder = tmp_path / "images" / ("train", "train", "test")[index % 3] / ("[cat]", "dog")[index % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(index).integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(folder / f"{index}.png")
    (tmp_path / "images/test/dog/x.png").write_bytes(b"")
    (tmp_path / "images/test/dog/y.png").write_bytes((tmp_path / "images/train/[cat]/0.png").read_bytes())
    options = [f"data.root={tmp_path / 'images'}", "data=folder", "data.on_corrupt=skip", "data.size=8", "batch_size=8"]
    small = [text for text in SMALL if "source" not in text and "size" not in text]
    record = run(spec_of([*small, *options, "epochs=1", f"outputs={tmp_path}"]))
    said = capsys.readouterr().out.splitlines()
    line = said.index("train 14, val 2, test 9 images, 2 classes; 1 file skipped (1 empty)")
    notes = [
        "test: 1 file skipped (1 empty)",
        "1 test image is also in train, 1 of them with another label (first: test/dog/y.png = train/[cat]/0.png)",
    ]
    assert said[line + 1 : line + 3] == [f"note: {note}" for note in notes]
    assert record.data["notes"] == notes
    assert record.data["skipped"] == [["test/dog/x.png", "the file is empty"]]
