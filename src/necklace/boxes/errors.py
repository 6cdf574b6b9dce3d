"""Why a model's mean average precision is not 1: its errors by kind, and what each kind costs.

Paper: Bolya et al., TIDE: A General Toolbox for Identifying Object Detection Errors, ECCV 2020,
https://arxiv.org/abs/2008.08115, section 2. Reference implementation: dbolya/tide (MIT; read, not copied). Written anew.

A detection that counts and found nothing is wrong in one of five ways, the first of these that holds; its overlaps are those
with the objects that count, matched or not:

1. localisation: an object of its class overlaps it by 0.1 or more, but by less than 0.5;
2. classification: an object of another class overlaps it by 0.5 or more;
3. duplicate: an object of its class does, and a better detection has it;
4. background: nothing overlaps it by 0.1;
5. both: what is left, an object of another class that overlaps it by less than 0.5.

An object is missed if no detection found it and none of the first two kinds would have. What found an object, and what does not
count, is decided by COCO's rules at an IoU of 0.5 (`matching.py`).

To fix a kind of error is to make right what could be: the best of the detections that are wrong about an object nobody found is
given its class, or its place; all others of the kind are left out. Missed objects are no longer due. The gain of a kind is what
that alone adds to `box_map50`. Kinds hide each other, so that gains do not add up to what is missing.

Deviations from the reference:
* Where a wrong class and a wrong place claim one object, each is fixed when its own kind is, as in the paper's text. There,
  only the better of the two ever is.
* A detection that is matched to an ignored object is no error. There, it is counted as one, without changing a gain.
* An overlap of 0.5 exactly is enough here for all purposes, since it is for a match.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from necklace.boxes.evidence import portions
from necklace.boxes.matching import IOUS, match
from necklace.boxes.overlap import overlaps
from necklace.boxes.precision import coco, mean_defined, ranked_precision
from necklace.boxes.truth import COUNTS, ImageBoxes

KINDS = ("classification", "localisation", "both", "duplicate", "background", "missed")
CLASSIFICATION, LOCALISATION, BOTH, DUPLICATE, BACKGROUND, MISSED = range(len(KINDS))
NONE = -1
FOUND, NEAR = float(IOUS[0]), 0.1

_PAIRS = 2**20  # of detections and objects that are compared at once


@dataclass(frozen=True, eq=False)
class Explained:
    """What became of an image's detections and objects, in the order of its `ImageBoxes`.

    Attributes:
        right: bool [D], whether the detection found an object.
        kind: int8 [D], place in `KINDS` of what is wrong with it; `NONE` where it is right or does not count.
        target: int64 [D], the object that nobody found and that it would find if this were fixed; `NONE` without one.
        missed: bool [M], whether the object is missed.
    """

    right: np.ndarray
    kind: np.ndarray
    target: np.ndarray
    missed: np.ndarray


@dataclass(frozen=True)
class Errors:
    """The errors in a split.

    Attributes:
        map50: `box_map50`.
        counts: Kind to its number: detections, or for `missed` objects.
        gains: Kind to what `box_map50` gains if that kind alone is fixed.
    """

    map50: float
    counts: dict[str, int]
    gains: dict[str, float]


def errors_of(images: Iterable[ImageBoxes], num_classes: int) -> Errors:
    """The errors in the images of a split, and what each kind of them costs.

    Args:
        images: All of them, each once; read one after the other.
        num_classes: K.

    Raises:
        ValueError: No object counts, or a class is not below K.
    """
    counts, (objects, missed) = np.zeros(len(KINDS), np.int64), np.zeros((2, num_classes), np.int64)
    rows: list[list[np.ndarray]] = []
    for image, found in explained(images, num_classes):
        counts += np.bincount(found.kind[found.kind != NONE], minlength=len(KINDS))
        objects += np.bincount(image.true_classes[image.flags == COUNTS], minlength=num_classes)
        missed += np.bincount(image.true_classes[found.missed], minlength=num_classes)
        kept = found.right | (found.kind != NONE)
        after = np.append(image.true_classes, NONE)[found.target]
        columns = (np.full(len(kept), image.index), image.classes, image.scores, found.right, found.kind, after)
        rows.append([values[kept] for values in columns] + [_fixed(image, found)[kept]])
    if not objects.any():
        raise ValueError("boxes: no object counts, so that there is no average precision to explain")
    image, classes, scores, right, kind, after, fixed = (np.concatenate(part) for part in zip(*rows, strict=True))
    before = _map50(objects, objects, image, classes, scores, right)
    gains = {}
    for number, name in enumerate(KINDS):
        kept = (kind != number) | fixed
        mended = (kind == number) & fixed
        parts = (image, np.where(mended, after, classes), scores, right | mended)
        due = objects - missed if number == MISSED else objects
        gains[name] = _map50(objects, due, *(values[kept] for values in parts)) - before
    counts[MISSED] = missed.sum()
    return Errors(before, dict(zip(KINDS, counts.tolist(), strict=True)), gains)


def explained(images: Iterable[ImageBoxes], num_classes: int) -> Iterator[tuple[ImageBoxes, Explained]]:
    """Each image with what became of its detections and objects.

    Raises:
        ValueError: A class is not below K.
    """
    for some in portions(images):
        matches, _, _ = match(some, num_classes)
        start = 0
        for image in some:
            order = np.lexsort((-image.scores, image.classes))  # that of the matches
            here = slice(start, start + len(order))
            right, ignored = np.empty((2, len(order)), bool)
            right[order] = matches.true[here, 0] & 1
            ignored[order] = matches.ignored[here, 0] & 1
            start += len(order)
            yield image, _explained(image, right, ~ignored & ~right)


def _explained(image: ImageBoxes, right: np.ndarray, wrong: np.ndarray) -> Explained:
    """What became of an image's detections, of which it is known which are right and which wrong: bool [D] each."""
    due = np.flatnonzero(image.flags == COUNTS)
    classes = image.true_classes[due]
    taken = np.zeros(len(due), bool)
    for place in np.flatnonzero(right)[np.argsort(-image.scores[right], kind="stable")]:
        own = np.flatnonzero((classes == image.classes[place]) & ~taken)
        near = _overlaps(image, np.array([place]), due[own])[0]
        taken[own[np.flatnonzero(near == near.max())[-1]]] = True
    kind, target = np.full(len(right), NONE, np.int8), np.full(len(right), NONE, np.int64)
    covered = taken.copy()
    kind[wrong] = BACKGROUND
    rows = np.flatnonzero(wrong) if len(due) else np.empty(0, np.int64)
    for some in np.array_split(rows, max(1, len(rows) * len(due) // _PAIRS)):
        if not len(some):
            continue
        near = _overlaps(image, some, due)
        same = classes[None] == image.classes[some, None]
        own, other = np.where(same, near, 0), np.where(same, 0, near)
        of_own, of_other = own.max(1), other.max(1)
        holds = [(of_own >= NEAR) & (of_own < FOUND), of_other >= FOUND, of_own >= FOUND, of_other < NEAR]
        kind[some] = np.select(holds, [LOCALISATION, CLASSIFICATION, DUPLICATE, BACKGROUND], BOTH)
        wanted = np.where(holds[0], own.argmax(1), other.argmax(1))
        free = (holds[0] | holds[1]) & ~taken[wanted]
        target[some[free]] = due[wanted[free]]
        covered[wanted[free]] = True
    missed = np.zeros(len(image.flags), bool)
    missed[due[~covered]] = True
    return Explained(right, kind, target, missed)


def _fixed(image: ImageBoxes, found: Explained) -> np.ndarray:
    """Which detections are right once their kind is fixed: of each kind and object, the best, bool [D]."""
    order = np.argsort(-image.scores, kind="stable")
    order = order[found.target[order] != NONE]
    claims = np.stack([found.kind[order].astype(np.int64), found.target[order]])
    fixed = np.zeros(len(image.scores), bool)
    fixed[order[np.unique(claims, axis=1, return_index=True)[1]]] = True
    return fixed


def _overlaps(image: ImageBoxes, rows: np.ndarray, objects: np.ndarray) -> np.ndarray:
    """IoU of some detections with some objects, float64 [rows, objects]."""
    boxes, others = image.boxes[rows].T.astype(np.float64), image.true_boxes[objects].T.astype(np.float64)
    return overlaps(boxes[:, :, None], others[:, None], np.zeros(len(objects), bool))


def _map50(
    objects: np.ndarray, due: np.ndarray, image: np.ndarray, classes: np.ndarray, scores: np.ndarray, right: np.ndarray
) -> float:
    """Mean over the classes with objects of the average precision of detections that all count.

    Args:
        objects: int64 [K]; a class without any is not in the mean.
        due: int64 [K], how many of them are to be found; a class with none left keeps its 0.
        image: int64 [D], whose order decides ties.
        classes: int64 [D].
        scores: float32 [D].
        right: bool [D].
    """
    order = np.lexsort((image, -scores, classes))
    starts = np.searchsorted(classes[order], np.arange(len(objects) + 1))
    values = np.full((len(objects), 1), np.nan)
    for number in np.flatnonzero(objects):
        hits = right[order[starts[number] : starts[number + 1]]][None]
        where = np.zeros(hits.shape[1], np.int64)
        times, total = np.ones((1, 1)), np.array([float(due[number])])
        values[number] = ranked_precision(coco, times, total, where, hits, np.ones_like(hits)) if due[number] else 0.0
    return float(mean_defined(values)[0])
