"""Which points of a dense head are to predict which true box, and with which score: task-aligned assignment.

Paper: Feng et al., TOOD: Task-aligned One-stage Object Detection, ICCV 2021, https://arxiv.org/abs/2108.07755, section 3.2. A
point inside a box is aligned with it by t = score^0.5 * IoU^6, score and IoU being what it predicts now. The `TOP` best points
of each box are to predict it. A point that several boxes want goes to the one with the largest IoU. The score that a point
is to have is its t, scaled so that the best point of a box has the largest IoU of that box's points.

Deviations: the paper is silent on boxes without a point inside; here the nearest point takes such a box. And the best score of
a box is at least `FLOOR`, so that a box that no point meets yet is learned at all.

Everything is done image by image: what an image's points are to predict does not depend on the other images of its batch.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from necklace.boxes.truth import COUNTS
from necklace.data.boxes import Targets

TOP = 10
SCORE_POWER, IOU_POWER = 0.5, 6.0
FLOOR = 0.05
LEAST = 1e-5  # what is below it counts as this, whose sixth power float32 still holds
PAIRS = 2**20  # pairs of a box and a point that are looked at in one go, which bounds the memory


class Assignment(NamedTuple):
    """The points that are to predict a box.

    Attributes:
        place: int64 [P], image * A + point, ascending and distinct.
        box: int64 [P], the true box of each, among all of the batch.
        score: float32 [P], in (0, 1]: what the point's score for the box's class is to be.
    """

    place: Tensor
    box: Tensor
    score: Tensor


class _Pairs(NamedTuple):
    """Pairs of a true box and a point: int64 [P], int64 [P], t float32 [P], IoU float32 [P]."""

    box: Tensor
    place: Tensor
    aligned: Tensor
    iou: Tensor

    def at(self, which: Tensor) -> "_Pairs":
        return _Pairs(*(value[which] for value in self))


@torch.no_grad()
def assign(scores: Tensor, boxes: Tensor, points: Tensor, targets: Targets) -> Assignment:
    """Assign points to the true boxes that count.

    Args:
        scores: float [B, A, K], in [0, 1].
        boxes: Predicted boxes, float32 [B, A, 4].
        points: float32 [A, 2].
        targets: The true boxes.
    """
    counted = (targets.flags == COUNTS).nonzero().flatten()
    share = max(1, PAIRS // len(points))
    parts = [_candidates(scores, boxes, points, targets, some) for some in counted.split(share)]
    pairs = _Pairs(*(torch.cat(values) for values in zip(*parts, strict=True)))
    # A point has one box: that of the largest IoU, of equals the first.
    order = pairs.iou.argsort(descending=True, stable=True)
    order = order[pairs.place[order].argsort(stable=True)]
    place = pairs.place[order]
    first = torch.ones_like(place, dtype=torch.bool)
    first[1:] = place[1:] != place[:-1]
    pairs = pairs.at(order[first])
    count = len(targets.flags)
    most, best = (
        value.new_zeros(count).scatter_reduce(0, pairs.box, value, "amax")[pairs.box] for value in (pairs.aligned, pairs.iou)
    )
    return Assignment(pairs.place, pairs.box, pairs.aligned / most * best.clamp(min=FLOOR))


def inside(points: Tensor, boxes: Tensor) -> Tensor:
    """Whether points [A, 2] lie inside boxes [M, 4]: bool [M, A]."""
    x, y = points.unbind(1)
    left, top, right, bottom = boxes[:, :, None].unbind(1)
    return (x > left) & (x < right) & (y > top) & (y < bottom)


def _candidates(scores: Tensor, boxes: Tensor, points: Tensor, targets: Targets, some: Tensor) -> _Pairs:
    """The best points of some boxes, at most `TOP` each."""
    true, image = targets.boxes[some], targets.image[some]
    within = inside(points, true)
    counts = within.sum(1)
    empty = (counts == 0).nonzero().flatten()
    if len(empty):
        centres = (true[empty, :2] + true[empty, 2:]) / 2
        within[empty, (points - centres[:, None]).square().sum(2).argmin(1)] = True
        counts = counts.clamp(min=1)
    row, point = within.nonzero(as_tuple=True)
    place = image[row] * len(points) + point
    iou = paired_iou(boxes.flatten(0, 1)[place], true[row])
    score = scores.flatten(0, 1)[place, targets.classes[some][row]].float()
    aligned = score.clamp(min=LEAST).pow(SCORE_POWER) * iou.clamp(min=LEAST).pow(IOU_POWER)
    order = aligned.argsort(descending=True, stable=True)
    order = order[row[order].argsort(stable=True)]  # by box, the best first
    rank = torch.arange(len(row), device=row.device) - (counts.cumsum(0) - counts)[row[order]]
    return _Pairs(some[row], place, aligned, iou).at(order[rank < TOP])


def paired_iou(first: Tensor, second: Tensor) -> Tensor:
    """The IoU of each box of `first` [P, 4] with that of `second` [P, 4] at the same place: [P]; 0 where both are empty."""
    corner, end = torch.maximum(first[:, :2], second[:, :2]), torch.minimum(first[:, 2:], second[:, 2:])
    both = (end - corner).clamp(min=0).prod(1)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(1) for boxes in (first, second)]
    return both / (areas[0] + areas[1] - both).clamp(min=torch.finfo(both.dtype).tiny)
