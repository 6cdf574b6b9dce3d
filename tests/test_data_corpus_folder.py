"""Odd data sets as people have them: each gives the expected images, or the expected sentence; none is ignored.

A case is a tree: `train/cat:3` are three images, and `files` are further ones. What comes out is compared as a whole: the line
that a run starts with and all its notes, or the whole error.
"""

import hashlib
import io
import pickle
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from torchvision.datasets import CIFAR10, CIFAR100

from necklace.data.cifar import Cifar
from necklace.data.contents import data_line
from necklace.data.folder import Folder
from necklace.data.splits import read_splits


def image(seed: int, kind: str = "PNG", side: int = 4) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)).save(buffer, kind)
    return buffer.getvalue()


HEIC = b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00mif1heic" + bytes(64)
CUT = image(1, "JPEG", 64)[:1000]
HALF = "train/cat:4 train/dog:4 val/cat:1 val/dog:1"
WHOLE = f"{HALF} test/cat:1 test/dog:1"
LINE = "train 8, val 2, test 2 images, 2 classes"


@dataclass(frozen=True)
class Case:
    """A data set and what it gives.

    Attributes:
        name: What is odd about it.
        tree: Folders with their numbers of images.
        gives: The line at the start of a run; or the error, if it has `ROOT` in it.
        notes: The notes.
        files: Further files.
        links: Link to its target, both relative to the root.
        empty: Further folders.
        options: Of `Folder` and, for `duplicates`, of `read_splits`.
    """

    name: str
    tree: str
    gives: str
    notes: tuple[str, ...] = ()
    files: dict[str, bytes] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)
    empty: tuple[str, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)


SKIP: dict[str, Any] = {"on_corrupt": "skip"}
EXPECTED = "images are expected in train/CLASS/, with val/CLASS/ and test/CLASS/ beside it, or in CLASS/ alone"
STOPS = "(data.on_corrupt=skip leaves such files out)"
READ = "JPEG, PNG, BMP, WEBP, GIF, TIFF, PPM, AVIF, JPEG2000"
NOT_READ = f"which is not read here (read are {READ}): convert it"
RENAME = (
    "which no split is called: rename it to train, val or test (valid, validation, dev and the like count as well), move it "
    "out of this folder, or, if it is a class, into train/"
)
RULE = "without train/, of each class a share was split off by rule: test 4 images (data.test_fraction=0.2), then val 2"
FLAT = RULE + " (data.val_fraction=0.1)"


def split_names() -> list[Case]:
    """Every common name of a split, in any case, is that split."""
    names = {
        "train": ["Train", "TRAIN", "training", "Training_Set", "train-images", "trainset", "TrainData"],
        "val": ["valid", "Valid", "validation", "VAL", "dev", "eval", "Validation Set", "valset"],
        "test": ["Test", "TEST", "testing", "Testing", "test_set", "test-data"],
    }
    return [
        Case(f"{name}/ is {split}", re.sub(rf"\b{split}/", f"{name}/".replace(" ", "~"), WHOLE), LINE)
        for split, some in names.items()
        for name in some
    ]


LAYOUTS = [
    Case("all three splits", WHOLE, LINE),
    Case("no test", HALF, "train 8, val 2 images, no test split, 2 classes"),
    Case("train alone", "train/cat:10 train/dog:10", "train 18, val 2 images, no test split, 2 classes"),
    Case("val and valid", f"{WHOLE} valid/cat:1", "data.root=ROOT: val/ and valid/ are both its val split: keep one of them"),
    Case("Test and test", f"{WHOLE} Test/cat:1", "data.root=ROOT: Test/ and test/ are both its test split: keep one of them"),
    *(
        Case(f"{name}/ beside train", f"{WHOLE} {name}/cat:1", f"data.root=ROOT: images in {name}/ beside train/, {RENAME}")
        for name in ("train2", "extra", "unlabeled", "old_val", "holdout", "cat")
    ),
    Case("unlabelled images beside train", f"{WHOLE} new:3", f"data.root=ROOT: images in new/ beside train/, {RENAME}"),
    Case("several beside train", f"{WHOLE} a/x:1 b:1", f"data.root=ROOT: images in a/, b/ beside train/, {RENAME}"),
    Case("an unknown folder without images", WHOLE, LINE, files={"scripts/a.py": b"x", "labels/all.csv": b"x"}),
    Case("HEIC only beside train", HALF, f"data.root=ROOT: images in raw/ beside train/, {RENAME}", files={"raw/a.HEIC": HEIC}),
    Case(
        "val as an archive",
        "train/cat:4 train/dog:4",
        "data.root=ROOT: val.tar.gz is not unpacked: unpack it, or move it out of this folder",
        files={"val.tar.gz": b"x"},
    ),
    Case("archive of a split that is there", WHOLE, LINE, files={"val.zip": b"x", "train.zip": b"x"}),
    Case("val is a broken link", "train/cat:4 train/dog:4", "data.root=ROOT: val is a broken link", links={"val": "nowhere"}),
    Case(
        "no train",
        "valid/cat:2 valid/dog:2 test/cat:1",
        f"data.root=ROOT has no folder train/ beside test/ and valid/ ({EXPECTED}; a class folder named like a split goes into "
        "train/)",
    ),
    Case(
        "one folder too high",
        "pets/train/cat:2 pets/train/dog:2",
        "data.root=ROOT has no folder train/, but pets/ has one: data.root=ROOT/pets",
    ),
    Case("nothing at all", "", f"data.root=ROOT has no folder train/, and no class folders with images either ({EXPECTED})"),
    Case("images alone", ":3", f"data.root=ROOT has no folder train/, and 3 images and no class folders ({EXPECTED})"),
    Case("flat", "cat:10 dog:10", "train 14, val 2, test 4 images, 2 classes", (FLAT,)),
    Case(
        "flat with other shares",
        "cat:10 dog:10",
        "train 8, val 2, test 10 images, 2 classes",
        (
            "without train/, of each class a share was split off by rule: test 10 images (data.test_fraction=0.5), then val 2 "
            "(data.val_fraction=0.2)",
        ),
        options={"test_fraction": 0.5, "val_fraction": 0.2},
    ),
    Case(
        "flat with a class of one image",
        "ant:1 cat:10 dog:10",
        "train 15, val 2, test 4 images, 3 classes",
        (FLAT, "val: no image of class ant", "test: no image of class ant"),
    ),
    Case("flat, too few", "cat:1 dog:1", "ROOT: its 2 images are too few to split off val and test"),
    Case("flat with an empty class", "cat:10 dog:10", "ROOT/emu: a class folder without images", empty=("emu",)),
    Case(
        "one class folder",
        "cat:9",
        "data.root=ROOT has no folder train/, and only one folder with images, cat/: two classes are the least "
        f"({EXPECTED}; if its folders are the classes: data.root=ROOT/cat)",
    ),
    Case(
        "folders that look like splits",
        "seg_train/cat:4 seg_test/cat:4",
        f"data.root=ROOT: seg_test/, seg_train/ look like splits: name them train, val and test ({EXPECTED})",
    ),
    Case("classes that sound like splits", "bullet_train:10 bus:10", "train 14, val 2, test 4 images, 2 classes", (FLAT,)),
    Case(
        "a flat class called test",
        "cat:4 dog:4 test:4",
        f"data.root=ROOT has no folder train/ beside test/ ({EXPECTED}; a class folder named like a split goes into train/)",
    ),
    Case("flat with a loose image", "cat:10 dog:10 :1", f"ROOT/0020.png: an image outside the class folders {STOPS}"),
    Case("a loose image", f"{WHOLE} :1", f"{LINE}; 1 file skipped (1 image outside the split folders)", options=SKIP),
    Case(
        "images without classes",
        "train:5",
        "ROOT/train: 5 images and no class folders, so their labels are not known (expected: train/CLASS/)",
    ),
    Case(
        "a test split without labels",
        f"{HALF} test:3",
        "ROOT/test: 3 images and no class folders, so their labels are not known (expected: test/CLASS/)",
    ),
    Case(
        "an export with several labels",
        "train:3 valid:1",
        "ROOT/train: 3 images and no class folders: _classes.csv is an export with several labels an image, which is not read; "
        "export it as folders",
        files={"train/_classes.csv": b"filename, cat, dog\n"},
    ),
    Case(
        "images with XML",
        "train:2",
        "ROOT/train: 2 images and no class folders, but annotations in XML: data=voc task=multilabel or "
        "task=detection reads such",
        files={"train/0000.xml": b"<annotation/>", "train/0001.xml": b"<annotation/>"},
    ),
    Case(
        "COCO in a split",
        "train:2 valid:1",
        "ROOT/train: 2 images and no class folders, but annotations in COCO's format: data=coco task=detection reads such",
        files={"train/_annotations.coco.json": b"{}"},
    ),
    Case(
        "YOLO in splits",
        "train/images:2 valid/images:1",
        "ROOT/train has images/ and labels/, the layout of YOLO: data=yolo task=detection reads it",
        files={"train/labels/0000.txt": b"0 0.5 0.5 1 1"},
    ),
    Case(
        "YOLO",
        "images/train:2 images/val:1",
        "data.root=ROOT has images/ and labels/, the layout of YOLO: data=yolo task=detection reads it",
        files={"labels/train/0000.txt": b"0 0.5 0.5 1 1"},
    ),
    Case(
        "Pascal VOC",
        "JPEGImages:3",
        "data.root=ROOT has Annotations/ and JPEGImages/, the layout of Pascal VOC: data=voc task=multilabel or task=detection "
        "reads it",
        files={"Annotations/0000.xml": b"<annotation/>", "ImageSets/Main/train.txt": b"0000"},
    ),
    Case(
        "train/images/CLASS",
        "train/images/cat:2 train/images/dog:2",
        "ROOT/train: images/ is its only class folder and holds no image but folders (cat, dog): if these are the classes, "
        "move them up into train/",
    ),
    Case(
        "images in folders of a class",
        "train/cat/a:2 train/cat/b/c:2 train/dog:4 val/cat:1 val/dog:1",
        "train 8, val 2 images, no test split, 2 classes",
    ),
    Case(
        "Roboflow's classification export",
        WHOLE.replace("val", "valid"),
        LINE,
        files={"README.dataset.txt": b"x", "README.roboflow.txt": b"x", "data.yaml": b"x"},
    ),
    Case(
        "texts beside classes",
        WHOLE,
        LINE,
        files={f"train/{name}": b"x" for name in ("README.txt", "_classes.csv", "notes.md", "labels.json", "LICENSE")},
    ),
]

CLASSES = [
    Case(
        "an empty class in test",
        f"{HALF} test/cat:1",
        "train 8, val 2, test 1 images, 2 classes",
        ("test: no image of class dog",),
        empty=("test/dog",),
    ),
    Case(
        "a class absent from val",
        "train/cat:4 train/dog:4 val/cat:1 test/cat:1 test/dog:1",
        "train 8, val 1, test 2 images, 2 classes",
        ("val: no image of class dog",),
    ),
    Case("an empty class in train", WHOLE, "ROOT/train/emu: a class folder without images", empty=("train/emu",)),
    Case(
        "a class of texts in train",
        WHOLE,
        "ROOT/train/emu: a class folder without images (1 other file)",
        files={"train/emu/a.txt": b"x"},
        options=SKIP,
    ),
    Case("test of empty classes", HALF, "ROOT/test: no images in its class folders", empty=("test/cat", "test/dog")),
    Case("a class that train lacks", f"{WHOLE} test/emu:1", "ROOT/test/emu: a class that ROOT/train does not have"),
    Case(
        "a class in other letters",
        f"{HALF} test/Cat:1",
        "ROOT/test/Cat: a class that ROOT/train does not have, but cat: class names differ in upper and lower case too",
    ),
    Case(
        "classes that differ in case",
        "train/cat:9 train/Cat:9 train/dog:9",
        "train 24, val 3 images, no test split, 3 classes",
        ("classes Cat and cat differ only in case",),
    ),
    Case("names of any script", "train/猫:4 train/犬:4 val/猫:1 val/犬:1", "train 8, val 2 images, no test split, 2 classes"),
]

LITTER = [
    Case(f"litter: {name}", WHOLE, LINE, files={name: image(5)})
    for name in (
        "train/cat/@eaDir/a.png",
        "@eaDir/train/a.png",
        "train/.ipynb_checkpoints/a.png",
        "train/cat/.ipynb_checkpoints/a-checkpoint.png",
        "train/cat/._0000.png",
        "train/cat/Thumbs.db",
        "train/cat/desktop.ini",
        "__MACOSX/train/cat/._a.png",
        "train/dog/.DS_Store",
        "#recycle/cat/a.png",
        "$RECYCLE.BIN/a.png",
        "lost+found/a.png",
        "System Volume Information/a.png",
    )
]

LINKS = [
    Case("a linked class", HALF, "ROOT/train/emu: a link that leads out of data.root (data.links=follow follows it)",
         links={"train/emu": "../beside/birds"}),
    Case("a linked class, followed", HALF, "train 11, val 2 images, no test split, 3 classes", ("val: no image of class emu",),
         links={"train/emu": "../beside/birds"}, options={"links": "follow"}),
    Case("a linked split", HALF, "ROOT/test: a link that leads out of data.root (data.links=follow follows it)",
         links={"test": "../beside/split"}),
    Case("a linked split, followed", HALF, LINE, links={"test": "../beside/split"}, options={"links": "follow"}),
    Case("a linked image", HALF, "ROOT/train/cat/x.png: a link that leads out of data.root (data.links=follow follows it) "
         + STOPS, links={"train/cat/x.png": "../beside/birds/0.png"}),
    Case("a linked image, followed", HALF, "train 9, val 2 images, no test split, 2 classes",
         links={"train/cat/x.png": "../beside/birds/0.png"}, options={"links": "follow"}),
    Case("a loop of links", HALF, f"ROOT/train/cat/again: a link to a folder that contains it {STOPS}",
         links={"train/cat/again": "train/cat"}, options={"links": "follow"}),
    Case("a linked folder beside train", HALF, f"data.root=ROOT: images in more/ beside train/, {RENAME}",
         links={"more": "../beside/split"}),
    Case("a class that is a broken link", HALF, f"ROOT/train/emu: a broken link {STOPS}", links={"train/emu": "nowhere"}),
    Case("an unknown way with links", HALF, "data.links=all: must be inside (links within data.root only) or follow",
         options={"links": "all"}),
]  # fmt: skip

FILES = [
    Case("PNG called .jpg", WHOLE, LINE.replace("8", "9"), files={"train/cat/a.jpg": image(90)}),
    Case("AVIF", WHOLE, LINE.replace("8", "9"), files={"train/cat/a.avif": image(91, "AVIF")}),
    Case("JPEG 2000", WHOLE, LINE.replace("8", "9"), files={"train/cat/a.jp2": image(92, "JPEG2000")}),
    Case("AVIF called .jpg", WHOLE, LINE.replace("8", "9"), files={"train/cat/a.jpg": image(93, "AVIF")}),
    Case("WebP called .png", WHOLE, LINE.replace("8", "9"), files={"train/cat/a.png": image(94, "WEBP")}),
    Case("HEIC", WHOLE, f"ROOT/train/cat/a.heic: a HEIC image, {NOT_READ} {STOPS}", files={"train/cat/a.heic": HEIC}),
    Case("HEIC called .jpg", WHOLE, f"ROOT/train/cat/a.jpg: a HEIC image, {NOT_READ} {STOPS}", files={"train/cat/a.jpg": HEIC}),
    Case("a web page called .jpg", WHOLE, f"ROOT/train/cat/a.jpg: not an image but a web page {STOPS}",
         files={"train/cat/a.jpg": b"<!DOCTYPE html><html>403"}),
    Case("JPEG without extension", WHOLE, "ROOT/train/cat/a: not an image by its extension, but a JPEG image by its content: "
         f"give it that extension {STOPS}", files={"train/cat/a": image(95, "JPEG")}),
    Case("one truncated, one text", WHOLE, "train 8, val 2, test 2 images, 2 classes; 2 files skipped (1 not an image by its "
         "extension, 1 truncated)", files={"train/cat/a.jpg": CUT, "train/cat/a.txt": b"x"}, options=SKIP),
    Case("a skipped test image", WHOLE, f"{LINE}; 1 file skipped (1 truncated)", ("test: 1 file skipped (1 truncated)",),
         files={"test/cat/a.jpg": CUT}, options=SKIP),
    Case(
        "all problems at once",
        WHOLE,
        "ROOT: 13 files cannot be used: 11 not an image by its extension, 1 not an image by its content, 1 truncated "
        f"{STOPS}\n"
        + "".join(f"  train/cat/{number:02}.txt: not an image by its extension\n" for number in range(10))
        + "  and 3 more",
        files={f"train/cat/{number:02}.txt": b"x" for number in range(11)} | {"test/cat/x.jpg": CUT, "val/dog/x.jpg": b"x"},
    ),
    Case("nothing left of a class", WHOLE, "ROOT/train/emu: none of its files is a readable image: 2 empty, "
         "1 truncated", files={"train/emu/a.png": b"", "train/emu/b.png": b"", "train/emu/c.jpg": CUT}, options=SKIP),
    Case("nothing left of test", HALF, "ROOT/test: none of its files is a readable image: 1 truncated",
         files={"test/cat/c.jpg": CUT}, options=SKIP),
    Case("a large image", WHOLE, "ROOT/train/cat/a.png: an image of 400 pixels, more than data.max_pixels=399: "
         f"data.max_pixels=400 reads it {STOPS}", files={"train/cat/a.png": image(9, side=20)}, options={"max_pixels": 399}),
    Case("a huge image", WHOLE, f"{LINE}; 1 file skipped (1 above data.max_pixels)",
         files={"train/cat/a.png": image(9, side=20)}, options={"max_pixels": 16, **SKIP}),
    Case("the limit raised", WHOLE, LINE.replace("8", "9"), files={"train/cat/a.png": image(9, side=20)},
         options={"max_pixels": 400}),
    Case("no limit", WHOLE, "data.max_pixels=0: must be a whole number of pixels from 1", options={"max_pixels": 0}),
]  # fmt: skip

SAME, OTHER = image(70), image(71)
DUPLICATES = [
    Case("one image in test and train", WHOLE, LINE.replace("8", "9").replace("test 2", "test 3"),
         ("1 test image is also in train (first: test/cat/b.png = train/cat/a.png)",),
         files={"train/cat/a.png": SAME, "test/cat/b.png": SAME}),
    Case("with another label", WHOLE, LINE.replace("8", "9").replace("val 2", "val 4"),
         ("2 val images are also in train, 1 of them with another label (first: val/cat/b.png = train/cat/a.png)",
          "2 val images have an equal image with another label (first: val/cat/b.png = val/dog/c.png)"),
         files={"train/cat/a.png": SAME, "val/cat/b.png": SAME, "val/dog/c.png": SAME}),
    Case("two labels in train", WHOLE, LINE.replace("8", "10"),
         ("2 train images have an equal image with another label (first: train/cat/a.png = train/dog/b.png)",),
         files={"train/cat/a.png": SAME, "train/dog/b.png": SAME}),
    Case("twice with one label in one split", WHOLE, LINE.replace("8", "10"),
         files={"train/cat/a.png": SAME, "train/cat/b.png": SAME}),
    Case("another format of the same pixels", WHOLE, LINE.replace("8", "9").replace("test 2", "test 3"),
         ("1 test image is also in train (first: test/cat/b.bmp = train/cat/a.png)",),
         files={"train/cat/a.png": SAME, "test/cat/b.bmp": image(70, "BMP")}),
    Case("refused", WHOLE, "data.duplicates=error: 1 test image is also in val (first: test/dog/b.png = val/dog/a.png) "
         "(data.duplicates=note trains with them and says so)",
         files={"val/dog/a.png": SAME, "test/dog/b.png": SAME, "test/dog/c.png": OTHER}, options={"duplicates": "error"}),
    Case("none to refuse", WHOLE, LINE, options={"duplicates": "error"}),
]  # fmt: skip

CASES = [*split_names(), *LAYOUTS, *CLASSES, *LITTER, *LINKS, *FILES, *DUPLICATES]


def build(case: Case, root: Path) -> None:
    """Write a case's tree; images are numbered over the whole tree, and no two have the same pixels."""
    seeds = count(1000)
    root.mkdir()
    for part in case.tree.split():
        folder, _, number = part.replace("~", " ").rpartition(":")
        (root / folder).mkdir(parents=True, exist_ok=True)
        for _ in range(int(number)):
            seed = next(seeds)
            (root / folder / f"{seed - 1000:04}.png").write_bytes(image(seed))
    for name, content in case.files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    for name in case.empty:
        (root / name).mkdir(parents=True)
    for name, target in case.links.items():
        (root / name).symlink_to(root / target)
    beside = root.parent / "beside"
    for number, name in enumerate(("birds/0", "birds/1", "birds/2", "split/cat/0", "split/dog/0")):
        (beside / name).parent.mkdir(parents=True, exist_ok=True)
        (beside / f"{name}.png").write_bytes(image(number))


def outcome(case: Case, root: Path) -> tuple[str, tuple[str, ...]]:
    """The line that a run starts with, and its notes; or the error."""
    options = dict(case.options)
    limits = {name: options.pop(name) for name in ("duplicates",) if name in options}
    shares = {name: value for name, value in options.items() if name == "val_fraction"}
    try:
        splits = read_splits(Folder(root, **options), **shares, **limits)
    except (ValueError, FileNotFoundError) as error:
        return str(error).replace(str(root.resolve()), "ROOT"), ()
    return data_line(splits.images, splits.classes, splits.skipped), splits.notes


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_an_odd_folder_gives_these_images_or_this_sentence(case: Case, tmp_path: Path) -> None:
    build(case, tmp_path / "data")
    assert outcome(case, tmp_path / "data") == (case.gives, case.notes)


def test_no_two_cases_are_the_same() -> None:
    names = [case.name for case in CASES]
    assert len(set(names)) == len(names) > 90


def batches(
    monkeypatch: pytest.MonkeyPatch, root: Path, make: Any, files: dict[str, dict[str, Any]], meta: dict[str, Any]
) -> None:
    """Batch files in the official layout, of which torchvision expects the checksums."""
    folder = root / make.base_folder
    folder.mkdir(parents=True)
    md5 = {}
    for name, content in {**files, make.meta["filename"]: meta}.items():
        data = pickle.dumps(content, protocol=2)
        (folder / name).write_bytes(data)
        md5[name] = hashlib.md5(data).hexdigest()
    monkeypatch.setattr(make, "train_list", [[name, md5[name]] for name, _ in make.train_list])
    monkeypatch.setattr(make, "test_list", [[name, md5[name]] for name, _ in make.test_list])
    monkeypatch.setattr(make, "meta", {**make.meta, "md5": md5[make.meta["filename"]]})


def rows(*seeds: int) -> np.ndarray:
    return np.stack([np.random.default_rng(seed).integers(0, 256, 3072, dtype=np.uint8) for seed in seeds])


def ten(monkeypatch: pytest.MonkeyPatch, root: Path, test: np.ndarray, labels: list[int]) -> Cifar:
    """CIFAR-10 with 20 training images, a class in turn, and these test images."""
    files = {
        f"data_batch_{number}": {"data": rows(*range(4 * number, 4 * number + 4)), "labels": [0, 1, 0, 1]}
        for number in range(1, 6)
    }
    batches(
        monkeypatch, root, CIFAR10, {**files, "test_batch": {"data": test, "labels": labels}}, {"label_names": ["ape", "bee"]}
    )
    return Cifar(root)


def hundred(monkeypatch: pytest.MonkeyPatch, root: Path, labels: str) -> Cifar:
    """CIFAR-100 with three fine classes, two of which are one coarse class."""
    fine = {"train": [0, 1, 2] * 4, "test": [0, 2, 2]}
    files = {
        name: {
            "data": rows(*(1000 * (name == "test") + seed for seed in range(len(found)))),
            "fine_labels": found,
            "coarse_labels": [label // 2 for label in found],
        }
        for name, found in fine.items()
    }
    names = {"fine_label_names": ["ape", "bee", "cat"], "coarse_label_names": ["animals", "pets"]}
    batches(monkeypatch, root, CIFAR100, files, names)
    return Cifar(root, "cifar100", labels=labels)  # pyright: ignore[reportArgumentType]


CIFAR: dict[str, tuple[Callable[[pytest.MonkeyPatch, Path], Cifar], str, tuple[str, ...]]] = {
    "CIFAR-10": (lambda m, p: ten(m, p, rows(90, 91), [0, 1]), "train 18, val 2, test 2 images, 2 classes", ()),
    "a test image of train": (
        lambda m, p: ten(m, p, rows(90, 9), [0, 0]),
        "train 18, val 2, test 2 images, 2 classes",
        (
            "test: no image of class bee",
            "1 test image is also in train, 1 of them with another label (first: test/1 = train/5)",
        ),
    ),
    "a class absent": (
        lambda m, p: ten(m, p, rows(90, 91), [1, 1]),
        "train 18, val 2, test 2 images, 2 classes",
        ("test: no image of class ape",),
    ),
    "fine labels": (
        lambda m, p: hundred(m, p, "fine"),
        "train 9, val 3, test 3 images, 3 classes",
        ("test: no image of class bee",),
    ),
    "coarse labels": (lambda m, p: hundred(m, p, "coarse"), "train 10, val 2, test 3 images, 2 classes", ()),
}


@pytest.mark.parametrize("name", CIFAR)
def test_an_odd_cifar_gives_these_images(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make, line, notes = CIFAR[name]
    splits = read_splits(make(monkeypatch, tmp_path))
    assert data_line(splits.images, splits.classes, splits.skipped) == line
    assert splits.notes == notes
