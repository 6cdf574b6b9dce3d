"""A diagnostic with a known answer, for detection: can a neck tell the class of a box from a thing that is far away?

Each image shows one or two grey glyphs, each with a box, and one small coloured square, the marker. The class of every box is
the marker's colour. At least `min_gap` empty pixels lie between the marker and each glyph along the axis with more of them, so
no square window of `min_gap` pixels or fewer contains both. The colour is uniform, and independent of all else in the image.

**Expected results.** A detector whose features see no window wider than the gap finds every glyph, and guesses its class: with
4 colours 25 % are right, for any length of training, as at a place that shows a glyph nothing depends on the colour. One
that reaches the marker gets all classes right. Both find the places alike, so `test/box_loc50` has to be near 1 before a
class says anything. What makes every place depend on the whole image, such as normalisation over all places of an image
(GroupNorm), solves it too, and is not allowed in a head: the receptive field of backbone and head together has to be smaller
than the gap.

The gap is at most `max_gap` where the room allows it: a neck with a large window then reaches the marker from each glyph. It is
measured from the square that the glyph is placed in, which is up to a few pixels larger than a flat glyph's box.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from necklace.boxes.truth import COUNTS
from necklace.data.boxes import Boxes
from necklace.data.cache import drawn_split
from necklace.data.context import COLOURS, KINDS
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

_TRIES = 1000


@dataclass(frozen=True, eq=False)
class BoxFacts:
    """Contents of each image of a split. Boxes are x0, y0, x1, y1 in pixels, the last two exclusive.

    Attributes:
        colour: int64 `[N]`, the marker's colour: index into `COLOURS`.
        marker_box: int64 `[N, 4]`, the box of the marker.
        glyph_boxes: For each image int64 `[1 or 2, 4]`, the tightest boxes around the glyphs, antialiased fringe included.
    """

    colour: np.ndarray
    marker_box: np.ndarray
    glyph_boxes: list[np.ndarray]


class ContextBoxes:
    """Images of glyphs whose class is the colour of a distant marker. See the module's docstring.

    Every image has its own random stream (seed, split, index). Each block of images contains every colour equally often, with
    one and with two glyphs.

    Args:
        train: Number of training images.
        test: Number of test images.
        image_size: One side length, or the range from which height and width are drawn independently.
        marker: Side of the marker, in pixels.
        min_gap: Minimum number of empty pixels between the marker and each glyph, along the axis with more of them.
        max_gap: Their maximum number.
        glyph: Range of the glyphs' extent in pixels, antialiased fringe included.
        classes: Number of colours, 2 to 4.
        clutter: Number of grey clutter strokes, drawn under glyphs and marker.
        texture: Amplitude of the background's texture, as a share of the full range.
        seed: Seed of the images; it does not depend on the run's seed.
        boxes: Whether the images come with their boxes, or with the colour as a label alone.
        cache: Folder for files of drawn images, see `cache.py`; None: each process draws them into memory.

    Raises:
        ValueError: An option is out of range, or glyphs, gap and marker do not fit into the image.

    Attributes:
        classes: Names of the colours.
        min_gap: As above.
        skipped: Always empty.
    """

    skipped: tuple[tuple[str, str], ...] = ()

    def __init__(  # noqa: PLR0913, the options of its config
        self,
        train: int = 2000,
        test: int = 500,
        image_size: int | Sequence[int] = 80,
        marker: int = 7,
        min_gap: int = 26,
        max_gap: int = 30,
        glyph: Sequence[float] = (12, 15),
        classes: int = 4,
        clutter: int = 2,
        texture: float = 0.05,
        seed: int = 0,
        boxes: bool = False,
        cache: str | Path | None = None,
    ):
        check_counts("context_boxes", train=train, test=test, clutter=clutter, texture=texture, min_gap=min_gap)
        self.sizes = size_range("context_boxes", image_size)
        self.glyph = (float(glyph[0]), float(glyph[-1]))
        self.counts: dict[SplitName, int] = {"train": train, "test": test}
        self.marker, self.min_gap, self.max_gap = marker, min_gap, max_gap
        self.clutter, self.texture, self.seed, self.boxes, self.cache = clutter, texture, seed, boxes, cache
        if not 2 <= classes <= len(COLOURS):
            raise ValueError(f"context_boxes: classes={classes} must be 2 to {len(COLOURS)}")
        if marker < 1:
            raise ValueError(f"context_boxes: marker={marker} must be at least 1 pixel")
        if max_gap < min_gap:
            raise ValueError(f"context_boxes: max_gap={max_gap} must be min_gap={min_gap} or more")
        if not 8 <= self.glyph[0] <= self.glyph[1]:
            raise ValueError(f"context_boxes: glyph={list(glyph)} must be a range of pixels from 8; smaller glyphs look alike")
        needed = max(math.ceil(self.glyph[1]) + min_gap + marker, 2 * math.ceil(self.glyph[1]))
        if needed > self.sizes[0]:
            raise ValueError(
                f"context_boxes: glyph (up to {math.ceil(self.glyph[1])}) + min_gap ({min_gap}) + marker ({marker}), and two "
                f"glyphs beside each other, need {needed} pixels, image_size={image_size} offers {self.sizes[0]}"
            )
        self.classes: tuple[str, ...] = tuple(COLOURS)[:classes]

    def split(self, name: SplitName) -> ImageSet | None:
        """Draw the images of `train` or `test`, or take them from the cache; there is no `val`."""
        return drawn_split(self, name, lambda: self._generate(name)[0]) if name in self.counts else None

    def facts(self, name: SplitName) -> BoxFacts:
        """Return the contents of each image of `train` or `test`; draws the split again."""
        return self._generate(name)[1]

    def _generate(self, name: SplitName) -> tuple[ImageSet, BoxFacts]:
        count, classes = self.counts[name], len(self.classes)
        drawn = shuffled_blocks(numpy_generator(self.seed, f"context_boxes/{name}/labels"), 2 * classes, count)
        glyphs, colour = np.divmod(drawn, classes)
        made = [self._image(name, index, int(glyphs[index]) + 1, int(colour[index])) for index in range(count)]
        facts = BoxFacts(colour, np.array([marker for _, marker, _ in made]).reshape(-1, 4), [boxes for *_, boxes in made])
        image = np.repeat(np.arange(count), glyphs + 1)
        corners = np.concatenate([*facts.glyph_boxes, np.empty((0, 4))])
        boxes = Boxes.build(corners, colour[image], np.full(len(image), COUNTS), image, count)
        return ImageSet.build(
            [pixels for pixels, *_ in made],
            boxes.labels(classes) if self.boxes else colour.tolist(),
            [f"{name}/{index}" for index in range(count)],
            boxes if self.boxes else None,
        ), facts

    def _image(
        self, split: str, index: int, glyphs: int, colour: int
    ) -> tuple[torch.Tensor, tuple[int, int, int, int], np.ndarray]:
        """Return pixels, the marker's box, and the glyphs' boxes int64 [glyphs, 4]."""
        rng = numpy_generator(self.seed, f"context_boxes/{split}", index)
        height, width = side(rng, self.sizes), side(rng, self.sizes)
        # Greys as in `context.py`: glyphs are brighter than background and clutter, and only the marker is coloured.
        tints = 8 * (rng.random((self.clutter + 3, 3)) - 0.5)
        greys = rng.random((self.clutter + 3, 1))
        image = textured(rng, height, width, 50 + 40 * greys[0] + tints[0], self.texture, channels=1)
        scribble(rng, image, (5, 12), 130 * greys[3:] + tints[3:])
        kinds, extents, thickness, tilts, downs, acrosses = rng.random((6, 2)).tolist()
        extents = [self.glyph[0] + extent * (self.glyph[1] - self.glyph[0]) for extent in extents]
        (top, left), places = self._places(rng, height, width, [math.ceil(extent) for extent in extents[:glyphs]])
        boxes = []
        for number, (y, x) in enumerate(places):
            extent, line = extents[number], 1.6 + 0.5 * thickness[number]
            kind = SHAPES[KINDS[int(kinds[number] * len(KINDS))]]
            shape, real_height, real_width = fit(kind, extent, line, (tilts[number] - 0.5) * 0.25)
            room = math.ceil(extent)
            corner = np.array([x + acrosses[number] * (room - real_width), y + downs[number] * (room - real_height)])
            touched = draw(image, shape + corner, line, (205 + 50 * greys[1 + number] + tints[1 + number]).tolist())
            assert touched is not None
            row, column, coverage = touched
            rows, columns = (np.flatnonzero((coverage > 0).any(axis=axis)) for axis in (1, 0))
            boxes.append([column + columns[0], row + rows[0], column + columns[-1] + 1, row + rows[-1] + 1])
        image[top : top + self.marker, left : left + self.marker] = list(COLOURS.values())[colour]
        marker_box = (left, top, left + self.marker, top + self.marker)
        return finish(image), marker_box, np.array(boxes, dtype=np.int64)

    def _places(
        self, rng: np.random.Generator, height: int, width: int, rooms: Sequence[int]
    ) -> tuple[tuple[int, int], list[tuple[int, int]]]:
        """Draw top and left of the marker and of a square of each of `rooms` pixels, apart from it and from each other."""
        for _ in range(_TRIES):
            top = int(rng.random() * (height - self.marker + 1))
            left = int(rng.random() * (width - self.marker + 1))
            taken: list[tuple[int, int, int]] = []
            for room in rooms:
                rows, columns = np.arange(height - room + 1)[:, None], np.arange(width - room + 1)[None, :]
                gap = np.maximum(_apart(rows, room, top, self.marker), _apart(columns, room, left, self.marker))
                free = (gap >= self.min_gap) & (gap <= self.max_gap)
                for y, x, other in taken:
                    free &= np.maximum(_apart(rows, room, y, other), _apart(columns, room, x, other)) >= 0
                allowed = np.flatnonzero(free)
                if not len(allowed):
                    break
                place = int(allowed[int(rng.random() * len(allowed))])
                taken.append((place // free.shape[1], place % free.shape[1], room))
            if len(taken) == len(rooms):
                return (top, left), [(y, x) for y, x, _ in taken]
        raise ValueError(
            f"context_boxes: no place for {len(rooms)} glyphs {self.min_gap} to {self.max_gap} pixels from the marker in an "
            f"image of {height}x{width}: a larger image_size or max_gap has room"
        )


def _apart(starts: np.ndarray, length: int, other: int, other_length: int) -> np.ndarray:
    """Empty pixels along an axis between things at `starts` and another one; below 0 where they overlap."""
    return np.maximum(starts - (other + other_length), other - (starts + length))
