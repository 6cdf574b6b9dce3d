import dataclasses
from collections.abc import Callable

import numpy as np
import pytest

from necklace.boxes import Evidence, evidence_of
from necklace.boxes.matching import ALL_IOUS, RIGHT
from tests.boxes_drawn import drawn, image

GOOD = Evidence.joined([evidence_of(drawn(1, 12, 3, 14), 3)], 12)


def changed(name: str, place: int | tuple[int, int], value: int) -> dict[str, np.ndarray]:
    values = getattr(GOOD, name).copy()
    values[place] = value
    return {name: values}


def swapped() -> dict[str, np.ndarray]:
    return {"object_image": GOOD.object_image[::-1].copy(), "object_class": GOOD.object_class[::-1].copy()}


WRONG: dict[str, tuple[Callable[[], dict[str, np.ndarray]], str]] = {
    "type": (lambda: {"image": GOOD.image.astype(np.int64)}, "`image` is int64"),
    "length": (lambda: {"voc": GOOD.voc[1:]}, "`voc` is uint8"),
    "axes": (lambda: {"true": GOOD.true[:, :3]}, "`true` is uint16"),
    "images": (lambda: {"images": GOOD.images[::-1].copy()}, "`images` are not ascending"),
    "image": (lambda: changed("image", 0, 12), "`image` holds an image that is not of the 12"),
    "object's image": (lambda: changed("object_image", 0, -1), "`object_image` holds"),
    "first start": (lambda: changed("starts", 0, 1), "`starts` do not ascend from 0"),
    "last start": (lambda: changed("starts", -1, 10_000), "`starts` do not ascend from 0"),
    "no class": (lambda: {"starts": np.array([0, len(GOOD.image)])}, "`starts` do not ascend"),
    "object's class": (lambda: changed("object_class", -1, 3), "`object_class` holds a class"),
    "order": (swapped, "not in order of class and image"),
    "range": (lambda: changed("object_ranges", 0, 16), "unknown range of areas"),
    "IoU": (lambda: changed("true", (0, 0), 2**10), "unknown IoU"),
    "both": (lambda: {"true": GOOD.true | 1, "ignored": GOOD.ignored | 1}, "at which a detection is both"),
    "VOC": (lambda: changed("voc", 0, 3), "`voc` holds 3"),
    "VOC together": (lambda: changed("voc", -1, 0), "with all classes as one"),
    "class together": (lambda: changed("ignored", (-1, 1), 0), "with all classes as one"),
    "class of nothing": (
        lambda: changed("true", (-1, 1), 1 << 9) | changed("ignored", (-1, 1), int(ALL_IOUS) & ~(1 << 9)),
        "has the class of an object that it did not find",
    ),
    "area together": (lambda: changed("ignored", (-1, 2), 0), "with all classes as one"),
    "no object": (
        lambda: {name: getattr(GOOD, name)[:0] for name in ("object_image", "object_class", "object_ranges")},
        "in an image that has no such object",
    ),
    "all right": (lambda: {"voc": np.where(GOOD.voc < 2, RIGHT, GOOD.voc).astype(np.uint8)}, ""),
    "no range": (lambda: {"object_ranges": np.zeros_like(GOOD.object_ranges)}, "more right detections than objects"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be_is_refused(name: str) -> None:
    change, message = WRONG[name]
    with pytest.raises(ValueError, match=f"evidence: .*{message}"):
        dataclasses.replace(GOOD, **change())


def test_more_right_detections_than_objects() -> None:
    box = (0.0, 0.0, 10.0, 10.0)
    found = [(box, 0, 0.9), (box, 0, 0.8)]
    part = evidence_of([image(0, [(box, 0, 0)], found)], 1)
    assert (part.true[:2, 0] > 0).tolist() == [True, False]
    true, ignored = part.true.copy(), part.ignored.copy()
    true[1], ignored[1] = true[0], ignored[0]
    with pytest.raises(ValueError, match="more right detections than objects"):
        dataclasses.replace(part, true=true, ignored=ignored)
