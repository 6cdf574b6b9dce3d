import numpy as np
import pytest

from necklace.data.glyphs import SHAPES, Glyphs, draw, fit, shuffled_blocks


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
    canvas = np.full((15, 20, 3), 100, dtype=np.float32)
    touched = draw(canvas, segments, 1.7, (200.0, 50.0, 100.0))
    expected = np.clip(1.7 / 2 + 0.5 - distances(segments, 15, 20), 0, 1)
    np.testing.assert_allclose(canvas, 100 + expected[..., None] * np.array([100.0, -50.0, 0.0]), atol=1e-2)
    assert touched is not None
    top, left, coverage = touched
    full = np.zeros((15, 20))
    full[top : top + coverage.shape[0], left : left + coverage.shape[1]] = coverage
    np.testing.assert_allclose(full, expected, atol=1e-4)


def test_draw_outside_the_canvas_does_nothing():
    canvas = np.zeros((5, 5, 3), dtype=np.float32)
    assert draw(canvas, SHAPES["square"] + 50, 1.0, (255.0, 255.0, 255.0)) is None
    assert not canvas.any()


@pytest.mark.parametrize("tilt", [-0.125, 0.0, 0.125])
@pytest.mark.parametrize("shape", list(SHAPES))
def test_fit_fills_its_box_fringe_included(shape, tilt):
    extent, width = 17.0, 1.8
    segments, height, box_width = fit(SHAPES[shape], extent, width, tilt)
    assert max(height, box_width) == pytest.approx(extent)
    canvas = np.zeros((30, 30, 3), dtype=np.float32)
    draw(canvas, segments + 5.0, width, (1.0, 1.0, 1.0))
    rows, columns = np.flatnonzero(canvas[..., 0].any(axis=1)), np.flatnonzero(canvas[..., 0].any(axis=0))
    assert rows[0] >= 5
    assert columns[0] >= 5
    for low, high, side in ((rows[0], rows[-1], height), (columns[0], columns[-1], box_width)):
        assert high + 1 <= 5 + np.ceil(side)
        assert high + 1 - low >= side - 2.5  # a slanted tip may touch no pixel's centre


def test_shapes_are_distinct():
    masks = []
    for shape in SHAPES.values():
        segments, height, width = fit(shape, extent=18.0, width=1.8)
        canvas = np.zeros((20, 20, 3), dtype=np.float32)
        draw(canvas, segments + np.array([10 - width / 2, 10 - height / 2]), 1.8, (1.0, 1.0, 1.0))
        masks.append(canvas[..., 0] > 0.5)
    for first in range(10):
        for second in range(first):
            both, either = masks[first] & masks[second], masks[first] | masks[second]
            assert both.sum() / either.sum() < 0.6, (list(SHAPES)[first], list(SHAPES)[second])


@pytest.fixture(scope="module")
def train():
    images = Glyphs(train=200, test=20).split("train")
    assert images is not None
    return images


def test_the_same_seed_gives_the_same_pixels_on_every_machine():
    images = Glyphs(train=30, test=10).split("train")
    assert images is not None
    # Stored once. If it changes, finished runs on glyphs no longer compare with new ones.
    assert images.digest() == "9ac6ec023d54cc025b848afc3d01c0141176e4a564f8c44208c3e0716fc124fc"


def test_more_images_leave_the_earlier_ones_as_they_were(train):
    fewer = Glyphs(train=33, test=0).split("train")
    assert fewer is not None
    assert fewer.digest() == train.select(range(33)).digest()


def test_seeds_and_splits_differ(train):
    test = Glyphs(train=0, test=20).split("test")
    other = Glyphs(train=20, test=0, seed=1).split("train")
    assert test is not None
    assert other is not None
    bytes_of = [{images.image(i).numpy().tobytes() for i in range(20)} for images in (train, test, other)]
    assert not bytes_of[0] & bytes_of[1]
    assert not bytes_of[0] & bytes_of[2]
    assert test.names[17] == "test/17"
    assert Glyphs(train=0, test=0).split("val") is None


def test_classes_are_balanced_and_sizes_vary_over_the_range(train):
    assert np.bincount(train.labels).tolist() == [20] * 10
    assert len(Glyphs.classes) == 10
    sides = train.shapes.numpy()
    assert sides.min() == 36
    assert sides.max() == 52
    assert abs(np.corrcoef(sides[:, 0], sides[:, 1])[0, 1]) < 0.2


def test_colour_says_nothing_about_the_class():
    images = Glyphs(train=600, image_size=36, clutter=0).split("train")
    assert images is not None
    pixels = images.resized(36, 36).double().numpy().reshape(600, -1, 3)
    background = np.median(pixels, axis=1)
    # The glyph's colour: that of the pixel farthest from the background.
    farthest = np.abs(pixels - background[:, None]).sum(axis=2).argmax(axis=1)
    ink = pixels[np.arange(600), farthest]
    labels = images.labels.numpy()
    for colours in (background, ink):
        for channel in range(3):
            groups = [colours[labels == label, channel] for label in range(10)]
            between = 60 * sum((group.mean() - colours[:, channel].mean()) ** 2 for group in groups) / 9
            within = np.mean([group.var(ddof=1) for group in groups])
            # One-way F(9, 590): its 99.9 % point is 3.1, and six are looked at.
            assert between / within < 3.5


def test_options_are_used():
    plain = Glyphs(train=12, image_size=40, scale=(0.5, 0.5), clutter=0, texture=0.0).split("train")
    assert plain is not None
    assert plain.common_shape == (40, 40)
    for index in range(12):
        image = plain.image(index).numpy().astype(int)
        colours, counts = np.unique(image.reshape(-1, 3), axis=0, return_counts=True)
        glyph = np.abs(image - colours[counts.argmax()]).sum(axis=2) > 0
        rows, columns = np.flatnonzero(glyph.any(axis=1)), np.flatnonzero(glyph.any(axis=0))
        longer = max(rows[-1] - rows[0], columns[-1] - columns[0]) + 1
        assert 17 <= longer <= 21
    cluttered = Glyphs(train=12, image_size=40, scale=(0.5, 0.5), clutter=6, texture=0.0).split("train")
    assert cluttered is not None
    assert cluttered.digest() != plain.digest()


def test_shuffled_blocks_hold_each_kind_once():
    values = shuffled_blocks(np.random.default_rng(0), 7, 38)
    assert len(values) == 38
    assert all(sorted(values[start : start + 7]) == list(range(7)) for start in range(0, 35, 7))
    assert len({tuple(values[start : start + 7]) for start in range(0, 35, 7)}) > 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scale": (0.8, 0.4)}, r"scale=\[0.8, 0.4\]"),
        ({"scale": (0.5, 1.2)}, "scale="),
        ({"scale": (0.1, 0.2)}, "below 8 px"),
        ({"image_size": (52, 36)}, r"image_size=\(52, 36\)"),
        ({"image_size": 0}, "image_size=0"),
        ({"image_size": (1, 2, 3)}, "image_size="),
        ({"train": -1}, "train=-1"),
        ({"clutter": -2}, "clutter=-2"),
    ],
)
def test_impossible_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        Glyphs(**options)
