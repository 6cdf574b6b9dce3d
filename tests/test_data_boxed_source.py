"""One data set in three layouts is one data set."""

import json
import tarfile
from pathlib import Path

import pytest

from necklace.data.augment import Augmentation
from necklace.data.coco import Coco
from necklace.data.datamodule import DataModule
from necklace.data.images import Source, Splits
from necklace.data.sizes import Fixed
from necklace.data.splits import read_splits, share_splits, splits_key, splits_of
from necklace.data.voc import Voc
from necklace.data.yolo import Yolo
from tests.box_forms import voc_splits, write_coco, write_yolo
from tests.test_data_voc import SHARED, encoded, thing, write, xml


def read(source: Source) -> Splits:
    return read_splits(source)


def voc(root: Path) -> Path:
    """Six images: with one, two and no objects, and an object at every border."""
    files: dict[str, bytes | str] = {}
    things = {
        "a": [thing("dog", (1, 1, 30, 20)), thing("cat", (7, 3, 8, 19))],
        "b-1": [thing("cat", (2, 5, 30, 9))],
        "b": [],
        "c": [thing("eel", (29, 19, 30, 20)), thing("dog", (3, 3, 3, 3)), thing("dog", (3, 3, 9, 9))],
        "d": [thing("dog", (11, 2, 22, 17))],
        "e": [thing("cat", (1, 2, 13, 20))],
    }
    for number, (name, own) in enumerate(things.items()):
        files[f"JPEGImages/{name}.jpg"] = encoded(20, 30, seed=number)
        files[f"Annotations/{name}.xml"] = xml(*own)
    lists = {"train": "c\na\nb\nb-1\n", "val": "d\n", "test": "e\n"}
    return write(root, files | {f"ImageSets/Main/{split}.txt": text for split, text in lists.items()})


@pytest.mark.parametrize("decimals", [4, 6, 17])
def test_the_three_layouts_have_one_digest(tmp_path: Path, decimals: int) -> None:
    root = voc(tmp_path / "voc")
    splits, classes = voc_splits(root), ["cat", "dog", "eel"]
    sources = (
        Voc(root, boxes=True),
        Coco(write_coco(splits, classes, tmp_path / "coco"), boxes=True),
        Yolo(write_yolo(splits, classes, tmp_path / "yolo", decimals), boxes=True),
    )
    expected, coco, yolo = map(read, sources)
    assert expected.classes == coco.classes == yolo.classes == ("cat", "dog", "eel")
    assert expected.digest == coco.digest == yolo.digest
    assert expected.notes == coco.notes == yolo.notes
    assert expected.images["train"].names == ("a.jpg", "b-1.jpg", "b.jpg", "c.jpg")


def test_a_set_that_nothing_divides_is_divided_alike(tmp_path: Path) -> None:
    root = voc(tmp_path / "voc")
    everything = {path: things for images in voc_splits(root).values() for path, things in images.items()}
    for path in (root / "ImageSets/Main").iterdir():
        path.unlink()
    (root / "ImageSets/Main").rmdir()
    (root / "ImageSets").rmdir()
    coco = write_coco({"train": everything}, ["cat", "dog", "eel"], tmp_path / "coco")
    (coco / "annotations/instances_train.json").rename(coco / "annotations/all.json")
    first, second = read(Voc(root, boxes=True)), read(Coco(coco, boxes=True))
    assert len(first.images["test"]) > 0
    assert first.digest == second.digest
    assert "data.test_fraction=0.2" in second.notes[0]
    with pytest.raises(ValueError, match=r"data\.test_fraction=0\.5: annotations say which images are for test"):
        Coco(write_coco(voc_splits(voc(tmp_path / "again")), ["cat", "dog", "eel"], tmp_path / "coco2"), test_fraction=0.5)


def test_without_boxes_the_classes_are_labels(tmp_path: Path) -> None:
    root = voc(tmp_path / "voc")
    yolo = write_yolo(voc_splits(root), ["cat", "dog", "eel"], tmp_path / "yolo")
    with_boxes, plain = read(Yolo(yolo, boxes=True)), read(Yolo(yolo))
    assert plain.images["train"].boxes is None
    assert plain.images["train"].labels.tolist() == with_boxes.images["train"].labels.tolist()
    assert plain.images["train"].labels.tolist() == [[1, 1, 0], [1, 0, 0], [0, 0, 0], [0, 1, 1]]


def test_boxes_are_shared_with_other_processes_and_stay_with_images_that_are_mapped(tmp_path: Path) -> None:
    root = voc(tmp_path / "voc")
    source = {"_target_": "necklace.data.voc.Voc", "root": str(root), "boxes": True, "cache": str(tmp_path / "cache")}
    digests = set()
    for memory_gib in (4, 0):
        key = splits_key({"source": {**source, "memory_gib": memory_gib}})
        own = splits_of(key)
        assert (own.images["train"].starts is None) == (memory_gib == 4)
        digests.add(json.dumps(own.digest))
        data = DataModule(own, Fixed(8), 2, 0, Augmentation(crop_scale=0.5))
        digests.add(json.dumps([batch.labels.boxes.tolist() for batch in data.train_dataloader()]))
        if memory_gib:
            with share_splits([key]):
                splits_of.cache_clear()
                shared = splits_of(key)
            assert shared is not own
            assert shared.digest == own.digest
    assert len(digests) == 2


def test_equal_images_with_other_boxes_are_said(tmp_path: Path) -> None:
    root = voc(tmp_path / "voc")
    write(root, {"JPEGImages/d.jpg": encoded(20, 30, seed=0), "JPEGImages/e.jpg": encoded(20, 30, seed=1)})
    write(root, {"Annotations/e.xml": xml(thing("cat", (2, 5, 30, 9)))})
    assert read(Voc(root, boxes=True)).notes[-2:] == (
        "1 test image is also in train (first: e.jpg = b-1.jpg)",
        "1 val image is also in train, 1 of them with other boxes (first: d.jpg = a.jpg)",
    )


@pytest.mark.skipif(not (SHARED / "bccd-voc.tar.xz").exists(), reason="the shared data set BCCD is not here")
def test_bccd_is_the_same_in_its_three_layouts(tmp_path: Path) -> None:
    with tarfile.open(SHARED / "bccd-voc.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    root = tmp_path / "BCCD"
    splits, classes = voc_splits(root), ["Platelets", "RBC", "WBC"]
    cache = tmp_path / "cache"
    sources = (
        Voc(root, boxes=True, cache=cache),
        Coco(write_coco(splits, classes, tmp_path / "coco"), boxes=True, cache=cache),
        Yolo(write_yolo(splits, classes, tmp_path / "yolo"), boxes=True, cache=cache),
    )
    expected, coco, yolo = map(read, sources)
    assert expected.digest == coco.digest == yolo.digest
    assert {name: len(images) for name, images in expected.images.items()} == {"train": 205, "val": 87, "test": 72}
    assert json.dumps(expected.notes) == json.dumps(coco.notes) == json.dumps(yolo.notes)
    boxes = [images.boxes for images in expected.images.values()]
    assert sum(len(one.classes) for one in boxes if one) > 4800
