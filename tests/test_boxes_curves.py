"""Precision-recall curves: one by hand, and the area below against average precision."""

import numpy as np
import pytest

from necklace.boxes import Evidence, ImageBoxes, evidence_of
from necklace.boxes.curves import precision_recall
from tests.boxes_drawn import drawn, image, large

A, B, NOWHERE = (0.0, 0.0, 10.0, 10.0), (20.0, 0.0, 30.0, 10.0), (50.0, 50.0, 60.0, 60.0)


def evidence(images: list[ImageBoxes], classes: int) -> Evidence:
    return Evidence.joined([evidence_of(images, classes)], len(images))


def test_by_hand() -> None:
    found = [(NOWHERE, 0, 0.9), (A, 0, 0.8), (B, 0, 0.7), (NOWHERE, 0, 0.6)]
    curves = evidence([image(0, [(A, 0, 0), (B, 0, 0), (NOWHERE, 1, 0), ((0, 50, 10, 60), 0, 0)], found)], 3)
    # Right in second and third place: 1/2, then 2/3, which is the better at the recall before, too.
    curve = [0, 1 / 3, 1 / 3, 2 / 3, 2 / 3], [2 / 3, 2 / 3, 2 / 3, 2 / 3, 0]
    np.testing.assert_allclose(precision_recall(curves, 0) or (), curve)
    np.testing.assert_array_equal(precision_recall(curves, 1) or (), [[0], [0]])  # never found
    assert precision_recall(curves, 2) is None


@pytest.mark.parametrize("images", [drawn(3, 12, 3), large(40, 3, 60, 6)])
def test_the_area_below_is_the_average_precision(images: list[ImageBoxes]) -> None:
    found = evidence(images, 3)
    precisions = found.precisions("box_map50")[:, 0]
    for number in range(3):
        curve = precision_recall(found, number)
        assert (curve is None) == bool(np.isnan(precisions[number]))
        if curve:
            recall, precision = curve
            assert (np.diff(recall) >= 0).all()
            assert (np.diff(precision) <= 0).all()
            assert np.trapezoid(precision, recall) == pytest.approx(precisions[number], abs=0.011)  # 101 points of it
