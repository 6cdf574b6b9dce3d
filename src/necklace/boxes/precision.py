"""Average precision of rankings, for many weightings of the images at once.

A weighting says how often each image is in a set: ones for the set itself, the counts of a draw with replacement for the
bootstrap. One computation serves both, so what a resample of ones gives is the metric itself, bit for bit.

A rule takes three whole numbers at the points of a ranking, from its top down: `right` [P, R], the detections up to there that
are right; `seen` [P, R], all that count; `objects` [R], how many there are to be found. It gives an average precision [R].

- COCO: the mean over recalls 0, 0.01, ..., 1 of the best precision at that recall or above (`COCOeval.accumulate`). COCO
  compares recalls as floats with `linspace(0, 1, 101)`, of which some are above the nearest float, so there a recall of exactly
  0.35 does not reach 0.35; the rule here does the same.
- VOC2007: the same over recalls 0, 0.1, ..., 1 (Everingham et al. 2010, IJCV 88, 303-338, section 4.2), in exact arithmetic: a
  recall of 3 / 10 reaches 0.3, which the development kit's floats do not.
- VOC2010 to 2012: the area under the best precision at that recall or above (development kit of 2012, section 3.4.1).
- Steps: the area under the curve as it is, without the best of what follows: that of scikit-learn and torchmetrics.
"""

from collections.abc import Callable

import numpy as np

Rule = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]

_POINTS = np.linspace(0, 1, 101)
# Where COCO's float is above the nearest one of k / 100, which is what an equal recall is rounded to.
_ABOVE = np.array([point > k / 100 for k, point in enumerate(_POINTS)])
_NUMBERS = 2**20  # of a table [points, weightings] that is held at once


def coco(right: np.ndarray, seen: np.ndarray, objects: np.ndarray) -> np.ndarray:
    """COCO's average precision [R] at the points where something right was found."""
    hundredths, rest = np.divmod(100 * right, objects)
    reached = hundredths + 1 - ((rest == 0) & _ABOVE[hundredths])
    return _sum(_best(right, seen) * _gained(reached)) / len(_POINTS)


def voc07(right: np.ndarray, seen: np.ndarray, objects: np.ndarray) -> np.ndarray:
    """VOC2007's average precision [R] at the points where something right was found."""
    return _sum(_best(right, seen) * _gained(10 * right // objects + 1)) / 11


def voc12(right: np.ndarray, seen: np.ndarray, objects: np.ndarray) -> np.ndarray:
    """VOC2010's to VOC2012's average precision [R] at the points where something right was found."""
    return _sum(_best(right, seen) * _gained(right)) / objects


def steps(right: np.ndarray, seen: np.ndarray, objects: np.ndarray) -> np.ndarray:
    """The area under the curve's steps [R]."""
    return _sum(_precision(right, seen) * _gained(right)) / objects


def ranked_precision(
    rule: Rule, weights: np.ndarray, objects: np.ndarray, image: np.ndarray, right: np.ndarray, counted: np.ndarray
) -> np.ndarray:
    """Mean average precision of T rankings, which have the order of the detections in common.

    Args:
        rule: Which.
        weights: int64 [N, R], how often each image is in each set.
        objects: int64 [R], objects to be found in each set.
        image: int [D], which image each detection is of, best detection first.
        right: bool [T, D], whether it found an object.
        counted: bool [T, D], whether it counts; what is right counts.

    Returns:
        float64 [R]; NaN where there is nothing to be found.
    """
    values = np.zeros((len(right), len(objects)))
    found = np.maximum(objects, 1)
    seen = place = np.empty(0, np.int64)
    shared = None
    for number, (hits, counts) in enumerate(zip(right, counted, strict=True)):
        if shared is None or not np.array_equal(counts, shared):
            seen, shared = np.cumsum(weights[image[counts]], axis=0), counts
            place = np.cumsum(counts) - 1  # of each detection among those that count
        if hits.any():
            values[number] = rule(np.cumsum(weights[image[hits]], axis=0), seen[place[hits]], found)
    return np.where(objects > 0, _sum(values) / len(values), np.nan)


def weights_of(weights: np.ndarray | None, images: int) -> np.ndarray:
    """Weights [R, N] as [N, R]; ones [N, 1] for None.

    Raises:
        ValueError: They are not whole numbers from 0, one for each of the images.
    """
    if weights is None:
        return np.ones((images, 1), np.int64)
    if weights.ndim != 2 or weights.shape[1] != images or weights.dtype.kind not in "iu" or (weights < 0).any():
        due = f"whole numbers from 0, [resamples, {images} images]"
        raise ValueError(f"weights are {weights.dtype} {list(weights.shape)}: allowed are {due}")
    return weights.T


def in_blocks(compute: Callable[[np.ndarray], np.ndarray], weights: np.ndarray, rows: int) -> np.ndarray:
    """Compute [R] from weights [N, R] for some weightings at a time, so that tables [rows, R] need a bounded memory."""
    width = max(1, _NUMBERS // max(1, rows, len(weights)))
    blocks = range(0, weights.shape[1], width)
    parts = [compute(np.ascontiguousarray(weights[:, start : start + width], np.int64)) for start in blocks]
    return np.concatenate([np.empty(0), *parts])


def mean_defined(values: np.ndarray) -> np.ndarray:
    """Mean over the first axis [K, R] of what is not NaN, [R]; NaN where nothing is left."""
    defined = ~np.isnan(values)
    number = defined.sum(0)
    return np.where(number, _sum(np.where(defined, values, 0.0)) / np.maximum(number, 1), np.nan)


def _precision(right: np.ndarray, seen: np.ndarray) -> np.ndarray:
    return right / np.maximum(seen, 1)


def _best(right: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """The highest precision at each point or below."""
    return np.maximum.accumulate(_precision(right, seen)[::-1], axis=0)[::-1]


def _gained(reached: np.ndarray) -> np.ndarray:
    """By how much each point raises what was reached, from 0."""
    return np.diff(reached, axis=0, prepend=0)


def _sum(values: np.ndarray) -> np.ndarray:
    """Sum over the first axis, one after the other: numpy's own sum rounds differently with the number of columns."""
    return np.cumsum(values, axis=0)[-1]
