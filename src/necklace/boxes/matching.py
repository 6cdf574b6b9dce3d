"""Which detections found an object, which found nothing, and which do not count.

COCO's rules, as in `COCOeval.evaluateImg` of cocodataset/cocoapi (Simplified BSD; read, not copied): of each image and class,
the 100 detections with the highest scores, one after the other, take the object that they overlap most of those not yet taken;
an object that counts before one that is ignored, of equal overlaps the last. An object outside the range of areas is ignored,
and so is a detection outside it that found nothing. It is done anew for each of the ten IoUs and the four ranges of areas. The
area of an object is that of its box (COCO's own files state that of its outline).

VOC's rules, as in `VOCevaldet.m` of the VOC development kit: a detection looks only at the object that it overlaps most (of
equals the first). If that is `difficult`, the detection does not count; if it was found before, the detection is wrong. All
detections of an image count. VOC has no crowds: here, a detection whose best object is missed does not count if half of it lies
in a crowd.

Class-agnostic matching is COCO's with all classes as one, of an image's 100 best detections that overlap no better one by more
than `OVERLAP`. (COCO's own `useCats=0` keeps those as well; a detector that knows where an object is, but not its class, gives
a box for each class, and all but one of them would count as wrong.) Whether such a detection has the class of the object that
it found is kept too.

What is computed one after the other there is computed for many images at once here. To let detections choose in turn is to let
all propose at once to their favourites, while an object keeps the best proposal and the others go on: since all objects rank
the detections in the same way, both end in the one stable assignment (Gale and Shapley 1962).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from necklace.boxes.overlap import MOST, areas_of, distinct, overlaps
from necklace.boxes.truth import COUNTS, CROWD, ImageBoxes

IOUS = np.linspace(0.5, 0.95, 10)  # as COCO computes them: 0.6 and 0.7 are not the nearest floats
AREAS = {
    "all": (0.0, 1e10),
    "small": (0.0, 32.0**2),
    "medium": (32.0**2, 96.0**2),
    "large": (96.0**2, 1e10),
}  # px, both ends in
OWN_CLASS = 1  # where `Matches.true` of all classes as one says, for each IoU: found an object, and has its class
ALL_IOUS = np.uint16(2 ** len(IOUS) - 1)  # one bit each
WRONG, RIGHT, IGNORABLE = 0, 1, 2  # by VOC's rules

_LOW, _HIGH = np.array(list(AREAS.values())).T
_PAIRS = 2**16  # pairs of boxes that are compared at once


@dataclass(frozen=True, eq=False)
class Matches:
    """Detections and what became of them, in order of image, class, and falling score.

    Attributes:
        image: int32 [D], the image's index in its split.
        classes: int32 [D].
        scores: float32 [D].
        true: uint16 [D, 4], for each range of areas a bit for each IoU: found an object.
        ignored: uint16 [D, 4], likewise: does not count.
        voc: uint8 [D], `WRONG`, `RIGHT` or `IGNORABLE`.
    """

    image: np.ndarray
    classes: np.ndarray
    scores: np.ndarray
    true: np.ndarray
    ignored: np.ndarray
    voc: np.ndarray


@dataclass(frozen=True, eq=False)
class Objects:
    """The objects that count.

    Attributes:
        image: int32 [P], the image's index in its split.
        classes: int32 [P].
        ranges: uint8 [P], a bit for each of `AREAS`: its area is in that range.
    """

    image: np.ndarray
    classes: np.ndarray
    ranges: np.ndarray


def match(images: Sequence[ImageBoxes], num_classes: int) -> tuple[Matches, Matches, Objects]:
    """Match the detections of some images, within their classes and with all classes as one.

    Args:
        images: At least one.
        num_classes: K.

    Returns:
        The matches within the classes; those with all classes as one, whose class is K, of which only the area `all` counts,
        and whose place for the next one is that of `OWN_CLASS`; and the objects.

    Raises:
        ValueError: A class is not below K.
    """
    for image in images:
        for name in ("true_classes", "classes"):
            if (getattr(image, name) >= num_classes).any():
                wrong = getattr(image, name).max()
                raise ValueError(f"boxes of image {image.index}: `{name}` holds {wrong}, but there are {num_classes} classes")
    indices = np.array([image.index for image in images], np.int32)
    owner = np.repeat(np.arange(len(images)), [len(image.flags) for image in images])
    classes = np.concatenate([image.true_classes for image in images])
    order = np.lexsort((classes, owner))
    owner, classes = owner[order], classes[order]
    truths = _Truths(
        _columns(np.concatenate([image.true_boxes for image in images])[order]),
        np.concatenate([image.flags for image in images])[order],
    )
    counts = truths.flags == COUNTS
    objects = Objects(indices[owner[counts]], classes[counts].astype(np.int32), _ranges(areas_of(truths.boxes[:, counts])))

    holder = np.repeat(np.arange(len(images)), [len(image.classes) for image in images])
    found = np.concatenate([image.classes for image in images])
    scores = np.concatenate([image.scores for image in images])
    boxes = np.concatenate([image.boxes for image in images])

    order = np.lexsort((-scores, found, holder))
    group = holder * num_classes + found
    results = _outcomes(_columns(boxes[order]), group[order], truths, owner * num_classes + classes, len(AREAS))
    within = Matches(indices[holder[order]], found[order].astype(np.int32), scores[order], *results)

    order = np.lexsort((found, -scores, holder))
    order = order[distinct(_columns(boxes[order]), holder[order])]
    of_classes = found[order], classes
    true, ignored, voc = _outcomes(_columns(boxes[order]), holder[order], truths, owner, 1, of_classes)
    voc[:] = IGNORABLE  # VOC's rules look at more than these
    together = Matches(indices[holder[order]], np.full(len(order), num_classes, np.int32), scores[order], true, ignored, voc)
    return within, together, objects


@dataclass(frozen=True, eq=False)
class _Truths:
    """True boxes in order of image and class: float64 [4, M], and their flags."""

    boxes: np.ndarray
    flags: np.ndarray


def _outcomes(
    boxes: np.ndarray,
    group: np.ndarray,
    truths: _Truths,
    truth_group: np.ndarray,
    areas: int,
    classes: tuple[np.ndarray, np.ndarray] | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`true`, `ignored` and `voc` of `Matches`, for detections in order of group and falling score.

    A detection and a true box are compared if they are of one group; both groups ascend. Of the ranges of areas, only the first
    `areas` are looked at. With the `classes` of detections and true boxes, `OWN_CLASS` is filled as well.
    """
    place = np.arange(len(group)) - np.searchsorted(group, group)
    looked_at = place < MOST
    voc = np.full(len(group), WRONG, np.uint8)
    best = np.full(len(group), -1)
    found: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    for detection, truth, iou in _close_pairs(boxes, group, truths, truth_group):
        crowd = truths.flags[truth] == CROWD
        kept = looked_at[detection]
        found.append((detection[kept], truth[kept], iou[kept]))
        voc[detection[crowd]] = IGNORABLE  # unless it has an object of its own
        detection, truth, iou = detection[~crowd], truth[~crowd], iou[~crowd]
        if len(detection):
            starts = np.flatnonzero(np.diff(detection, prepend=-1))
            highest = np.maximum.reduceat(iou, starts)
            first = np.flatnonzero(iou == np.repeat(highest, np.diff(starts, append=len(iou))))
            first = first[np.diff(detection[first], prepend=-1) > 0]
            best[detection[first]] = truth[first]
    own = np.flatnonzero(best >= 0)
    voc[own] = np.where(truths.flags[best[own]] == COUNTS, WRONG, IGNORABLE)
    _, first = np.unique(best[own], return_index=True)
    first = own[first]
    voc[first[truths.flags[best[first]] == COUNTS]] = RIGHT

    true = np.zeros((len(group), len(AREAS)), np.uint16)
    ignored = np.full((len(group), len(AREAS)), ALL_IOUS)
    pairs = [np.concatenate(part) for part in zip(*found, strict=True)] if found else [np.empty(0, np.int64)] * 3
    size, truth_size = areas_of(boxes), areas_of(truths.boxes)
    for area in range(areas):
        outside = (size < _LOW[area]) | (size > _HIGH[area])
        out = (truths.flags != COUNTS) | (truth_size < _LOW[area]) | (truth_size > _HIGH[area])
        true[:, area], ignored[:, area] = _coco(pairs, outside, out, truths.flags == CROWD)
        true[~looked_at, area], ignored[~looked_at, area] = 0, ALL_IOUS
    if classes is not None:
        for bit, taker, taken in _taken(pairs, truths.flags != COUNTS, truths.flags == CROWD):
            own = (truths.flags[taken] == COUNTS) & (classes[0][taker] == classes[1][taken])
            true[taker[own], OWN_CLASS] |= bit
            ignored[taker[own], OWN_CLASS] &= ~bit
    return true, ignored, voc


def _close_pairs(
    boxes: np.ndarray, group: np.ndarray, truths: _Truths, truth_group: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Detection, true box and IoU of the pairs with at least the lowest IoU, in order.

    Some come at a time, so that memory is bounded; all of a detection together.
    """
    first, last = np.searchsorted(truth_group, group), np.searchsorted(truth_group, group, "right")
    some = np.flatnonzero(last > first)
    ends = np.cumsum((last - first)[some])
    crowd = truths.flags == CROWD
    start = 0
    while start < len(some):
        done = ends[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, done + _PAIRS, "right")))
        who = some[start:stop]
        start = stop
        if group[who[0]] == group[who[-1]]:  # one class of one image, as in crowded ones: much faster
            some_truths = slice(first[who[0]], last[who[0]])
            iou = overlaps(boxes[:, who, None], truths.boxes[:, None, some_truths], crowd[some_truths])
            close = np.flatnonzero(iou >= IOUS[0])
            row, column = np.divmod(close, iou.shape[1])
            yield who[row], column + first[who[0]], iou.take(close)
            continue
        number = (last - first)[who]
        detection = np.repeat(who, number)
        truth = np.arange(len(detection)) + np.repeat(first[who] - (np.cumsum(number) - number), number)
        iou = overlaps(boxes.take(detection, 1), truths.boxes.take(truth, 1), crowd.take(truth))
        close = np.flatnonzero(iou >= IOUS[0])
        yield detection[close], truth[close], iou[close]


def _coco(
    pairs: Sequence[np.ndarray], outside: np.ndarray, out: np.ndarray, crowd: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Bits of the IoUs at which each detection found an object, and at which it does not count.

    Args:
        pairs: Detection, true box and IoU, in order.
        outside: bool [D], whether each detection's area is outside the range.
        out: bool [M], whether each true box is ignored.
        crowd: bool [M].
    """
    true, ignored = np.zeros(len(outside), np.uint16), np.where(outside, ALL_IOUS, np.uint16(0))
    for bit, taker, taken in _taken(pairs, out, crowd):
        right = ~out[taken]
        true[taker[right]] |= bit
        ignored[taker[right]] &= ~bit
        ignored[taker[~right]] |= bit
    return true, ignored


def _taken(
    pairs: Sequence[np.ndarray], out: np.ndarray, crowd: np.ndarray
) -> Iterator[tuple[np.uint16, np.ndarray, np.ndarray]]:
    """The bit of each IoU, the detections that take a true box there, and which; arguments as for `_coco`."""
    detection, truth, iou = pairs
    order = np.lexsort((-truth, -iou, out[truth], detection))
    detection, truth, iou = detection[order], truth[order], iou[order]
    for number, least in enumerate(IOUS):
        enough = iou >= least
        detection, truth, iou = detection[enough], truth[enough], iou[enough]
        yield np.uint16(1 << number), *_in_turn(detection, truth, crowd)


def _in_turn(detection: np.ndarray, truth: np.ndarray, crowd: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Let each detection, from the lowest number on, take the first of its true boxes that none has taken; a crowd serves all.

    Args:
        detection: [P], ascending.
        truth: [P], in each detection's order of preference.
        crowd: bool [M].

    Returns:
        The detections that took one, and what they took.
    """
    starts = np.flatnonzero(np.diff(detection, prepend=-1))
    ends = np.append(starts[1:], len(detection))
    wish, nobody = starts.copy(), len(starts)
    holder = np.full(len(crowd), nobody)
    free = np.arange(nobody)
    while len(free):
        wanted = truth[wish[free]]
        free, wanted = free[~crowd[wanted]], wanted[~crowd[wanted]]
        before = holder[wanted]
        np.minimum.at(holder, wanted, free)
        now = holder[wanted]
        free = np.unique(np.concatenate([free[now != free], before[(before != nobody) & (now != before)]]))
        wish[free] += 1
        free = free[wish[free] < ends[free]]
    got = wish < ends
    return detection[starts[got]], truth[wish[got]]


def _columns(boxes: np.ndarray) -> np.ndarray:
    """Boxes [N, 4] as float64 [4, N]."""
    return np.ascontiguousarray(boxes.T, np.float64)


def _ranges(size: np.ndarray) -> np.ndarray:
    """A bit for each range of areas that a size is in, uint8."""
    inside = (size[:, None] >= _LOW) & (size[:, None] <= _HIGH)
    return (inside << np.arange(len(AREAS))).sum(1).astype(np.uint8)
