"""Precision against recall, for pictures."""

import numpy as np

from necklace.boxes.evidence import Evidence


def precision_recall(evidence: Evidence, number: int) -> tuple[np.ndarray, np.ndarray] | None:
    """The precision-recall curve of a class at an IoU of 0.5, by COCO's rules, over objects of all sizes.

    Args:
        evidence: Of a split.
        number: The class.

    Returns:
        Recall, ascending from 0, and the best precision at that recall or above, both float64 [P] in [0, 1]; the area below is
        `box_ap50/CLASS` but for its 101 points. None where the class has no object.
    """
    objects = int((evidence.object_class == number).sum())
    if not objects:
        return None
    rows = slice(*evidence.starts[number : number + 2])
    counted = (evidence.ignored[rows, 0] & 1) == 0
    right = (evidence.true[rows, 0][counted] & 1).astype(bool)
    found = np.cumsum(right)[right]
    seen = np.flatnonzero(right) + 1
    best = np.maximum.accumulate((found / seen)[::-1])[::-1]
    # A precision holds from the recall before its own; after the last right detection there is none.
    recall = np.repeat(np.append(0, found) / objects, 2)[1:]
    return recall, np.append(np.repeat(best, 2), 0.0)
