"""Images with the boxes that annotations of any format give them.

**Frame.** An annotation's boxes are taken in the frame of the file as stored. Where EXIF turns the image, its boxes are turned
with it. Only where the annotation states the size of the image, and that is the size of the turned image and not of the stored
one, its boxes were drawn on the turned image, and stay. Each of the two is counted in a note.

**Border.** A box that reaches out of its image is clipped. By up to a pixel that is what rounding does, and nothing is said;
beyond, it is counted in a note. A box that is wholly outside or has no area is left out and counted.

**Names.** Images with boxes are named by their file's name alone, and come in the order of these names: then a data set is the
same in each of its forms. Where two images of a split have one name, the split's are named by their paths.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from necklace.data.boxes import Boxes
from necklace.data.cache import PixelCache, read_split
from necklace.data.files import File, orientations, readable
from necklace.data.images import ImageSet, SplitName
from necklace.data.problems import Problems

LEAST_SIDE = 0.1  # pixels; a box that is narrower has no area
OVERHANG = 1.0  # pixels; a box may reach out of its image by so much without a word
WHOLE = 0.05  # pixels; an edge that was computed from shares of the side and is so near to a whole pixel is that pixel
_TURNED = frozenset((5, 6, 7, 8))  # EXIF orientations that exchange height and width


@dataclass(frozen=True, eq=False)
class Objects:
    """The objects of an image as its annotation has them.

    Attributes:
        corners: float64 [M, 4], x0, y0, x1, y1 in pixels of the file as stored, or in shares of its sides.
        classes: int64 [M].
        flags: uint8 [M], see `necklace.boxes.truth`.
        stated: Height and width of the image, where the annotation states them.
        in_shares: Whether the corners are in shares of the sides.
    """

    corners: np.ndarray
    classes: np.ndarray
    flags: np.ndarray
    stated: tuple[int, int] | None = None
    in_shares: bool = False


def check_corners(x0: float, y0: float, x1: float, y1: float) -> None:
    """Check the corners of a box, in pixels.

    Raises:
        ValueError: One is no finite number, they are swapped, or look like shares of the image's sides.
    """
    shown = f"[{x0:g}, {y0:g}, {x1:g}, {y1:g}]"
    if not all(map(math.isfinite, (x0, y0, x1, y1))):
        raise ValueError(f"a box with a corner that is no finite number: {shown}")
    if x0 > x1 or y0 > y1:
        raise ValueError(f"a box with swapped corners: {shown}")
    if 0 < max(x1, y1) <= 1 and not all(value == int(value) for value in (x0, y0, x1, y1)):
        raise ValueError(f"a box in shares of the image's sides, not in pixels: {shown}")


def short_names(paths: Sequence[str]) -> list[str]:
    """Name files by their names without folders, or by their paths if two have the same name."""
    names = [path.rpartition("/")[2] for path in paths]
    return names if len(set(names)) == len(names) else list(paths)


def read_boxed(
    split: SplitName, found: Sequence[tuple[File, Objects]], classes: int, problems: Problems, cache: PixelCache
) -> tuple[ImageSet, list[str]]:
    """Read the images of a split with their boxes.

    Args:
        split: The split.
        found: Its files, none of which has a `problem`, and what their annotations say.
        classes: The number of classes.
        problems: Gets the files that cannot be decoded. The caller stops the run at them.
        cache: Settings of the cache.

    Returns:
        The readable images, and what was changed or left out: sentences without full stop.
    """
    names = short_names([file.name for file, _ in found])
    order = sorted(range(len(found)), key=names.__getitem__)
    ordered = {names[index]: found[index] for index in order}
    labels = torch.zeros(len(found), classes, dtype=torch.int8)
    images = read_split(split, [file for file, _ in ordered.values()], labels, list(ordered), problems, cache)
    return annotated(images, ordered, classes, split)


def annotated(
    images: ImageSet, said: Mapping[str, tuple[File, Objects]], classes: int, split: str
) -> tuple[ImageSet, list[str]]:
    """Give images their boxes, and the labels that follow from them.

    Args:
        images: Decoded images, their labels of any value.
        said: Name of each image to its file and what its annotation says.
        classes: The number of classes.
        split: Name of the split, for the notes.

    Returns:
        The images, and what was changed or left out: sentences without full stop.
    """
    found = [said[name][1] for name in images.names]
    counts = np.array([len(one.classes) for one in found], dtype=np.int64)
    image = np.repeat(np.arange(len(found)), counts)
    notes = _Notes(split, images.names)
    turns = np.ones(len(found), dtype=np.int64)
    holding = np.flatnonzero(counts)
    turns[holding] = orientations([said[images.names[index]][0] for index in holding.tolist()])
    upright = images.shapes.numpy()
    stored = np.where(np.isin(turns, list(_TURNED))[:, None], upright[:, ::-1], upright)
    turns = _frames(found, turns, stored, upright, notes)
    shares = np.array([one.in_shares for one in found], dtype=bool)[image]
    corners = _joined([one.corners for one in found], (0, 4)).astype(np.float64)
    corners[shares] = _in_pixels(corners[shares], stored[image][shares])
    corners = _turned(corners, turns[image], stored[image])
    kept, corners = _clipped(corners, upright[image], image, notes)
    boxes = Boxes.build(
        corners[kept],
        _joined([one.classes for one in found], (0,))[kept],
        _joined([one.flags for one in found], (0,))[kept],
        image[kept],
        len(images),
    )
    _note_equal(boxes, notes)
    return replace(images, labels=boxes.labels(classes), boxes=boxes), notes.sentences


class _Notes:
    """Counts of what happened to the boxes of a split."""

    def __init__(self, split: str, names: Sequence[str]) -> None:
        self._split, self._names = split, names
        self.sentences: list[str] = []

    def add(self, what: str, images: np.ndarray) -> None:
        """Say how often something happened, from the index of the image of each case."""
        if len(images):
            first = readable(self._names[int(images.min())])
            self.sentences.append(f"{self._split}: {what}: {len(images)} (first: in {first})")


def _joined(parts: list[np.ndarray], shape: tuple[int, ...]) -> np.ndarray:
    return np.concatenate(parts) if parts else np.empty(shape)


def _frames(found: Sequence[Objects], turns: np.ndarray, stored: np.ndarray, upright: np.ndarray, notes: _Notes) -> np.ndarray:
    """The orientation by which the boxes of each image are turned: int64 [N], 1 for none."""
    stay, turned, other = [], [], []
    for index, one in enumerate(found):
        own, seen = tuple(stored[index].tolist()), tuple(upright[index].tolist())
        if one.stated is not None and one.stated not in (own, seen):
            other.append(index)
        if turns[index] != 1:
            (stay if one.stated == seen != own else turned).append(index)
    notes.add("images turned by EXIF, their boxes with them", np.array(turned))
    notes.add("images turned by EXIF whose annotation states the turned size, boxes taken as they are", np.array(stay))
    notes.add("annotations that state another size than their image's, boxes taken as they are", np.array(other))
    turns = turns.copy()
    turns[stay] = 1
    return turns


def _in_pixels(shares: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Corners [M, 4] in pixels, from shares of the sides of images of `sizes` [M, 2]; nearly whole ones are made whole.

    Six decimals of a share are exact to a hundredth of a pixel for sides of up to 13,000 pixels.
    """
    corners = shares * sizes[:, [1, 0, 1, 0]]
    whole = corners.round()
    return np.where(np.abs(corners - whole) <= WHOLE, whole, corners)


def _turned(corners: np.ndarray, turns: np.ndarray, stored: np.ndarray) -> np.ndarray:
    """Turn boxes [M, 4] as EXIF turns their images, of height and width `stored` [M, 2] before it."""
    x0, y0, x1, y1 = corners.T
    height, width = stored.T
    turned = {
        2: (width - x1, y0, width - x0, y1),  # mirrored
        3: (width - x1, height - y1, width - x0, height - y0),  # by 180 degrees
        4: (x0, height - y1, x1, height - y0),  # upside down
        5: (y0, x0, y1, x1),  # transposed
        6: (height - y1, x0, height - y0, x1),  # clockwise
        7: (height - y1, width - x1, height - y0, width - x0),  # transposed along the other diagonal
        8: (y0, width - x1, y1, width - x0),  # counterclockwise
    }
    for orientation, sides in turned.items():
        corners = np.where((turns == orientation)[:, None], np.stack(sides, 1), corners)
    return corners


def _clipped(corners: np.ndarray, sizes: np.ndarray, image: np.ndarray, notes: _Notes) -> tuple[np.ndarray, np.ndarray]:
    """Clip boxes [M, 4] at images of `sizes` [M, 2]: which have to be kept, bool [M], and the boxes."""
    limits = sizes[:, [1, 0, 1, 0]]
    inside = corners.clip(0, limits).astype(np.float32)
    area = np.all(corners[:, 2:] - corners[:, :2] >= LEAST_SIDE, axis=1)
    kept = area & np.all(inside[:, 2:] - inside[:, :2] >= np.float32(LEAST_SIDE), axis=1)
    overhang = np.maximum(-corners, corners - limits).max(1, initial=-np.inf) > OVERHANG
    notes.add("boxes without area, left out", image[~area])
    notes.add("boxes outside their image, left out", image[area & ~kept])
    notes.add(f"boxes that reach out of their image by more than {OVERHANG:g} pixel, clipped", image[kept & overhang])
    return kept, inside


def _note_equal(boxes: Boxes, notes: _Notes) -> None:
    """Count the boxes that equal another one of their image and class."""
    if len(boxes.classes) < 2:
        return
    same = (boxes.xyxy[1:] == boxes.xyxy[:-1]).all(1) & (boxes.classes[1:] == boxes.classes[:-1])
    image = boxes.image
    same &= image[1:] == image[:-1]
    notes.add("boxes that are there twice", image[1:][same].numpy())
