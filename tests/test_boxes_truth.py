import dataclasses

import numpy as np
import pytest

from tests.boxes_drawn import image

GOOD = image(3, [((0, 0, 10, 10), 0, 0)], [((0, 0, 9, 9), 1, 0.5)])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scores": np.array([0.5])}, r"image 3: `scores` is float64 \[1\]: allowed is float32 \[1\]"),
        ({"scores": np.array([np.nan], np.float32)}, "`scores` holds nan: allowed are finite numbers"),
        ({"boxes": np.array([[0, 0, np.inf, 9]], np.float32)}, "`boxes` holds inf"),
        ({"boxes": np.zeros((2, 4), np.float32)}, r"`boxes` is float32 \[2, 4\]: allowed is .* \[1, 4\]"),
        ({"boxes": np.zeros(4, np.float32)}, r"`boxes` is float32 \[4\]"),
        (
            {"true_boxes": np.array([[5, 0, 4, 9]], np.float32)},
            r"`true_boxes` holds \[5.0, 0.0, 4.0, 9.0\]: allowed is \[x0, y0",
        ),
        ({"true_classes": np.array([-1])}, "`true_classes` holds -1: allowed are classes from 0"),
        ({"flags": np.array([3], np.uint8)}, "`flags` holds 3: allowed are 0"),
        ({"flags": np.array([0, 0], np.uint8)}, r"`flags` is uint8 \[2\]: allowed is uint8 \[1\]"),
        ({"classes": np.array([0.0])}, "`classes` is float64"),
        ({"index": -1}, "image -1: 480x640 pixels"),
        ({"height": 0}, "0x640 pixels: allowed are"),
    ],
)
def test_what_is_wrong_is_named(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(GOOD, **change)


def test_an_image_may_have_no_objects_and_no_detections() -> None:
    assert image(0, [], []).boxes.shape == (0, 4)
