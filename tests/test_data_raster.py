import numpy as np
import pytest

from necklace.data.raster import SHAPES, draw, fit, shuffled_blocks


def distances(segments, height, width):
    """Distance of each pixel centre to the nearest segment, point by point, in float64: [height, width]."""
    out = np.full((height, width), np.inf)
    for (ax, ay), (bx, by) in segments:
        for row in range(height):
            for column in range(width):
                px, py = column + 0.5 - ax, row + 0.5 - ay
                dx, dy = bx - ax, by - ay
                where = min(max((px * dx + py * dy) / (dx * dx + dy * dy), 0.0), 1.0)
                out[row, column] = min(out[row, column], np.hypot(px - where * dx, py - where * dy))
    return out


@pytest.mark.parametrize("shape", ["square", "star", "crescent"])
def test_draw_covers_by_distance_and_blends_with_what_is_there(shape):
    segments, _, _ = fit(SHAPES[shape], extent=14.3, width=1.7, half_tangent=0.08)
    segments = segments + np.array([2.2, -3.4])  # the top is cut off
    image = np.full((15, 20, 3), 100, dtype=np.float32)
    touched = draw(image, segments, 1.7, (200.0, 50.0, 100.0))
    expected = np.clip(1.7 / 2 + 0.5 - distances(segments, 15, 20), 0, 1)
    np.testing.assert_allclose(image, 100 + expected[..., None] * np.array([100.0, -50.0, 0.0]), atol=1e-2)
    assert touched is not None
    top, left, coverage = touched
    full = np.zeros((15, 20))
    full[top : top + coverage.shape[0], left : left + coverage.shape[1]] = coverage
    np.testing.assert_allclose(full, expected, atol=1e-4)


def test_draw_outside_the_image_does_nothing():
    image = np.zeros((5, 5, 3), dtype=np.float32)
    assert draw(image, SHAPES["square"] + 50, 1.0, (255.0, 255.0, 255.0)) is None
    assert not image.any()


@pytest.mark.parametrize("tilt", [-0.125, 0.0, 0.125])
@pytest.mark.parametrize("shape", list(SHAPES))
def test_fit_fills_its_box_fringe_included(shape, tilt):
    extent, width = 17.0, 1.8
    segments, height, box_width = fit(SHAPES[shape], extent, width, tilt)
    assert max(height, box_width) == pytest.approx(extent)
    image = np.zeros((30, 30, 3), dtype=np.float32)
    draw(image, segments + 5.0, width, (1.0, 1.0, 1.0))
    rows, columns = np.flatnonzero(image[..., 0].any(axis=1)), np.flatnonzero(image[..., 0].any(axis=0))
    assert rows[0] >= 5
    assert columns[0] >= 5
    for low, high, side in ((rows[0], rows[-1], height), (columns[0], columns[-1], box_width)):
        assert high + 1 <= 5 + np.ceil(side)
        assert high + 1 - low >= side - 2.5  # a slanted tip may touch no pixel's centre


def test_shapes_are_distinct():
    masks = []
    for shape in SHAPES.values():
        segments, height, width = fit(shape, extent=18.0, width=1.8)
        image = np.zeros((20, 20, 3), dtype=np.float32)
        draw(image, segments + np.array([10 - width / 2, 10 - height / 2]), 1.8, (1.0, 1.0, 1.0))
        masks.append(image[..., 0] > 0.5)
    for first in range(10):
        for second in range(first):
            both, either = masks[first] & masks[second], masks[first] | masks[second]
            assert both.sum() / either.sum() < 0.6, (list(SHAPES)[first], list(SHAPES)[second])


def test_shuffled_blocks_hold_each_kind_once():
    values = shuffled_blocks(np.random.default_rng(0), 7, 38)
    assert len(values) == 38
    assert all(sorted(values[start : start + 7]) == list(range(7)) for start in range(0, 35, 7))
    assert len({tuple(values[start : start + 7]) for start in range(0, 35, 7)}) > 1
