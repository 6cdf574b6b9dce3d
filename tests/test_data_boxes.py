from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from necklace.boxes.truth import COUNTS, CROWD, IGNORED
from necklace.data.boxes import Boxes
from necklace.data.images import ImageSet


def some(seed: int = 0, images: int = 5, count: int = 12, side: int = 20) -> Boxes:
    """Random boxes in images of `side` pixels; the last image has none."""
    rng = np.random.default_rng(seed)
    first = rng.integers(0, side - 1, (count, 2))
    last = first + 1 + (rng.random((count, 2)) * (side - 1 - first)).astype(int)
    image = rng.integers(0, max(1, images - 1), count)
    return Boxes.build(np.hstack([first, last]), rng.integers(0, 3, count), rng.integers(0, 3, count), image, images)


def image_set(boxes: Boxes, side: int = 20) -> ImageSet:
    pixels = torch.arange(len(boxes) * side * side * 3).remainder(251).to(torch.uint8)
    shapes = torch.full((len(boxes), 2), side)
    return ImageSet(pixels, shapes, boxes.labels(3), tuple(map(str, range(len(boxes)))), boxes=boxes)


def rows(boxes: Boxes, index: int) -> list[tuple[list[float], int, int]]:
    xyxy, classes, flags = boxes.of(index)
    return list(zip(xyxy.tolist(), classes.tolist(), flags.tolist(), strict=True))


def test_boxes_of_an_image_come_in_one_order_whatever_their_order_before() -> None:
    boxes = some(count=40)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0)).numpy()
    xyxy, classes, flags, image = (part.numpy()[order] for part in (boxes.xyxy, boxes.classes, boxes.flags, boxes.image))
    again = Boxes.build(xyxy, classes, flags, image, len(boxes))
    assert again.digest() == boxes.digest()
    assert [rows(again, index) for index in range(5)] == [rows(boxes, index) for index in range(5)]
    assert sum(len(rows(boxes, index)) for index in range(5)) == 40
    moved = boxes.xyxy.clone()
    moved[3, 2] += 0.25
    assert Boxes(moved, boxes.classes, boxes.flags, boxes.offsets).digest() != boxes.digest()


@given(st.integers(0, 99), st.lists(st.integers(0, 5), max_size=6))
@settings(max_examples=50, deadline=None)
def test_a_selection_has_the_boxes_of_its_images(seed: int, chosen: list[int]) -> None:
    boxes = some(seed, images=6)
    found = boxes.select(chosen)
    assert [rows(found, place) for place in range(len(found))] == [rows(boxes, index) for index in chosen]


def test_labels_follow_the_rule_for_ignored_objects() -> None:
    flags = [COUNTS, IGNORED, IGNORED, CROWD]
    boxes = Boxes.build(np.array([[0, 0, 1, 1]] * 4), np.array([1, 1, 2, 0]), np.array(flags), np.array([0, 0, 0, 2]), 3)
    assert boxes.labels(3).tolist() == [[0, 1, -1], [0, 0, 0], [-1, 0, 0]]


def test_targets_are_in_pixels_of_the_batch() -> None:
    boxes = Boxes.build(np.array([[2, 3, 10, 20], [0, 0, 5, 5]]), np.array([1, 0]), np.array([0, 1]), np.array([0, 2]), 4)
    shapes = torch.tensor([[20, 10], [7, 7], [5, 5], [9, 9]])
    targets = boxes.targets(torch.tensor([3, 2, 0]), shapes, (10, 20))
    assert targets.boxes.tolist() == [[0, 0, 20, 10], [4, 1.5, 20, 10]]
    assert targets.image.tolist() == [1, 2]
    assert (targets.classes.tolist(), targets.flags.tolist(), targets.count) == ([0, 1], [1, 0], 3)
    none = boxes.targets(torch.tensor([1, 3]), shapes, (8, 8))
    assert (none.boxes.shape, none.image.tolist(), none.count) == ((0, 4), [], 2)


def test_a_set_of_images_keeps_its_boxes_when_it_is_selected_from_and_its_digest_holds_them() -> None:
    boxes = some()
    images = image_set(boxes)
    part = images.select([4, 2])
    assert part.boxes is not None
    assert rows(part.boxes, 1) == rows(boxes, 2)
    assert ImageSet(images.pixels, images.shapes, images.labels, images.names).digest() != images.digest()
    other = Boxes(boxes.xyxy, boxes.classes, 2 - boxes.flags, boxes.offsets)
    assert ImageSet(images.pixels, images.shapes, images.labels, images.names, boxes=other).digest() != images.digest()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"xyxy": torch.zeros(1, 4)}, "x0 < x1"),
        ({"xyxy": torch.tensor([[0, 0, float("nan"), 1]])}, "finite"),
        ({"xyxy": torch.tensor([[3.0, 0, 1, 1]])}, "x0 < x1"),
        ({"xyxy": torch.ones(2, 4)}, r"xyxy of boxes must be torch\.float32 \[1, 4\]"),
        ({"flags": torch.ones(1)}, r"flags of boxes must be torch\.uint8"),
        ({"flags": torch.tensor([3], dtype=torch.uint8)}, "flags 0 to 2"),
        ({"classes": torch.tensor([-1])}, "must be 0 or above"),
        ({"offsets": torch.tensor([0, 2])}, "ascend from 0 to the 1 boxes"),
        ({"offsets": torch.tensor([0, 2, 1])}, "ascend"),
        ({"offsets": torch.tensor([0.0])}, "offsets of boxes must be int64"),
    ],
)
def test_boxes_that_are_none_are_refused(change: dict[str, Any], reason: str) -> None:
    parts = {"xyxy": torch.tensor([[0.0, 0, 1, 1]]), "classes": torch.tensor([0]), "flags": torch.zeros(1, dtype=torch.uint8)}
    parts["offsets"] = torch.tensor([0, 1])
    Boxes(**parts)
    with pytest.raises(ValueError, match=reason):
        Boxes(**parts | change)


def test_images_refuse_boxes_that_are_not_theirs() -> None:
    boxes = some()
    images = image_set(boxes)
    parts = images.pixels, images.shapes, images.labels, images.names
    with pytest.raises(ValueError, match="boxes of 3 images"):
        ImageSet(*parts, boxes=boxes.select([0, 1, 2]))
    with pytest.raises(ValueError, match="inside their images"):
        ImageSet(*parts, boxes=Boxes(boxes.xyxy + 15, boxes.classes, boxes.flags, boxes.offsets))
    with pytest.raises(ValueError, match="below 3"):
        ImageSet(*parts, boxes=Boxes(boxes.xyxy, boxes.classes + 1, boxes.flags, boxes.offsets))
    with pytest.raises(ValueError, match="int8"):
        ImageSet(images.pixels, images.shapes, torch.zeros(5, dtype=torch.int64), images.names, boxes=boxes)
