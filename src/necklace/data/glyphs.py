"""Generated images: one outlined glyph of ten kinds on a textured, cluttered image. Needs no download.

The label is the shape of the glyph. Its size, place, tilt and colour vary; colours are independent of the label, and clutter
consists of short strokes and arcs, never of whole glyphs. Any sensible network learns it, whatever its neck: it shows that a
set-up trains, not that one neck is better than another (`context` does that). How pixels are drawn is in `raster.py`.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from necklace.data.cache import drawn_split
from necklace.data.images import ImageSet, SplitName
from necklace.data.raster import (
    SHAPES,
    check_counts,
    draw,
    finish,
    fit,
    scribble,
    shuffled_blocks,
    side,
    size_range,
    textured,
)
from necklace.seeding import numpy_generator


def contrasting(candidates: np.ndarray, background: np.ndarray, contrast: float) -> np.ndarray:
    """Return the first colour of `[M, 3]` whose brightness differs by `contrast` from the background's `[3]`, else the best."""
    away = candidates - background
    difference = np.abs(0.299 * away[:, 0] + 0.587 * away[:, 1] + 0.114 * away[:, 2])
    enough = difference >= contrast
    return candidates[int(enough.argmax()) if enough.any() else int(difference.argmax())]


class Glyphs:
    """Ten outlined glyphs of varying size, place, tilt and colour on textured, cluttered images of varying sizes.

    Every image has its own random stream (seed, split, index), so a larger split begins with the same images.
    They are drawn when a split is requested.

    Args:
        train: Number of training images.
        test: Number of test images.
        image_size: One side length, or the range from which height and width are drawn independently.
        scale: Range of the glyph's extent, as a share of the image's shorter side.
        clutter: Number of clutter strokes, drawn under the glyph.
        texture: Amplitude of the background's texture, as a share of the full range.
        seed: Seed of the images; it does not depend on the run's seed.
        cache: Folder for files of drawn images, see `cache.py`; None: each process draws them into memory.

    Raises:
        ValueError: An option is out of range.

    Attributes:
        classes: The names of the ten shapes.
        skipped: Always empty.
    """

    classes: tuple[str, ...] = tuple(SHAPES)
    skipped: tuple[tuple[str, str], ...] = ()

    def __init__(  # noqa: PLR0913, the options of its config
        self,
        train: int = 4000,
        test: int = 1000,
        image_size: int | Sequence[int] = (36, 52),
        scale: Sequence[float] = (0.45, 0.8),
        clutter: int = 4,
        texture: float = 0.1,
        seed: int = 0,
        cache: str | Path | None = None,
    ):
        self.sizes = size_range("glyphs", image_size)
        self.scale = (float(scale[0]), float(scale[-1]))
        self.counts: dict[SplitName, int] = {"train": train, "test": test}
        self.clutter = clutter
        self.texture = texture
        self.seed = seed
        self.cache = cache
        check_counts("glyphs", train=train, test=test, clutter=clutter, texture=texture)
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise ValueError(f"glyphs: scale={list(scale)} must be two shares in (0, 1], the smaller one first")
        if self.scale[0] * self.sizes[0] < 8:
            raise ValueError(
                f"glyphs: scale={list(scale)} of image_size={image_size} gives glyphs below 8 px, which look alike"
            )

    def split(self, name: SplitName) -> ImageSet | None:
        """Draw the images of `train` or `test`, or take them from the cache; there is no `val`."""
        return drawn_split(self, name, lambda: self._drawn(name)) if name in self.counts else None

    def _drawn(self, name: SplitName) -> ImageSet:
        labels = shuffled_blocks(numpy_generator(self.seed, f"glyphs/{name}/labels"), len(SHAPES), self.counts[name])
        images = (self._image(name, index, int(label)) for index, label in enumerate(labels))
        return ImageSet.build(images, labels.tolist(), [f"{name}/{index}" for index in range(len(labels))])

    def _image(self, split: str, index: int, label: int) -> torch.Tensor:
        rng = numpy_generator(self.seed, f"glyphs/{split}", index)
        height, width = side(rng, self.sizes), side(rng, self.sizes)
        shorter = min(height, width)
        base = 40 + 175 * rng.random(3)
        colour = contrasting(255 * rng.random((24, 3)), base, 85)
        image = textured(rng, height, width, base, self.texture, channels=3)
        scribble(rng, image, (0.15 * shorter, 0.4 * shorter), 255 * rng.random((self.clutter, 3)))
        share, tilt, thickness, down, across = rng.random(5).tolist()
        extent = shorter * (self.scale[0] + share * (self.scale[1] - self.scale[0]))
        line = max(1.6, extent * (0.07 + 0.05 * thickness))
        shape, box_height, box_width = fit(list(SHAPES.values())[label], extent, line, (tilt - 0.5) * 0.25)
        corner = np.array([across * (width - box_width), down * (height - box_height)])
        draw(image, shape + corner, line, colour.tolist())
        return finish(image)
