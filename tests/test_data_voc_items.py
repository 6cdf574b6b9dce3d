"""Boxes of data sets in the VOC layout."""

import pytest

from necklace.boxes.truth import COUNTS, IGNORED
from necklace.data.voc import Voc
from tests.boxed import boxed_train, boxes_of
from tests.test_data_voc import encoded, thing, write, xml


@pytest.fixture
def root(tmp_path):
    """Two good images in train, `a` and `b`, and one without objects in test."""
    return write(
        tmp_path / "data",
        {
            "JPEGImages/a.jpg": encoded(),
            "Annotations/a.xml": xml(thing()),
            "JPEGImages/b.PNG": encoded(7, 9, kind="PNG", seed=1),
            "Annotations/b.xml": xml(thing("cow", (1, 1, 9, 7)), size=(9, 7)),
            "JPEGImages/t.jpg": encoded(seed=2),
            "Annotations/t.xml": xml(),
            "ImageSets/Main/train.txt": "a\nb\n",
            "ImageSets/Main/test.txt": "t\n",
        },
    )


def test_boxes_are_counted_from_0_with_an_exclusive_end(root):
    things = thing("cat"), thing("dog", (1, 1, 30, 20), difficult=1), thing("cat", (5, 1, 5, 1))
    write(root, {"Annotations/a.xml": xml(*things), "ImageSets/Main/train.txt": "b\na\n"})
    train, source = boxed_train(Voc, root)
    assert source.classes == ("cat", "cow", "dog")
    assert train.names == ("a.jpg", "b.PNG")  # in the order of their names, not of the list
    assert boxes_of(train, 0) == [([0, 0, 30, 20], 2, IGNORED), ([4, 0, 5, 1], 0, COUNTS), ([1, 2, 10, 12], 0, COUNTS)]
    assert boxes_of(train, 1) == [([0, 0, 9, 7], 1, COUNTS)]
    assert train.labels.tolist() == [[1, 0, -1], [0, 1, 0]]
    test = source.split("test")
    assert test is not None
    assert boxes_of(test, 0) == []
    assert source.notes == ()


def test_without_boxes_nothing_of_them_is_read(root):
    write(root, {"Annotations/a.xml": xml("<object><name>cat</name><bndbox><xmin>x</xmin></bndbox></object>")})
    train = Voc(root).split("train")
    assert train is not None
    assert train.boxes is None
    assert train.names[0] == "JPEGImages/a.jpg"


BAD = {
    "no box": ("<object><name>cat</name></object>", "an object without <bndbox>: object 1"),
    "a polygon": (
        "<object><name>cat</name><polygon><x1>1</x1></polygon></object>",
        "an object without <bndbox>: object 1 but a <polygon>",
    ),
    "two boxes": (thing().replace("</object>", "<bndbox/></object>"), "an object with several <bndbox>: object 1"),
    "a corner is missing": (thing().replace("<xmax>10</xmax>", ""), "a box without <xmax>: object 1"),
    "a corner is there twice": (thing().replace("<xmax>10</xmax>", "<xmax>10</xmax><xmax>9</xmax>"), "a box with two <xmax>"),
    "a corner is a word": (thing(box=(2, 3, "ten", 12)), "a box whose <xmax> is no number: 'ten' in object 1"),
    "a corner is empty": (thing(box=("", 3, 10, 12)), "a box whose <xmin> is no number: '' in object 1"),
    "NaN": (thing(box=(2, "nan", 10, 12)), r"no finite number: \[2, nan, 10, 12\] in object 1"),
    "infinite": (thing(box=(2, 3, "1e999", 12)), "no finite number"),
    "swapped": (thing(box=(10, 3, 2, 12)), r"a box with swapped corners: \[10, 3, 2, 12\] in object 1"),
    "in shares": (thing(box=(0.1, 0.2, 0.5, 0.7)), "in shares of the image's sides"),
}


@pytest.mark.parametrize("case", BAD)
def test_objects_without_a_box_that_can_be_used_stop_the_run_or_leave_out_their_image(root, case):
    content, reason = BAD[case]
    write(root, {"Annotations/a.xml": xml(content)})
    with pytest.raises(ValueError, match=rf"{root}/Annotations/a\.xml: .*{reason}"):
        Voc(root, boxes=True)
    train, source = boxed_train(Voc, root, on_corrupt="skip")
    assert train.names == ("b.PNG",)
    assert [path for path, _ in source.skipped] == ["Annotations/a.xml"]


def test_boxes_that_no_image_shows_are_left_out_and_counted(root):
    things = thing(box=(2, 3, 10, 12)), thing(box=(31, 1, 40, 9)), thing(box=(5, 5, 4.5, 9)), thing(box=(20, 2, 33, 9))
    write(root, {"Annotations/a.xml": xml(*things)})
    with pytest.raises(ValueError, match="swapped"):
        Voc(root, boxes=True)
    write(root, {"Annotations/a.xml": xml(*things[:2], things[3], thing(box=(5, 5, 9, 5)))})
    train, source = boxed_train(Voc, root)
    assert [box for box, _, _ in boxes_of(train, 0)] == [[19, 1, 30, 9], [1, 2, 10, 12], [4, 4, 9, 5]]
    assert source.notes == (
        "train: boxes outside their image, left out: 1 (first: in a.jpg)",
        "train: boxes that reach out of their image by more than 1 pixel, clipped: 1 (first: in a.jpg)",
    )


def test_ten_thousand_boxes_in_an_image(root):
    write(root, {"Annotations/a.xml": xml(*[thing(box=(x, y, x + 2, y + 2)) for x in range(1, 26) for y in range(1, 17)] * 25)})
    train, source = boxed_train(Voc, root)
    assert len(boxes_of(train, 0)) == 10_000
    assert source.notes == ("train: boxes that are there twice: 9600 (first: in a.jpg)",)


def test_equal_names_in_two_folders_are_told_apart_by_their_paths(tmp_path):
    files = {"a.jpg": encoded(), "a.xml": xml(thing())}
    files = {f"{folder}/{name}": data for folder in ("train", "valid") for name, data in files.items()}
    source = Voc(write(tmp_path, files), boxes=True)
    for split in ("train", "val"):
        images = source.split(split)
        assert images is not None
        assert images.names == ("a.jpg",)
