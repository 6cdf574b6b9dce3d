"""Annotations with one thing wrong, in three layouts: each is a clear error, or it is skipped or left out and counted."""

# ruff: noqa: E501

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from necklace.data.augment import Augmentation
from necklace.data.coco import Coco
from necklace.data.datamodule import DataModule
from necklace.data.sizes import Fixed
from necklace.data.splits import read_splits
from necklace.data.voc import Voc
from necklace.data.yolo import Yolo
from tests.test_data_voc import encoded, thing, write, xml

NUMBERS = ("", " ", "nan", "-inf", "1e999", "x", "1,5", "0x10", "--2", "9" * 400, "1 2 3")
JSON_NUMBERS = (None, "5", True, [], {}, [5], float("nan"), float("inf"), -float("inf"), 10**400)

Files = dict[str, Any]
Case = tuple[str, Callable[..., Any], Files]
"""What is wrong, the source that reads it, and the files, in which `good` is an image that nothing is wrong with."""


def voc_files(wrong: str) -> Files:
    """Images `bad` and `good` in train and `val` in val; `wrong` is the annotation of `bad`."""
    files: Files = {f"JPEGImages/{name}.jpg": encoded(seed=n) for n, name in enumerate(("bad", "good", "val"))}
    files |= {f"Annotations/{name}.xml": xml(thing()) for name in ("good", "val")} | {"Annotations/bad.xml": wrong}
    return files | {"ImageSets/Main/train.txt": "bad\ngood\n", "ImageSets/Main/val.txt": "val\n"}


def yolo_files(wrong: str | bytes) -> Files:
    files: Files = {f"images/{place}.jpg": encoded(seed=n) for n, place in enumerate(("train/bad", "train/good", "val/val"))}
    files |= {f"labels/{place}.txt": "0 0.5 0.5 0.2 0.4\n" for place in ("train/good", "val/val")}
    return files | {"labels/train/bad.txt": wrong, "data.yaml": "train: images/train\nval: images/val\nnames: [cat, dog]\n"}


def coco_files(change: Callable[[dict[str, Any]], Any]) -> Files:
    """`change` works on the content of train, in which annotation 0 and image 0 are those of `bad`."""
    files: Files = {f"images/{name}.jpg": encoded(seed=n) for n, name in enumerate(("bad", "good", "val"))}
    for split, names in (("train", ("bad", "good")), ("val", ("val",))):
        content = {
            "images": [{"id": n, "file_name": f"{name}.jpg", "width": 30, "height": 20} for n, name in enumerate(names)],
            "annotations": [{"id": n, "image_id": n, "category_id": 1, "bbox": [1, 2, 9, 9]} for n in range(len(names))],
            "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
        }
        if split == "train":
            change(content)
        files[f"annotations/{split}.json"] = json.dumps(content)
    return files


def annotation(**changes: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda content: content["annotations"][0].update(changes)


def without(kind: str, key: str) -> Callable[[dict[str, Any]], Any]:
    return lambda content: content[kind][0].pop(key)


def bbox_with(place: int, value: Any) -> Callable[[dict[str, Any]], Any]:
    box: list[Any] = [1, 2, 9, 9]
    box[place] = value
    return annotation(bbox=box)


def corpus() -> list[Case]:
    cases: list[Case] = []
    corners = dict(zip(("xmin", "ymin", "xmax", "ymax"), (2, 3, 10, 12), strict=True))
    for number, value in enumerate(NUMBERS):  # each value in one place, each place with several values
        side = list(corners)[number % 4]
        wrong = thing().replace(f"<{side}>{corners[side]}<", f"<{side}>{value}<")
        cases.append((f"VOC: <{side}> is {value!r}", Voc, voc_files(xml(wrong).decode())))
        line = ["0", "0.5", "0.5", "0.2", "0.4"]
        line[number % 5] = value
        cases.append((f"YOLO: value {number % 5} is {value!r}", Yolo, yolo_files(" ".join(line))))
    boxes = {
        "swapped": (10, 3, 2, 12), "upside down": (2, 12, 10, 3), "outside": (31, 3, 40, 12), "above": (2, -9, 10, -3),
        "no width": (5, 3, 4, 9), "reaches out": (-5, 3, 10, 12), "all around": (-50, -50, 500, 500), "in shares": (0.1, 0.2, 0.5, 0.9),
    }  # fmt: skip
    for name, (x0, y0, x1, y1) in boxes.items():
        cases.append((f"VOC: {name}", Voc, voc_files(xml(thing(), thing(box=(x0, y0, x1, y1))).decode())))
        shown = coco_files(lambda content, box=[x0 - 1, y0 - 1, x1 - x0 + 1, y1 - y0 + 1]: annotation(bbox=box)(content))
        if name != "in shares":
            cases.append((f"COCO: {name}", Coco, shown))
        line = " ".join(
            str(value) for value in ((x0 - 1 + x1) / 60, (y0 - 1 + y1) / 40, (x1 - x0 + 1) / 30, (y1 - y0 + 1) / 20)
        )
        if name != "in shares":
            cases.append((f"YOLO: {name}", Yolo, yolo_files(f"0 0.5 0.5 0.2 0.4\n1 {line}\n")))
    one = thing()
    for name, text in {
        "no box": one.replace("bndbox", "box"), "no name": one.replace("<name>cat</name>", ""), "no xmin": one.replace("xmin", "left"),
        "a polygon": "<object><name>cat</name><polygon><x1>1</x1></polygon></object>", "two boxes": one.replace("</object>", "<bndbox/></object>"),
        "another root": "</annotation><annotation>", "an entity": "&x;", "objects in a list": f"<objects>{one}</objects>",
        "two names": one.replace("<name>", "<name>dog</name><name>"),
    }.items():  # fmt: skip
        cases.append((f"VOC: {name}", Voc, voc_files(xml(text).decode())))
    cases += [
        (f"VOC: {name}", Voc, voc_files(text))
        for name, text in {"empty": "", "cut": xml(one).decode()[:90], "JSON": "{}"}.items()
    ]
    for number, value in enumerate(JSON_NUMBERS):
        cases.append((f"COCO: bbox[{number % 4}] is {str(value)[:20]}", Coco, coco_files(bbox_with(number % 4, value))))
        for key in ("category_id", "image_id"):
            if value != "5" or key == "category_id":  # no image has the id 5, and none is fine
                cases.append((f"COCO: {key} is {str(value)[:20]}", Coco, coco_files(annotation(**{key: value}))))
    for kind, key in (
        ("annotations", "bbox"), ("annotations", "category_id"), ("annotations", "image_id"), ("images", "id"), ("images", "file_name"),
        ("categories", "id"), ("categories", "name"),
    ):  # fmt: skip
        cases.append((f"COCO: {kind} without {key}", Coco, coco_files(without(kind, key))))
    for name, change in {
        "bbox of 3": annotation(bbox=[1, 2, 3]), "bbox of 5": annotation(bbox=[1, 2, 3, 4, 5]), "bbox is text": annotation(bbox="1 2 3 4"),
        "negative width": annotation(bbox=[9, 9, -3, 4]), "no area": annotation(bbox=[9, 9, 0, 4]), "iscrowd is 2": annotation(iscrowd=2),
        "iscrowd is text": annotation(iscrowd="no"), "in shares": annotation(bbox=[0.1, 0.1, 0.5, 0.5]), "class 9": annotation(category_id=9),
        "another size": lambda c: c["images"][0].update(width=300, height=200), "an image twice": lambda c: c["images"].append(c["images"][0]),
        "a name twice": lambda c: c["images"].append({"id": 7, "file_name": "bad.jpg"}), "a missing file": lambda c: c["images"][0].update(file_name="no.jpg"),
        "a file above": lambda c: c["images"][0].update(file_name="../../../etc/passwd"), "another file": lambda c: c["images"][0].update(file_name="val.jpg"),
        "no images": lambda c: c.pop("images"), "no categories": lambda c: c.pop("categories"), "no annotations": lambda c: c.pop("annotations"),
        "images is null": lambda c: c.update(images=None), "an image is a number": lambda c: c["images"].append(3),
        "an annotation is a list": lambda c: c["annotations"].append([1]), "a category twice": lambda c: c["categories"].append({"id": 1, "name": "cow"}),
        "a class name twice": lambda c: c["categories"].append({"id": 3, "name": "cat"}), "other classes": lambda c: c["categories"].pop(0),
        "the box twice": lambda c: c["annotations"].append(c["annotations"][0]),
    }.items():  # fmt: skip
        cases.append((f"COCO: {name}", Coco, coco_files(change)))
    cases += [
        (f"COCO: {name}", Coco, coco_files(lambda _: None) | {"annotations/train.json": text})
        for name, text in {
            "empty": "",
            "cut": '{"images": [{"id"',
            "XML": "<a/>",
            "a list": "[]",
            "bytes": b"\xff\xfe\xfa",
        }.items()
    ]
    for name, line in {
        "a polygon": "0 .1 .1 .2 .1 .2 .2", "a rotated box": "0 .1 .1 .2 .1 .2 .2 .1 .2", "a score": "0 .5 .5 .2 .2 .9", "4 values": "0 .5 .5 .2",
        "class 2": "2 .5 .5 .2 .2", "class -1": "-1 .5 .5 .2 .2", "class 0.5": "0.5 .5 .5 .2 .2", "in pixels": "0 15 10 6 8", "a name": "cat .5 .5 .2 .2",
        "above 1": "0 .5 .5 1.01 .2", "below 0": "0 -.01 .5 .2 .2", "no area": "0 .5 .5 0 .2", "reaches out far": "0 .9 .5 .4 .2", "twice": "0 .5 .5 .2 .4\n" * 2,
        "JSON": "{}", "XML": "<a/>", "zeros": "\0" * 20,
    }.items():  # fmt: skip
        cases.append((f"YOLO: {name}", Yolo, yolo_files(line)))
    cases.append(("YOLO: not text", Yolo, yolo_files(b"\xff\xd8\xff\xe0\x00")))
    return cases


CORPUS = corpus()


def test_the_corpus_has_more_than_a_hundred_files() -> None:
    assert len({name for name, *_ in CORPUS}) == len(CORPUS) > 130


def boxes_are_sound(source: Any) -> bool:
    """Whether a run's batches have finite boxes with an area, inside their images."""
    data = DataModule(read_splits(source), Fixed(16), 1, 0, Augmentation(flip=True, crop_scale=0.5, mosaic=0.5))
    for batch in data.train_dataloader():
        boxes = data.prepare(batch, augment=True).labels.boxes
        if len(boxes) and not (bool(torch.isfinite(boxes).all()) and float(boxes.min()) >= 0 and float(boxes.max()) <= 16):
            return False
        if bool((boxes[:, :2] >= boxes[:, 2:]).any()):
            return False
    return True


@pytest.mark.parametrize("case", range(len(CORPUS)), ids=[re.sub(r"[^\w.:+ -]", "_", name) for name, *_ in CORPUS])
def test_nothing_wrong_is_read_without_a_word(tmp_path: Path, case: int) -> None:
    name, source, files = CORPUS[case]
    root = write(tmp_path / "data", files)
    for on_corrupt in ("stop", "skip"):
        message, read, splits = "", None, None
        try:
            read = source(root, boxes=True, on_corrupt=on_corrupt)
            splits = read_splits(read)
        except (ValueError, FileNotFoundError) as error:
            message = str(error)
        if splits is None:
            assert str(root) in message
            assert len(message.splitlines()[0]) < 500 + len(str(root))
        else:
            assert splits.skipped or splits.notes, f"{name}: read without a word"
            assert not (splits.skipped and on_corrupt == "stop")
            assert "good.jpg" in splits.images["train"].names
            assert boxes_are_sound(read)


@pytest.mark.parametrize("source", [Voc, Coco, Yolo])
def test_bytes_at_random_give_boxes_or_an_error_in_words(tmp_path: Path, source: Any) -> None:
    files = {Voc: voc_files(xml(thing()).decode()), Coco: coco_files(lambda _: None), Yolo: yolo_files("0 0.5 0.5 0.2 0.4\n")}[
        source
    ]
    target = {Voc: "Annotations/bad.xml", Coco: "annotations/train.json", Yolo: "labels/train/bad.txt"}[source]
    rng = np.random.default_rng(0)
    root = write(tmp_path / "data", files)
    whole = (root / target).read_bytes()
    refused = 0
    for _ in range(50):
        data = bytearray(whole)
        for _ in range(int(rng.integers(1, 4))):
            place = int(rng.integers(0, len(data)))
            data[place : place + int(rng.integers(0, 3))] = bytes(
                rng.choice(list(b'0123456789.-eE<>"[]{},\xff\0 \nnaN'), int(rng.integers(0, 3))).tolist()
            )
        (root / target).write_bytes(bytes(data))
        message = ""
        try:
            assert boxes_are_sound(source(root, boxes=True, on_corrupt="skip"))
        except (ValueError, FileNotFoundError) as error:
            message = str(error)
        assert not message or str(root) in message
        refused += bool(message)
    assert refused < 50
