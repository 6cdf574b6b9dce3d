"""Average precision of rankings, for many weightings of the images at once.

A weighting says how often each image is in a set: ones for the set itself, the counts of a draw with replacement for the
bootstrap. One computation serves both, so what a resample of ones gives is the metric itself, bit for bit.

A rule takes whole numbers (as float64) at points of a ranking, from its top down: `right` [R, P], the detections up to there
that are right; `seen` [R, P], all that count; and `objects` [R], how many there are to be found. It gives [R].

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
from scipy.sparse import csr_array

Rule = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]

_POINTS = np.linspace(0, 1, 101)
# Where COCO's float is above the nearest one of k / 100, which is what an equal recall is rounded to.
_ABOVE = np.array([point > k / 100 for k, point in enumerate(_POINTS)])
_NUMBERS = 2**17  # of a table [weightings, points] that is held at once: what fits a cache


def coco(right: np.ndarray, seen: np.ndarray, objects: np.ndarray) -> np.ndarray:
    """COCO's average precision [R] at the points where something right was found."""
    ratio = 100 * right / objects[:, None]
    # A ratio of whole numbers is a whole number, or further from one than it is rounded: so this is exact.
    reached = np.floor(ratio)
    equal = np.nonzero(ratio == reached)
    reached[equal] -= _ABOVE[reached[equal].astype(np.intp)]
    return _sum(_best(right, seen) * _gained(reached + 1)) / len(_POINTS)


def voc07(right: np.ndarray, seen: np.ndarray, objects: np.ndarray) -> np.ndarray:
    """VOC2007's average precision [R] at the points where something right was found."""
    return _sum(_best(right, seen) * _gained(np.floor(10 * right / objects[:, None]) + 1)) / 11


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
        weights: float64 [R, N], how often each image is in each set.
        objects: float64 [R], objects to be found in each set.
        image: int [D], which image each detection is of, best detection first.
        right: bool [T, D], whether it found an object.
        counted: bool [T, D], whether it counts; what is right counts.

    Returns:
        float64 [R]; NaN where there is nothing to be found.
    """
    values = np.zeros((len(right), len(weights)))
    alike: dict[bytes, list[int]] = {}
    for number, counts in enumerate(counted):
        alike.setdefault(counts.tobytes(), []).append(number)
    for same in alike.values():
        hits = np.any(right[same], axis=0)
        if not hits.any():
            continue
        rows = np.flatnonzero(counted[same[0]])
        ends = np.flatnonzero(hits[rows]) + 1
        # Detections from one right one to the next: their weights are added up in one product.
        shape = (len(ends), weights.shape[1])
        between = csr_array((np.ones(ends[-1]), image[rows[: ends[-1]]], np.append(0, ends)), shape)
        seen = np.cumsum((between @ weights.T).T, axis=1)
        for each in (number for number in same if right[number].any()):
            found = np.cumsum(weights.take(image[right[each]], 1), axis=1)
            values[each] = rule(found, seen.take(np.flatnonzero(right[each][hits]), 1), np.maximum(objects, 1))
    return np.where(objects > 0, _sum(values.T) / len(values), np.nan)


def weights_of(weights: np.ndarray | None, images: int) -> np.ndarray:
    """Weights [R, N], checked; ones [1, N] for None.

    Raises:
        ValueError: They are not whole numbers from 0, one for each of the images.
    """
    if weights is None:
        return np.ones((1, images), np.int64)
    if weights.ndim != 2 or weights.shape[1] != images or weights.dtype.kind not in "iu" or (weights < 0).any():
        due = f"whole numbers from 0, [resamples, {images} images]"
        raise ValueError(f"weights are {weights.dtype} {list(weights.shape)}: allowed are {due}")
    return weights


def in_blocks(compute: Callable[[np.ndarray], np.ndarray], weights: np.ndarray, points: int) -> np.ndarray:
    """Compute [R] from weights [R, N] for some weightings at a time, so that tables [R, points] need a bounded memory."""
    width = max(1, _NUMBERS // max(1, points, weights.shape[1]))
    parts = [compute(weights[start : start + width].astype(np.float64)) for start in range(0, len(weights), width)]
    return np.concatenate([np.empty(0), *parts])


def mean_defined(values: np.ndarray) -> np.ndarray:
    """Mean over the first axis [K, R] of what is not NaN, [R]; NaN where nothing is left."""
    defined = ~np.isnan(values)
    number = defined.sum(0)
    return np.where(number, _sum(np.where(defined, values, 0.0).T) / np.maximum(number, 1), np.nan)


def _precision(right: np.ndarray, seen: np.ndarray) -> np.ndarray:
    return right / np.maximum(seen, 1)


def _best(right: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """The highest precision at each point or below."""
    return np.maximum.accumulate(_precision(right, seen)[:, ::-1], axis=1)[:, ::-1]


def _gained(reached: np.ndarray) -> np.ndarray:
    """By how much each point raises what was reached, from 0."""
    return np.diff(reached, axis=1, prepend=0)


def _sum(values: np.ndarray) -> np.ndarray:
    """Sum over the last axis, one after the other: numpy's own sum rounds differently with the memory's layout."""
    return np.cumsum(values, axis=1)[:, -1]
