"""How far boxes overlap, and which of them stand for one place."""

import numpy as np

MOST = 100  # detections of an image and class that COCO looks at
OVERLAP = 0.5  # IoU above which, with all classes as one, the worse of two detections goes


def areas_of(boxes: np.ndarray) -> np.ndarray:
    """The areas [N] of boxes [4, N]."""
    return (boxes[2] - boxes[0]) * (boxes[3] - boxes[1])


def overlaps(boxes: np.ndarray, others: np.ndarray, crowd: np.ndarray) -> np.ndarray:
    """IoU of pairs of boxes; where the second is a crowd, the share of the first that lies in it.

    Args:
        boxes: float64 [4, P]; here and below, instead of P any shapes that broadcast.
        others: float64 [4, P].
        crowd: bool [P].

    Returns:
        float64 [P]; 0 where boxes have no common area.
    """
    width = np.minimum(boxes[2], others[2]) - np.maximum(boxes[0], others[0])
    height = np.minimum(boxes[3], others[3]) - np.maximum(boxes[1], others[1])
    common = np.maximum(width, 0) * np.maximum(height, 0)
    own = areas_of(boxes)
    union = np.where(crowd, own, own + areas_of(others) - common)
    return common / np.where(common > 0, union, 1)


def distinct(boxes: np.ndarray, group: np.ndarray) -> np.ndarray:
    """The best `MOST` detections of each group that overlap no better one of these by more than `OVERLAP`.

    Args:
        boxes: float64 [4, D], in order of group and falling score.
        group: int [D], ascending.

    Returns:
        Their places, ascending.
    """
    kept, left = [np.empty(0, np.int64)], np.arange(len(group))
    for _ in range(MOST):  # the best that is left of every group at once
        if not len(left):
            break
        starts = np.flatnonzero(np.diff(group[left], prepend=-1))
        best = left[starts]
        kept.append(best)
        over = np.repeat(best, np.diff(starts, append=len(left)))
        apart = overlaps(boxes.take(left, 1), boxes.take(over, 1), np.zeros(len(left), bool)) <= OVERLAP
        apart[starts] = False
        left = left[apart]
    return np.sort(np.concatenate(kept))
