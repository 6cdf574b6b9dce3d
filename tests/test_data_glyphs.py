import numpy as np
import pytest

from necklace.data.glyphs import Glyphs


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
