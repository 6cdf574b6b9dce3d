import json
from pathlib import Path
from typing import Any

import pytest

from necklace.boxes.truth import COUNTS, CROWD, IGNORED
from necklace.data.coco import Coco
from necklace.data.coco_json import read_coco
from tests.boxed import boxed_train, boxes_of
from tests.test_data_voc import encoded, write

Content = dict[str, Any]


def content(*things: Content, images: int = 2, **more: Any) -> Content:
    """COCO's annotations of images `a.jpg`, `b.jpg` and so on, of 30x20 pixels, with classes of ids 3 and 7."""
    return {
        "images": [{"id": 10 + n, "file_name": f"{'abcdefgh'[n]}.jpg", "width": 30, "height": 20} for n in range(images)],
        "categories": [{"id": 7, "name": "cat"}, {"id": 3, "name": "dog"}],
        "annotations": [{"id": n, **one} for n, one in enumerate(things, 100)],
        **more,
    }


def thing(image: int = 10, category: int = 7, bbox: Any = (1, 2, 9, 10), **more: Any) -> Content:
    return {"image_id": image, "category_id": category, "bbox": list(bbox) if isinstance(bbox, tuple) else bbox, **more}


def layout(tmp_path: Path, train: Any, **files: Any) -> Path:
    """`annotations/train.json` and `images/`, with two images."""
    text = train if isinstance(train, bytes | str) else json.dumps(train)
    pictures = {f"images/{name}.jpg": encoded(seed=number) for number, name in enumerate("ab")}
    return write(tmp_path / "data", {"annotations/train.json": text, **pictures, **files})


def test_classes_are_in_the_order_of_their_ids_and_crowds_are_crowds(tmp_path: Path) -> None:
    things = thing(), thing(category=3, iscrowd=1, bbox=(0, 0, 30, 20)), thing(11, 3, (2.5, 3, 4.25, 5), ignore=1)
    train, source = boxed_train(Coco, layout(tmp_path, content(*things)))
    assert source.classes == ("dog", "cat")
    assert boxes_of(train, 0) == [([0, 0, 30, 20], 0, CROWD), ([1, 2, 10, 12], 1, COUNTS)]
    assert boxes_of(train, 1) == [([2.5, 3, 6.75, 8], 0, IGNORED)]
    assert train.labels.tolist() == [[-1, 1], [-1, 0]]
    assert source.notes == ()
    assert source.split("val") is None


@pytest.mark.parametrize(
    ("places", "annotations"),
    [
        ({"train/_annotations.coco.json": "train/", "valid/_annotations.coco.json": "valid/"}, None),  # Roboflow
        ({"annotations/instances_train2017.json": "train2017/", "annotations/instances_val2017.json": "val2017/"}, None),
        (
            {
                "annotations/instances_train2017.json": "images/train2017/",
                "annotations/instances_val2017.json": "images/val2017/",
            },
            None,
        ),
        ({"train.json": "", "val.json": ""}, None),
        ({"x/one.json": "images/", "y/two.json": "images/"}, {"train": "x/one.json", "val": "y/two.json"}),
        ({"labels/training.json": "data/", "labels/dev.json": "data/"}, None),
    ],
)
def test_layouts(tmp_path: Path, places: dict[str, str], annotations: dict[str, str] | None) -> None:
    first, second = content(thing()), content(thing(11))
    second["images"][0]["file_name"], second["images"][1]["file_name"] = "c.jpg", "d.jpg"
    files: dict[str, Any] = {}
    for (path, folder), one, names in zip(places.items(), (first, second), ("ab", "cd"), strict=True):
        files[path] = json.dumps(one)
        files |= {f"{folder}{name}.jpg": encoded(seed=ord(name)) for name in names}
    if "annotations/instances_train2017.json" in places:
        files["annotations/captions_train2017.json"] = "{}"
    source = Coco(write(tmp_path, files), annotations, boxes=True)
    train, val = source.split("train"), source.split("val")
    assert train is not None
    assert val is not None
    assert (train.names, val.names) == (("a.jpg", "b.jpg"), ("c.jpg", "d.jpg"))
    assert len(boxes_of(train, 0)) == len(boxes_of(val, 1)) == 1
    unread = "annotations/captions_train2017.json is not read"
    assert source.notes == ((unread,) if "annotations/instances_train2017.json" in places else ())


def test_a_category_that_only_stands_above_others_is_no_class(tmp_path: Path) -> None:
    categories = [{"id": 0, "name": "animals", "supercategory": "none"}]
    categories += [{"id": n, "name": name, "supercategory": "animals"} for n, name in ((3, "dog"), (7, "cat"))]
    train, source = boxed_train(Coco, layout(tmp_path, content(thing(), categories=categories)))
    assert source.classes == ("dog", "cat")
    assert boxes_of(train, 0) == [([1, 2, 10, 12], 1, COUNTS)]
    assert source.notes == ("the category animals stands above others and has no object: no class",)


WRONG: dict[str, tuple[Any, str]] = {
    "no JSON": ("{", "malformed JSON"),
    "not text": (b"\xff\xfe\x00\xd8", "malformed JSON"),
    "nested": ("[" * 200_000, "malformed JSON: nested too deeply"),
    "a list": ([], "must be a mapping of images, annotations and categories .a list, as results"),
    "no images": ({"annotations": [], "categories": []}, "no list of images"),
    "images is a mapping": (content(images=2) | {"images": {}}, "no list of images"),
    "an image without name": (content(thing()) | {"images": [{"id": 1}]}, "an image without id or file_name"),
    "an image without id": (content(thing()) | {"images": [{"file_name": "a.jpg"}]}, "an image without id or file_name"),
    "two images of an id": (content(thing()) | {"images": [{"id": 1, "file_name": "a.jpg"}] * 2}, "two images of id 1"),
    "a category without name": (content(thing()) | {"categories": [{"id": 1}]}, "a category without id or name"),
    "two categories of an id": (
        content(thing()) | {"categories": [{"id": 1, "name": "x"}, {"id": 1, "name": "y"}]},
        "two categories of id 1: 'x' and 'y'",
    ),
    "two categories of a name": (
        content(thing()) | {"categories": [{"id": 1, "name": "x"}, {"id": 2, "name": "x"}]},
        "two categories of name 'x'",
    ),
    "no category": (content(thing()) | {"categories": []}, "no category"),
    "no object": (content(), "no image of the train split shows an object"),
    "crowds only": (content(thing(iscrowd=1)), "no image of the train split shows an object that counts"),
}


@pytest.mark.parametrize("case", WRONG)
@pytest.mark.parametrize("on_corrupt", ["stop", "skip"])
def test_a_file_that_is_not_clear_stops_the_run(tmp_path: Path, case: str, on_corrupt: Any) -> None:
    train, reason = WRONG[case]
    with pytest.raises(ValueError, match=reason):
        Coco(layout(tmp_path, train), boxes=True, on_corrupt=on_corrupt)


BAD: dict[str, tuple[Content, str]] = {
    "NaN": (thing(bbox=[1, 2, float("nan"), 4]), r"no finite number: \[1, 2, nan, 6\] in annotation 100"),
    "infinite": (thing(bbox=[1, 2, float("inf"), 4]), "no finite number"),
    "a huge number": (thing(bbox=[1, 2, 10**400, 4]), "no finite number"),
    "negative": (thing(bbox=[5, 5, -3, 4]), r"a box of negative size: \[5, 5, -3, 4\] in annotation 100"),
    "three numbers": (thing(bbox=[5, 5, 3]), "a bbox that is no list of four numbers"),
    "text": (thing(bbox=["5", 5, 3, 3]), "a bbox that is no list of four numbers"),
    "true": (thing(bbox=[True, 5, 3, 3]), "a bbox that is no list of four numbers"),
    "a mapping": (thing(bbox={"x": 1}), "a bbox that is no list of four numbers"),
    "none": (thing(bbox=None), "an object without bbox in annotation 100"),
    "in shares": (thing(bbox=[0.1, 0.2, 0.3, 0.4]), "in shares of the image's sides"),
    "an unknown class": (thing(category=5), "a class that the file does not have: category_id 5 in annotation 100"),
    "a class that is text": (thing(category="cat"), "a class that the file does not have: category_id cat"),  # pyright: ignore[reportArgumentType]
    "iscrowd is 3": (thing(iscrowd=3), "iscrowd is neither 0 nor 1"),
}


@pytest.mark.parametrize("case", BAD)
def test_an_object_that_is_none_stops_the_run_or_leaves_out_its_image(tmp_path: Path, case: str) -> None:
    bad, reason = BAD[case]
    root = layout(tmp_path, content(bad, thing(11)))
    with pytest.raises(ValueError, match=rf"{root}/images/a\.jpg: .*{reason}"):
        Coco(root, boxes=True)
    train, source = boxed_train(Coco, root, on_corrupt="skip")
    assert train.names == ("b.jpg",)
    assert [path for path, _ in source.skipped] == ["images/a.jpg"]


def test_annotations_of_unknown_images_are_counted(tmp_path: Path) -> None:
    root = layout(tmp_path, content(thing(), thing(99), thing("x")))  # pyright: ignore[reportArgumentType]
    reason = "annotations of images that the file does not have: 2 .first: image_id 99 in annotation 101."
    with pytest.raises(ValueError, match=rf"annotations/train\.json: {reason}"):
        Coco(root, boxes=True)
    train, source = boxed_train(Coco, root, on_corrupt="skip")
    assert train.names == ("a.jpg", "b.jpg")
    assert [path for path, _ in source.skipped] == ["annotations/train.json"]


def test_boxes_without_area_or_outside_are_left_out_and_counted(tmp_path: Path) -> None:
    train, source = boxed_train(Coco, layout(tmp_path, content(thing(), thing(bbox=(3, 3, 0, 5)), thing(bbox=(40, 3, 2, 5)))))
    assert len(boxes_of(train, 0)) == 1
    assert source.notes == (
        "train: boxes without area, left out: 1 (first: in a.jpg)",
        "train: boxes outside their image, left out: 1 (first: in a.jpg)",
    )


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("../../secret.jpg", "a path that leads out of data.root"),
        ("/etc/passwd", "a path that leads out of data.root"),
        ("link.jpg", "a link that leads out of data.root"),
        ("missing.jpg", "the file does not exist"),
        ("", "an image without id or file_name"),
        (" ", "a file name that is none"),
        ("a\0.jpg", "a file name that is none"),
        ("x" * 5000, "a path that cannot be followed"),
        ("loop/loop.jpg", "a path that cannot be followed|does not exist"),
        ("sub", "not a regular file"),
    ],
)
def test_names_that_lead_elsewhere_are_refused(tmp_path: Path, name: str, reason: str) -> None:
    train = content(thing(11))
    train["images"][0]["file_name"] = name
    root = layout(tmp_path, train, **{"images/sub/x.txt": ""})
    (tmp_path / "secret.jpg").write_bytes(encoded())
    (root / "images/link.jpg").symlink_to(tmp_path / "secret.jpg")
    (root / "images/loop").symlink_to(root / "images/loop")
    with pytest.raises(ValueError, match=reason):
        Coco(root, boxes=True)
    if name:
        images, source = boxed_train(Coco, root, on_corrupt="skip")
        assert images.names == ("b.jpg",)
        assert len(source.skipped) == 1
    if "secret" in name or "link" in name:
        images, _ = boxed_train(Coco, root, links="follow")
        assert len(images) == 2


def test_images_are_found_with_backslashes_and_in_folders(tmp_path: Path) -> None:
    train = content(thing(), thing(11))
    train["images"][0]["file_name"], train["images"][1]["file_name"] = "images\\a.jpg", "images/b.jpg"
    images, _ = boxed_train(Coco, layout(tmp_path, train))
    assert images.names == ("a.jpg", "b.jpg")


def test_what_is_not_clear_about_files_is_said(tmp_path: Path) -> None:
    root = layout(tmp_path, content(thing()), **{"annotations/other.json": "{}", "images/c.jpg": encoded()})
    source = Coco(root, boxes=True)
    assert source.notes == (
        "annotations/other.json is not read",
        "images without annotation, not used: 1 (first: images/c.jpg)",
    )
    write(root, {"annotations/training.json": json.dumps(content(thing()))})
    with pytest.raises(ValueError, match=r"training\.json: train\.json is for train as well: set data\.annotations"):
        Coco(root)
    twice = content(thing())
    twice["images"][1]["file_name"] = "a.jpg"
    with pytest.raises(ValueError, match=r"images/a\.jpg: an image that is there several times: 2"):
        Coco(layout(tmp_path / "twice", twice))
    val = content(thing(), images=1)
    with pytest.raises(ValueError, match=r"images/a\.jpg: an image that is in another split already: in train"):
        Coco(layout(tmp_path / "val", content(thing()), **{"annotations/val.json": json.dumps(val)}))
    val["categories"][0]["name"] = "horse"
    with pytest.raises(ValueError, match=r"category 7 of the val split is 'horse', that of train is 'cat'"):
        Coco(layout(tmp_path / "other", content(thing()), **{"annotations/val.json": json.dumps(val)}))
    with pytest.raises(FileNotFoundError, match=r"none of its images, such as 'a\.jpg', is in annotations/, \./"):
        Coco(write(tmp_path / "none", {"annotations/train.json": json.dumps(content(thing()))}))
    with pytest.raises(FileNotFoundError, match="no annotations in JSON"):
        Coco(write(tmp_path / "empty", {"images/a.jpg": encoded()}))


@pytest.mark.parametrize(
    ("annotations", "reason"),
    [
        ("missing.json", "no such file"),
        ("annotations", "is a folder, must be a JSON file"),
        ({"val": "annotations/train.json"}, "must be a path, or paths of train"),
        ({"trian": "annotations/train.json"}, "must be a path, or paths of train"),
        ("../secret.json", "leads out of data.root"),
    ],
)
def test_the_option_names_files_below_the_root(tmp_path: Path, annotations: Any, reason: str) -> None:
    root = layout(tmp_path, content(thing()))
    (tmp_path / "secret.json").write_text("{}")
    with pytest.raises((ValueError, FileNotFoundError), match=reason):
        Coco(root, annotations)


def test_segmentations_are_dropped_while_the_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text(json.dumps(content(thing(segmentation=[[1.5] * 1000], keypoints=[1] * 51, caption="x"))))
    file = read_coco(path)
    assert file.images[0].rows == [(1, 2, 10, 12, 7, 0)]


def test_ten_thousand_boxes_in_an_image(tmp_path: Path) -> None:
    things = [thing(bbox=(x / 8, y / 8, 1, 1)) for x in range(100) for y in range(100)]
    train, source = boxed_train(Coco, layout(tmp_path, content(*things)))
    assert len(boxes_of(train, 0)) == 10_000
    assert source.notes == ()
