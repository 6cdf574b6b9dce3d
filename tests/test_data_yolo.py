from pathlib import Path
from typing import Any

import pytest

from necklace.boxes.truth import COUNTS
from necklace.data.yolo import Yolo
from necklace.data.yolo_yaml import read_yaml
from tests.boxed import boxed_train, boxes_of
from tests.test_data_voc import encoded, write

YAML = "train: images/train\nval: images/val\nnames: [cat, dog]\nnc: 2\n"
GOOD = "1 0.5 0.5 0.2 0.4\n"  # of 30x20: x 12 to 18, y 6 to 14


def layout(root: Path, yaml: str | bytes = YAML, label: str | bytes | None = GOOD, **files: Any) -> Path:
    """Images a and b in train, c in val; `label` is that of a."""
    found: dict[str, Any] = {f"images/{place}.jpg": encoded(seed=n) for n, place in enumerate(("train/a", "train/b", "val/c"))}
    found |= {f"labels/{place}.txt": GOOD for place in ("train/b", "val/c")}
    found |= {} if label is None else {"labels/train/a.txt": label}
    return write(root, {**found, "data.yaml": yaml, **files})


def test_labels_are_boxes_in_whole_pixels(tmp_path: Path) -> None:
    train, source = boxed_train(Yolo, layout(tmp_path, label="0 0.016667 0.025 0.033333 0.05\n\n1 0.5 0.5 1 1\n"))
    assert source.classes == ("cat", "dog")
    assert train.names == ("a.jpg", "b.jpg")
    assert boxes_of(train, 0) == [([0, 0, 1, 1], 0, COUNTS), ([0, 0, 30, 20], 1, COUNTS)]
    assert boxes_of(train, 1) == [([12, 6, 18, 14], 1, COUNTS)]
    assert (source.split("test"), source.notes) == (None, ())
    assert boxes_of(boxed_train(Yolo, layout(tmp_path / "x", label=""))[0], 0) == []


BAD = {
    "a polygon": ("1 0.1 0.1 0.2 0.1 0.2 0.3\n", "line 1: a line of 7 values, a polygon or a rotated box: boxes have 5"),
    "a rotated box": ("1 0.1 0.1 0.2 0.1 0.2 0.3 0.1 0.3\n", "a line of 9 values, a polygon or a rotated box"),
    "a prediction": (f"{GOOD}1 0.1 0.1 0.2 0.1 0.9\n", "line 2: a line of 6 values, a box with a score"),
    "four values": ("0.5 0.5 0.1 0.1\n", "a line of 4 values: boxes have 5"),
    "in pixels": ("1 15 10 6 8\n", r"a value outside \[0, 1\]: 15"),
    "above 1": ("1 0.5 0.5 1.2 0.5\n", r"a value outside \[0, 1\]: 1\.2"),
    "negative": ("1 -0.1 0.5 0.2 0.5\n", r"a value outside \[0, 1\]: -0\.1"),
    "NaN": ("1 nan 0.5 0.2 0.5\n", "a value that is no finite number"),
    "infinite": ("1 inf 0.5 0.2 0.5\n", "a value that is no finite number"),
    "a word": ("cat 0.5 0.5 0.2 0.5\n", "a value that is no number: 'cat 0.5"),
    "commas": ("1,0.5,0.5,0.2,0.5\n", "a line of 1 values"),
    "an unknown class": ("2 0.5 0.5 0.2 0.5\n", r"a class that data\.yaml does not have: 2 .there are 2, from 0"),
    "a negative class": ("-1 0.5 0.5 0.2 0.5\n", "a class that data.yaml does not have: -1"),
    "half a class": ("0.5 0.5 0.5 0.2 0.5\n", "a class that data.yaml does not have: 0.5"),
    "not text": (b"\xff\xd8\xff\xe0", "not text"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_line_that_is_no_box_stops_the_run_or_leaves_out_its_image(tmp_path: Path, case: str) -> None:
    label, reason = BAD[case]
    root = layout(tmp_path, label=label)
    with pytest.raises(ValueError, match=rf"{root}/labels/train/a\.txt: .*{reason}"):
        Yolo(root, boxes=True)
    train, source = boxed_train(Yolo, root, on_corrupt="skip")
    assert train.names == ("b.jpg",)
    assert [path for path, _ in source.skipped] == ["labels/train/a.txt"]


def test_boxes_without_area_are_left_out_and_those_beyond_the_border_clipped(tmp_path: Path) -> None:
    train, source = boxed_train(
        Yolo, layout(tmp_path, label=f"{GOOD}0 0.5 0.5 0 0.5\n0 0.98 0.5 0.2 0.5\n0 1.000001 0.5 0.1 0.1\n")
    )
    assert [box for box, *_ in boxes_of(train, 0)] == [
        [pytest.approx(26.4), 5, 30, 15],
        [12, 6, 18, 14],
        [pytest.approx(28.5, abs=1e-4), 9, 30, 11],
    ]
    assert source.notes == (
        "train: boxes without area, left out: 1 (first: in a.jpg)",
        "train: boxes that reach out of their image by more than 1 pixel, clipped: 2 (first: in a.jpg)",
    )


def test_an_image_without_label_file(tmp_path: Path) -> None:
    root = layout(tmp_path, label=None)
    with pytest.raises(
        ValueError, match=r"labels/train/a\.txt: the image exists, but this file does not .data\.background=allow"
    ):
        Yolo(root)
    train, source = boxed_train(Yolo, root, background="allow")
    assert boxes_of(train, 0) == []
    assert source.notes == ("train images without label file, taken as showing nothing: 1 (first: images/train/a.jpg)",)
    with pytest.raises(ValueError, match=r"data\.background=yes: must be stop or allow"):
        Yolo(root, background="yes")  # pyright: ignore[reportArgumentType]


def test_a_split_that_shows_nothing(tmp_path: Path) -> None:
    root = layout(tmp_path, label="", **{"labels/train/b.txt": ""})
    with pytest.raises(ValueError, match="no image of the train split shows an object that counts"):
        Yolo(root)


PLACES = {
    "Roboflow": ("train: ../train/images\nval: ../valid/images\nnames: ['cat', 'dog']", "train/images", "valid/images"),
    "absolute elsewhere": (
        "path: /content/x\ntrain: images/train\nval: images/val\nnames: {0: cat, 1: dog}",
        "images/train",
        "images/val",
    ),
    "a path": ("path: ./deep\ntrain: t\nvalid: v/\nnames: [cat, dog]", "deep/t", "deep/v"),
    "several folders": ("train: [images/one, images/two]\nval: images/val\nnames: [cat, dog]", "images/one", "images/val"),
    "Windows": ("train: images\\train\nval: images\\val\nnames: [cat, dog]", "images/train", "images/val"),
    "a list": ("train: train.txt\nval: images/val\nnames: [cat, dog]", "images/train", "images/val"),
}


@pytest.mark.parametrize("case", PLACES)
def test_layouts(tmp_path: Path, case: str) -> None:
    yaml, first, second = PLACES[case]
    files: dict[str, Any] = {"data.yaml": yaml, f"{first}/a.jpg": encoded(seed=1), f"{second}/c.jpg": encoded(seed=2)}
    files |= {f"{folder.replace('images', 'labels')}/{name}.txt": GOOD for folder, name in ((first, "a"), (second, "c"))}
    if case == "several folders":
        files |= {"images/two/b.jpg": encoded(seed=3), "labels/two/b.txt": GOOD}
    if case == "a list":
        files |= {"train.txt": "./images/train/a.jpg\n", "images/train/x.jpg": encoded(seed=4)}
    source = Yolo(write(tmp_path, files), boxes=True)
    train, val = source.split("train"), source.split("val")
    assert train is not None
    assert val is not None
    assert (len(train), len(val)) == (2 if case == "several folders" else 1, 1)
    assert len(boxes_of(train, 0)) == 1
    notes = {"absolute elsewhere": "path in data.yaml is no folder in data.root, which stands for it: /content/x"}
    notes["a list"] = "images without annotation, not used: 1 (first: images/train/x.jpg)"
    assert source.notes == ((notes[case],) if case in notes else ())


@pytest.mark.parametrize(
    ("yaml", "reason"),
    [
        ("", "must be a mapping"),
        ("[1, 2]", "must be a mapping"),
        ("train: [", "malformed YAML"),
        (b"\xff\xfe\xff", "malformed YAML"),
        (YAML + "path: !!python/object/apply:os.system ['true']\n", "malformed YAML: .*could not determine a constructor"),
        ("a: &a [1]\nb: *a\n" + YAML, "malformed YAML: an alias"),
        ("[" * 500, "malformed YAML"),
        (YAML + "names: [x, y]\n", "malformed YAML: a key that is there twice"),
        (YAML.replace("nc: 2", "nc: 3"), "nc=3, but there are 2 names"),
        (YAML.replace("[cat, dog]", "[cat, cat]").replace("nc: 2", ""), "names: 'cat' is there twice"),
        (YAML.replace("[cat, dog]", "[cat, '']"), "names: one is empty"),
        (YAML.replace("[cat, dog]", "[cat, no]"), "names: each must be text"),
        (YAML.replace("[cat, dog]", "{0: cat, 2: dog}"), "names: must be numbered from 0 to 1"),
        (YAML.replace("[cat, dog]", "cat"), "no names"),
        (YAML.replace("names: [cat, dog]", ""), "no names"),
        (YAML.replace("train: images/train", ""), "no train"),
        (YAML.replace("images/train", "{a: b}"), "must be a folder or a list of images"),
        (YAML + "valid: images/val\n", "val and valid are both for validation"),
        (YAML + "path: 3\n", "path='3': must be text"),
        (YAML.replace("images/val", "images/train"), "train and val are the same images"),
        (YAML.replace("images/train", "images/nowhere"), "train: images/nowhere: no such folder or list"),
        (YAML.replace("images/train", "../secret"), "train: ../secret: a path that leads out of data.root"),
        (YAML.replace("images/train", "empty"), "no image in train: empty"),
    ],
)
def test_a_data_yaml_that_is_not_clear_stops_the_run(tmp_path: Path, yaml: str | bytes, reason: str) -> None:
    write(tmp_path, {"secret/a.jpg": encoded(), "root/empty/readme.md": ""})
    root = layout(tmp_path / "root", yaml)
    for on_corrupt in ("stop", "skip"):
        with pytest.raises((ValueError, FileNotFoundError), match=reason) as caught:
            Yolo(root, on_corrupt=on_corrupt)
        assert "data.yaml" in str(caught.value)


def test_names_of_a_data_yaml_may_be_numbers(tmp_path: Path) -> None:
    (tmp_path / "data.yaml").write_text("train: x\nnames: [1, 2.5, '0x']\n")
    assert read_yaml(tmp_path / "data.yaml").names == ("1", "2.5", "0x")


def test_links_and_lists_stay_inside_the_root(tmp_path: Path) -> None:
    (tmp_path / "secret.jpg").write_bytes(encoded())
    (tmp_path / "secret.txt").write_text(GOOD)
    root = layout(tmp_path / "root", **{"train.txt": f"{tmp_path}/secret.jpg\nimages/train/a.jpg\nimages/train/missing.jpg\n"})
    (root / "data.yaml").write_text(YAML.replace("images/train", "train.txt"))
    with pytest.raises(ValueError, match=r"2 files cannot be used: .*1 linked from outside data\.root"):
        Yolo(root)
    train, source = boxed_train(Yolo, root, on_corrupt="skip")
    assert train.names == ("a.jpg",)
    assert len(source.skipped) == 2
    train, source = boxed_train(Yolo, root, on_corrupt="skip", links="follow")
    assert train.names == ("a.jpg", "secret.jpg")
    (root / "data.yaml").write_text(YAML)
    (root / "labels/train/a.txt").unlink()
    (root / "labels/train/a.txt").symlink_to(tmp_path / "secret.txt")
    train, source = boxed_train(Yolo, root, on_corrupt="skip")
    assert [path for path, _ in source.skipped] == ["labels/train/a.txt"]


def test_what_is_there_and_not_used_is_said(tmp_path: Path) -> None:
    root = layout(tmp_path, **{"labels/train/x.txt": GOOD, "labels/train/classes.txt": "cat"})
    assert Yolo(root).notes == ("label files without image, not used: 1 (first: labels/train/x.txt)",)
    (root / "data.yaml").rename(root / "other.yaml")
    assert Yolo(root).classes == ("cat", "dog")
    (root / "more.yml").write_text("")
    with pytest.raises(ValueError, match=r"more\.yml, other\.yaml: call the right one data\.yaml"):
        Yolo(root)
    (root / "more.yml").unlink()
    (root / "other.yaml").unlink()
    with pytest.raises(FileNotFoundError, match=r"data\.yaml: no such file; it names the classes"):
        Yolo(root)
