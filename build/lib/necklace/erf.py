"""Effective receptive field: how much each input pixel weighs in the centre of a feature map.

Paper: Luo et al., Understanding the Effective Receptive Field in Deep Convolutional Neural Networks, NeurIPS 2016,
https://arxiv.org/abs/1701.04128. Written from the paper, which back-propagates a gradient of 1 from the centre of the output
and averages over inputs. What it leaves open is settled here: the map's channels are summed before the gradient is taken, and
its absolute values are summed over the colours, so that nothing cancels between colours or images.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

MASS = 0.95


@dataclass(frozen=True)
class Spread:
    """How far an effective receptive field reaches, along one side of the image.

    Attributes:
        side: Side in pixels of the smallest square, wherever it lies, that holds `MASS` of all weight.
        corner: Row and column of its first pixel.
        extent: Side of the smallest box with every pixel that weighs anything at all, the longer of height and width.
        box: First row, first column, row after the last and column after the last of that box.
    """

    side: int
    corner: tuple[int, int]
    extent: int
    box: tuple[int, int, int, int]

    @property
    def radius(self) -> float:
        """Half of `side`: a theoretical receptive field of 25 pixels has, in the same measure, a radius of 12.5."""
        return self.side / 2


def effective_receptive_field(parts: Sequence[nn.Module], images: Tensor, batch: int = 8) -> Tensor:
    """The mean over images of |d sum_c y[c, h // 2, w // 2] / d image|, summed over the colours.

    It is taken in evaluation mode (no statistics of a batch join distant pixels) and in double precision, in which torch
    convolves by plain sums: a pixel that cannot matter has a gradient of exactly zero.

    Args:
        parts: The networks to go through in a row, such as backbone and neck; they are copied, not changed.
        images: Normalised images [N, 3, H, W].
        batch: Images that go through at a time.

    Returns:
        Weights [H, W], float64, not normalised.
    """
    probe = copy.deepcopy(nn.Sequential(*parts)).double().cpu().eval().requires_grad_(False)
    total = torch.zeros(images.shape[2:], dtype=torch.double)
    for some in images.split(batch):
        pixels = some.detach().cpu().double().requires_grad_()
        features = probe(pixels)
        centre = features[:, :, features.shape[2] // 2, features.shape[3] // 2].sum()
        (gradient,) = torch.autograd.grad(centre, pixels)
        total += gradient.abs().sum((0, 1))
    return total / len(images)


def spread(weights: Tensor) -> Spread | None:
    """Measure an effective receptive field.

    Args:
        weights: Non-negative [H, W].

    Returns:
        Its spread, or None where every weight is zero (a map that does not depend on the image, such as after dead ReLUs).

    Raises:
        ValueError: A weight is NaN or infinite.
    """
    if not bool(torch.isfinite(weights).all()):
        raise ValueError("the gradient of the feature map is not finite: the weights are not usable")
    touched = weights > 0
    if not bool(touched.any()):
        return None
    rows, columns = (touched.any(axis).nonzero().flatten() for axis in (1, 0))
    box = int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1
    sums = nn.functional.pad(weights.double(), (1, 0, 1, 0)).cumsum(0).cumsum(1)
    # A larger square holds no less, so its side can be searched by halves; beyond the image's shorter side it is a strip.
    low, high = 1, max(weights.shape)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if _heaviest(sums, middle)[0] >= MASS * float(sums[-1, -1]) else (middle + 1, high)
    return Spread(low, _heaviest(sums, low)[1], max(box[2] - box[0], box[3] - box[1]), box)


def _heaviest(sums: Tensor, side: int) -> tuple[float, tuple[int, int]]:
    """The largest weight in a square of this side and where it lies, from the sums over all corners [H + 1, W + 1]."""
    height, width = min(side, sums.shape[0] - 1), min(side, sums.shape[1] - 1)
    inside = sums[height:, width:] - sums[:-height, width:] - sums[height:, :-width] + sums[:-height, :-width]
    place = int(inside.argmax())
    return float(inside.flatten()[place]), (place // inside.shape[1], place % inside.shape[1])
