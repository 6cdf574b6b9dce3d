"""A diagnostic with a known answer: can a neck combine two things that are too far apart for the backbone?

Each image shows a grey glyph of kind g and a small coloured square, the marker, of colour c. The label is (g + c) mod n, with
n = 4 by default (`grade` asks for easier tasks, see below). At least `min_gap` empty pixels lie between the two along one
axis, so no square window of `min_gap` pixels or fewer contains both. Kind and colour are uniform and independent of each
other and of everything else in the image: one of them alone gives no information about the label.

**Why `none` and `conv` stay at chance, with a linear read-out.** If the backbone's receptive field is smaller than the gap,
each feature depends on the glyph, or on the marker, or on neither. Averaged over positions and read out linearly, with any
1x1 convolutions before the average, the logit of label k is a_k(g) + b_k(c): additive, for any fixed place, texture and
clutter. The best cross-entropy of additive logits for addition mod n is log n, that of guessing. Proof: for every shift s,
the pair (g + s, c - s) has the label of (g, c). Average the logits over all s: the result, mean a_k + mean b_k, does not
depend on (g, c), so its loss is at least log n, as labels are uniform. Cross-entropy is convex in the logits, so averaging
cannot have raised the mean loss.

What this does not say: it bounds the loss, not the accuracy. The largest of additive logits can be the right one for 12 of
the 16 pairs; training on this loss does not look for such logits, as they do not lower it. And the linear read-out is a
premise: a hidden layer after the average, or a maximum in its place, joins the two by itself and solves the task without any
neck. A run whose head is not linear says so when it starts.

**Grades.** Three tasks, from what is part of the join to the join (`grade`):

- `transport`: the glyph lies in the top left corner, the marker far from it, the label is the marker's colour, and the head
  reads the map at the glyph alone (`head=corner`; a run refuses another). No window of the backbone there contains the marker,
  and the marker's place and the rest of the image are independent of its colour. So what is read says nothing about the
  label: chance for every network without context, whatever follows, for loss and accuracy alike. With context it needs no
  join, only the way.
- `hints`: a quarter of the training images lack the marker, a quarter the glyph; the label is then the other one's index
  alone. So each thing is shown by itself as well. Val and test are whole, as in `join`, and so the bound of the loss holds on
  them.
- `join`: all images are whole. The parts never show in the label alone.

**Expected results** of `join`.

- `none`, `conv`: chance, by the argument above, for any length of training.
- `spp`, `sppf`: solve it. Stride-1 max-pools over 5, 9 and 13 positions (at stride 4: up to 52 pixels) put the glyph's
  features next to the marker's, and the convolution after them, with its activation, combines the two.
- `focal`: reaches the marker through its larger levels and its global context, and multiplies them with the query. It can
  express and transport; whether it *finds* the join is what the grades take apart.
- `focal_block`: the same, with a residual connection, normalisation and an MLP.

Clutter, contrast and sizes were tuned until `sppf` learned the task within a few epochs on a CPU (a brighter glyph, two
strokes of clutter, a marker of 7 pixels). No focal neck was evaluated during this tuning.

A prototype (ResNet-8 of width 16, stride 4, receptive field 25 px; 48x48 images, marker 5, gap 28, 6,000 images, AdamW 3e-3
one-cycle, batch 64, 4 to 8 epochs) reached: none 25 %, conv 25 %, sppf 100 %; focal without a block with 2 levels and window
3 27 %, 3 levels and window 5 28 %, 2 levels and window 7 59 % (the last with a gap measured from corner to corner, 22 to 24
px).

The gap is measured along the axis where it is larger: max(gap_x, gap_y). With a corner-to-corner distance of 28, both gaps
can be 20 pixels, and a window of 25 would contain both things. It holds for images at their native size; a run that shrinks
the images shrinks the gap.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

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

GRADES = ("transport", "hints", "join")
KINDS = ("circle", "triangle", "cross", "arrow")
COLOURS = {"red": (225, 35, 35), "green": (30, 180, 50), "blue": (40, 70, 230), "yellow": (235, 210, 30)}


@dataclass(frozen=True, eq=False)
class Facts:
    """Contents of each image of a split. Boxes are (top, left, bottom, right) in pixels, the last two exclusive.

    Attributes:
        kind: int64 `[N]`, the glyph: index into `KINDS`.
        colour: int64 `[N]`, the marker's colour: index into `COLOURS`.
        glyph_box: int64 `[N, 4]`, the tightest box around all pixels of the glyph, antialiased fringe included.
        marker_box: int64 `[N, 4]`, the box of the marker.
        shown: bool `[N, 2]`, whether glyph and marker are there; a box of what is not is where it would have been.
    """

    kind: np.ndarray
    colour: np.ndarray
    glyph_box: np.ndarray
    marker_box: np.ndarray
    shown: np.ndarray


def gaps(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return the empty pixels between boxes `[N, 4]`, along the axis with more of them: int64 `[N]`, 0 if the boxes touch."""
    after = second[:, :2] - first[:, 2:]
    before = first[:, :2] - second[:, 2:]
    return np.maximum(np.maximum(after, before).max(axis=1), 0)


@lru_cache(maxsize=4096)
def _pairs(length: int, glyph: int, marker: int, gap: int) -> tuple[np.ndarray, np.ndarray]:
    """Return pairs (start of glyph, start of marker) along one axis: those `gap` or more apart `[F, 2]`, others `[M, 2]`."""
    glyph_start = np.arange(length - glyph + 1)[:, None]
    marker_start = np.arange(length - marker + 1)[None, :]
    far = (marker_start - glyph_start >= glyph + gap) | (glyph_start - marker_start >= marker + gap)
    return np.argwhere(far), np.argwhere(~far)


class Context:
    """Images of a glyph and a distant marker; the label depends on both. See the module's docstring.

    Every image has its own random stream (seed, split, index). Each block of n * n images contains every pair of kind and
    colour once, so labels are exactly balanced, and exactly independent of kind and of colour. The images are generated when a
    split is requested.

    Args:
        train: Number of training images.
        test: Number of test images.
        image_size: One side length, or the range from which height and width are drawn independently.
        marker: Side of the marker, in pixels.
        min_gap: Minimum number of empty pixels between glyph and marker, along the axis with more of them.
        glyph: Range of the glyph's extent in pixels, antialiased fringe included.
        classes: Number of glyphs, of colours and of labels, 2 to 4.
        clutter: Number of grey clutter strokes, drawn under glyph and marker.
        texture: Amplitude of the background's texture, as a share of the full range.
        seed: Seed of the images; it does not depend on the run's seed.
        grade: `transport`, `hints` or `join`, see above. `hints` has a val split of its own, a tenth as large as train.
        cache: Folder for files of drawn images, see `cache.py`; None: each process draws them into memory.

    Raises:
        ValueError: An option is out of range, or glyph, gap and marker do not fit into the image.

    Attributes:
        classes: Names of the labels.
        min_gap: Minimum number of empty pixels between glyph and marker, along the axis with more of them.
        read_within: Side in pixels of the top left corner in which a head has to read; None where it may read everywhere.
        skipped: Always empty.
    """

    skipped: tuple[tuple[str, str], ...] = ()

    def __init__(  # noqa: PLR0913, the options of its config
        self,
        train: int = 6000,
        test: int = 2000,
        image_size: int | Sequence[int] = 48,
        marker: int = 7,
        min_gap: int = 26,
        glyph: Sequence[float] = (12, 15),
        classes: int = 4,
        clutter: int = 2,
        texture: float = 0.05,
        seed: int = 0,
        grade: Literal["transport", "hints", "join"] = "join",
        cache: str | Path | None = None,
    ):
        check_counts("context", train=train, test=test, clutter=clutter, texture=texture, min_gap=min_gap)
        self.sizes = size_range("context", image_size)
        self.glyph = (float(glyph[0]), float(glyph[-1]))
        self.counts: dict[SplitName, int] = {"train": train, "test": test}
        if grade not in GRADES:
            raise ValueError(f"context: grade={grade} must be one of {', '.join(GRADES)}")
        if grade == "hints":
            self.counts["val"] = math.ceil(train / 10)
        self.grade = grade
        self.marker = marker
        self.min_gap = min_gap
        self.clutter = clutter
        self.texture = texture
        self.seed = seed
        self.cache = cache
        if not 2 <= classes <= len(KINDS):
            raise ValueError(f"context: classes={classes} must be 2 to {len(KINDS)}")
        if marker < 1:
            raise ValueError(f"context: marker={marker} must be at least 1 pixel")
        if not 8 <= self.glyph[0] <= self.glyph[1]:
            raise ValueError(f"context: glyph={list(glyph)} must be a range of pixels from 8; smaller glyphs look alike")
        needed = math.ceil(self.glyph[1]) + min_gap + marker
        if needed > self.sizes[0]:
            raise ValueError(
                f"context: glyph (up to {math.ceil(self.glyph[1])}) + min_gap ({min_gap}) + marker ({marker}) need "
                f"{needed} pixels, image_size={image_size} offers {self.sizes[0]}"
            )
        self.classes: tuple[str, ...] = tuple(str(label) for label in range(classes))
        self.read_within = int(self.glyph[0]) if grade == "transport" else None

    def split(self, name: SplitName) -> ImageSet | None:
        """Draw the images of a split, or take them from the cache; only `hints` has a `val`."""
        return drawn_split(self, name, lambda: self._generate(name)[0]) if name in self.counts else None

    def facts(self, name: SplitName) -> Facts:
        """Return the contents of each image of a split; draws the split again."""
        return self._generate(name)[1]

    def _generate(self, name: SplitName) -> tuple[ImageSet, Facts]:
        count, classes = self.counts[name], len(self.classes)
        pairs = shuffled_blocks(numpy_generator(self.seed, f"context/{name}/labels"), classes * classes, count)
        kind, colour = np.divmod(pairs, classes)
        shown = np.ones((count, 2), dtype=bool)
        if self.grade == "hints" and name == "train":
            # Of each four blocks of all pairs, one without marker and one without glyph: each pair as often with and without.
            turn = np.arange(count) // (classes * classes) % 4
            shown[turn == 1, 1] = shown[turn == 3, 0] = False
        found = zip(kind.tolist(), colour.tolist(), shown.tolist(), strict=True)
        drawn = [self._image(name, index, *one) for index, one in enumerate(found)]
        boxes = np.array([boxes for _, boxes in drawn], dtype=np.int64).reshape(count, 2, 4)
        labels = colour if self.grade == "transport" else (kind * shown[:, 0] + colour * shown[:, 1]) % classes
        images = ImageSet.build(
            [image for image, _ in drawn],
            labels.tolist(),
            [f"{name}/{index}" for index in range(count)],
        )
        return images, Facts(kind, colour, boxes[:, 0], boxes[:, 1], shown)

    def _image(
        self, split: str, index: int, kind: int, colour: int, shown: Sequence[bool] = (True, True)
    ) -> tuple[torch.Tensor, list[tuple[int, ...]]]:
        rng = numpy_generator(self.seed, f"context/{split}", index)
        height, width = side(rng, self.sizes), side(rng, self.sizes)
        # Glyph, background and clutter are greys with a slight tint; only the marker is coloured. The glyph is brighter than
        # background and clutter. With glyphs brighter or darker than the background the task was harder for a reason other
        # than distance: sppf reached only 37 % after 5 epochs.
        tints = 8 * (rng.random((self.clutter + 2, 3)) - 0.5)
        greys = rng.random((self.clutter + 2, 1))
        base = 50 + 40 * greys[0] + tints[0]
        ink = 205 + 50 * greys[1] + tints[1]
        image = textured(rng, height, width, base, self.texture, channels=1)
        scribble(rng, image, (5, 12), 130 * greys[2:] + tints[2:])
        extent, thickness, tilt, down, across = rng.random(5).tolist()
        line = 1.6 + 0.5 * thickness
        extent = self.glyph[0] + extent * (self.glyph[1] - self.glyph[0])
        shape, real_height, real_width = fit(SHAPES[KINDS[kind]], extent, line, (tilt - 0.5) * 0.25)
        # The square that is placed depends on the extent only, and the glyph lies anywhere inside it. With the glyph's own
        # box, a flat arrow would leave the marker more room, and the marker's place would depend on the kind.
        box = math.ceil(extent)
        top, left, marker_top, marker_left = self._place(rng, height, width, box)
        corner = np.array([left + across * (box - real_width), top + down * (box - real_height)])
        bare = image.copy()
        touched = draw(image, shape + corner, line, ink.tolist())
        assert touched is not None
        first_row, first_column, coverage = touched
        rows, columns = (np.flatnonzero((coverage > 0).any(axis=axis)) for axis in (1, 0))
        glyph_box = (
            first_row + int(rows[0]),
            first_column + int(columns[0]),
            first_row + int(rows[-1]) + 1,
            first_column + int(columns[-1]) + 1,
        )
        marker_box = (marker_top, marker_left, marker_top + self.marker, marker_left + self.marker)
        if not shown[0]:
            image = bare
        if shown[1]:
            image[marker_box[0] : marker_box[2], marker_box[1] : marker_box[3]] = list(COLOURS.values())[colour]
        return finish(image), [glyph_box, marker_box]

    def _place(self, rng: np.random.Generator, height: int, width: int, box: int) -> tuple[int, int, int, int]:
        """Draw one of all placements with a sufficient gap, uniformly: top and left of the box and of the marker."""
        far_y, near_y = _pairs(height, box, self.marker, self.min_gap)
        far_x, near_x = _pairs(width, box, self.marker, self.min_gap)
        if self.grade == "transport":  # the box in the corner
            far_y, near_y, far_x, near_x = (pairs[pairs[:, 0] == 0] for pairs in (far_y, near_y, far_x, near_x))
        # Either far along y and anywhere along x, or near along y and far along x.
        anywhere_x = len(far_x) + len(near_x)
        count_far_y = len(far_y) * anywhere_x
        which = int(rng.random() * (count_far_y + len(near_y) * len(far_x)))
        if which < count_far_y:
            along_y, rest = far_y[which // anywhere_x], which % anywhere_x
            along_x = far_x[rest] if rest < len(far_x) else near_x[rest - len(far_x)]
        else:
            which -= count_far_y
            along_y, along_x = near_y[which // len(far_x)], far_x[which % len(far_x)]
        return int(along_y[0]), int(along_x[0]), int(along_y[1]), int(along_x[1])
