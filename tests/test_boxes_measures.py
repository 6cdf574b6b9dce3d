"""Every COCO metric against pycocotools."""

import dataclasses
import io
from contextlib import redirect_stdout
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from necklace.boxes import CROWD, IGNORED, MEASURES, Evidence, ImageBoxes, evidence_of
from tests.boxes_drawn import drawn, image, large

AREAS = ["all", "small", "medium", "large"]


class Reference(COCOeval):
    """pycocotools overwrites a given `ignore` by `iscrowd`; this puts it back, and all else is its own."""

    def _prepare(self) -> None:
        super()._prepare()  # pyright: ignore[reportAttributeAccessIssue]
        for truths in self._gts.values():  # pyright: ignore[reportAttributeAccessIssue]
            for truth in truths:
                truth["ignore"] = truth["flag"] in (IGNORED, CROWD)


def coco_data(images: list[ImageBoxes], classes: int, found: bool) -> COCO:
    annotations: list[dict[str, Any]] = []
    for each in images:
        boxes, labels = (each.boxes, each.classes) if found else (each.true_boxes, each.true_classes)
        for number, (box, label) in enumerate(zip(boxes.astype(float).tolist(), labels.tolist(), strict=True)):
            x0, y0, x1, y1 = box
            flag = 0 if found else int(each.flags[number])
            entry = {"id": len(annotations) + 1, "image_id": each.index, "category_id": label, "flag": flag}
            entry |= {"bbox": [x0, y0, x1 - x0, y1 - y0], "area": (x1 - x0) * (y1 - y0), "iscrowd": int(flag == CROWD)}
            annotations.append(entry | ({"score": float(each.scores[number])} if found else {}))
    data = COCO()
    dataset: Any = {
        "images": [{"id": each.index} for each in images],
        "annotations": annotations,
        "categories": [{"id": number, "name": str(number)} for number in range(classes)],
    }
    data.dataset = dataset
    data.createIndex()
    return data


def reference(images: list[ImageBoxes], classes: int, together: bool = False) -> tuple[np.ndarray, list[bool]]:
    """pycocotools' precision [IoUs, recalls, classes, areas] at 100 detections; -1 where there is no object.

    And for each object that was found at an IoU of 0.5, whether the detection has its class.
    """
    true, found = coco_data(images, classes, found=False), coco_data(images, classes, found=True)
    with redirect_stdout(io.StringIO()):
        evaluation = Reference(true, found, "bbox")
        evaluation.params.useCats = 0 if together else 1
        evaluation.evaluate()
        evaluation.accumulate()
    own = []
    whole = evaluation.evalImgs[: len(images)]  # of the first range of areas, all of them; together there is one class
    for each in filter(None, whole if together else []):
        for number, match, ignored in zip(each["dtIds"], each["dtMatches"][0], each["dtIgnore"][0], strict=True):
            if match and not ignored:
                own.append(true.anns[int(match)]["category_id"] == found.anns[number]["category_id"])
    return evaluation.eval["precision"][..., -1], own


def at_places_of_their_own(image: ImageBoxes) -> ImageBoxes:
    """The image's detections that overlap no better one by more than half, one after the other."""
    kept: list[int] = []
    for number in np.lexsort((image.classes, -image.scores)).tolist():
        x0, y0, x1, y1 = image.boxes[number].astype(float).tolist()
        for better in kept:
            a0, b0, a1, b1 = image.boxes[better].astype(float).tolist()
            common = max(0.0, min(x1, a1) - max(x0, a0)) * max(0.0, min(y1, b1) - max(y0, b0))
            if common and common / ((x1 - x0) * (y1 - y0) + (a1 - a0) * (b1 - b0) - common) > 0.5:
                break
        else:
            kept.append(number)
    kept.sort()
    return dataclasses.replace(image, boxes=image.boxes[kept], scores=image.scores[kept], classes=image.classes[kept])


def expected(images: list[ImageBoxes], classes: int) -> dict[str, float]:
    """What pycocotools says, under our names; what it gives as -1 is left out."""
    precision, _ = reference(images, classes)
    together, own = reference([at_places_of_their_own(each) for each in images], classes, together=True)
    parts = {f"box_map_{name}": precision[..., number] for number, name in enumerate(AREAS) if number}
    parts |= {"box_map": precision[..., 0], "box_map50": precision[0, ..., 0], "box_map75": precision[5, ..., 0]}
    parts |= {"box_loc": together[..., 0], "box_loc50": together[0, ..., 0]}
    parts |= {f"box_ap/{number}": precision[:, :, number, 0] for number in range(classes)}
    parts |= {f"box_ap50/{number}": precision[0, :, number, 0] for number in range(classes)}
    due = {name: float(values[values > -1].mean()) for name, values in parts.items() if (values > -1).any()}
    return due | ({"box_class50": sum(own) / len(own)} if own else {})


def check(images: list[ImageBoxes], classes: int) -> dict[str, float]:
    found = Evidence.joined([evidence_of(images, classes)], len(images)).metrics([str(number) for number in range(classes)])
    due = expected(images, classes)
    assert {name for name in found if not name.startswith(("box_map07", "box_map12", "box_map_classes"))} == set(due)
    assert found == pytest.approx(found | due, abs=1e-9)
    return found


@settings(max_examples=50, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32), images=st.integers(1, 12), classes=st.integers(1, 4), most=st.integers(1, 14))
def test_equal_to_pycocotools(seed: int, images: int, classes: int, most: int) -> None:
    check(drawn(seed, images, classes, most), classes)


def test_the_drawn_sets_have_what_they_are_drawn_for() -> None:
    sets = [drawn(seed, 12, 3, 14) for seed in range(5)]
    flat = [each for images in sets for each in images]
    assert any(not len(each.flags) for each in flat)
    assert any(not len(each.scores) for each in flat)
    assert {int(flag) for each in flat for flag in each.flags} == {0, 1, 2}
    assert any(len(np.unique(each.boxes, axis=0)) < len(each.boxes) for each in flat)
    for images in sets:
        found = check(images, 3)
        assert 0 < found["box_map"] < 1
        assert set(MEASURES) <= set(found)


def test_equal_to_pycocotools_on_boxes_that_lie_on_no_grid() -> None:
    found = check(large(60, 4, 60, 6), 4)
    assert 0.2 < found["box_map"] < 0.9


def test_a_hundred_detections_for_each_class_of_an_image() -> None:
    # 150 objects of a class in an image, all found: 100 count, so at most two thirds are found. Of another class, 60 are found
    # in the same image: the limit is for each class. With all classes as one, 100 of the 210 count.
    first = [((4.0 * n, 0.0, 4.0 * n + 3, 40.0), 0) for n in range(150)]
    second = [((4.0 * n, 50.0, 4.0 * n + 3, 90.0), 1) for n in range(60)]
    boxes = first + second
    found = [(box, label, 0.9 - 0.001 * (n % 150)) for n, (box, label) in enumerate(boxes)]
    metrics = check([image(0, [(box, label, 0) for box, label in boxes], found)], 2)
    assert metrics["box_ap/0"] == pytest.approx(67 / 101)  # recalls 0, 0.01, ..., 0.66
    assert metrics["box_ap/1"] == 1
    assert metrics["box_loc"] == pytest.approx(48 / 101)  # 100 / 210 = 0.476
    assert metrics["box_map12"] == pytest.approx(1)  # VOC has no limit


def test_recalls_are_compared_as_coco_compares_them() -> None:
    # Of 100 objects, 35 are found, at precision 1: a recall of 0.35 is below COCO's point 0.35000000000000003.
    assert np.linspace(0, 1, 101)[35] > 0.35
    for right, points in ((35, 35), (36, 37), (41, 41)):
        boxes = [(6.0 * n, 0.0, 6.0 * n + 5, 9.0) for n in range(100)]
        found = [(box, 0, 0.5) for box in boxes[:right]]
        assert check([image(0, [(box, 0, 0) for box in boxes], found)], 1)["box_map"] == pytest.approx(points / 101)


def test_nothing_to_average_gives_no_key() -> None:
    box = (0.0, 0.0, 10.0, 10.0)
    nothing = [image(0, [], []), image(1, [(box, 0, IGNORED)], [(box, 0, 0.9), (box, 1, 0.8)])]
    assert check(nothing, 2) == {"box_map_classes": 0}
    one = check([*nothing, image(2, [(box, 1, 0)], [])], 3)
    assert one["box_map_classes"] == 1
    assert one["box_map"] == one["box_ap/1"] == one["box_map_small"] == one["box_map07"] == one["box_loc"] == 0
    assert not {"box_ap/0", "box_ap/2", "box_map_medium", "box_map_large"} & set(one)
