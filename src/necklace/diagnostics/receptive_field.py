"""Effective receptive field: how much each input pixel contributes to the centre of a feature map.

Paper: Luo et al., Understanding the Effective Receptive Field in Deep Convolutional Neural Networks, NeurIPS 2016,
https://arxiv.org/abs/1701.04128. Written from the paper, which back-propagates a gradient of 1 from the centre of the output
and averages over inputs. The paper leaves two points open. Here the map's channels are summed before the gradient is taken, and
its absolute values are summed over the colours, so that nothing cancels between colours or images.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from necklace.model import Model

MASS = 0.95


@dataclass(frozen=True)
class Spread:
    """The extent of an effective receptive field, in pixels.

    Attributes:
        side: Side of the smallest square, wherever it lies, that holds `MASS` of all weight.
        corner: Row and column of its first pixel.
        extent: The longer side of the smallest box with every pixel of a weight above zero.
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

    It is taken in evaluation mode (batch statistics would connect distant pixels) and in double precision, in which torch
    convolves by plain sums: a pixel outside the field has a gradient of exactly zero.

    Args:
        parts: The networks to apply one after the other, such as backbone and neck; they are copied, not changed.
        images: Normalised images [N, 3, H, W].
        batch: Images per batch.

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
    """The spread of an effective receptive field.

    Args:
        weights: Non-negative [H, W].

    Returns:
        None where every weight is zero (the map does not depend on the image, such as after dead ReLUs).

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
    # A larger square holds no less, so a binary search finds its side; beyond the image's shorter side it is a strip.
    low, high = 1, max(weights.shape)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if _heaviest(sums, middle)[0] >= MASS * float(sums[-1, -1]) else (middle + 1, high)
    return Spread(low, _heaviest(sums, low)[1], max(box[2] - box[0], box[3] - box[1]), box)


def _heaviest(sums: Tensor, side: int) -> tuple[float, tuple[int, int]]:
    """The largest weight in a square of this side and its first pixel, from the cumulative sums [H + 1, W + 1]."""
    height, width = min(side, sums.shape[0] - 1), min(side, sums.shape[1] - 1)
    inside = sums[height:, width:] - sums[:-height, width:] - sums[height:, :-width] + sums[:-height, :-width]
    place = int(inside.argmax())
    return float(inside.flatten()[place]), (place // inside.shape[1], place % inside.shape[1])


def theoretical_receptive_field(backbone: nn.Module, limit: int = 512) -> int | None:
    """Measure the side of the square of input pixels that one position of the feature map depends on.

    Every weight is replaced by its absolute value and every max-pool by a mean pool, so that no gradient cancels,
    is zeroed by a ReLU or reaches only the largest pixel. The receptive field is the extent of the non-zero gradient of one
    central output.

    Args:
        backbone: The network, from images to one map or a list of maps; it is copied, not changed.
        limit: Side of the largest square image to try, in pixels.

    Returns:
        The side in pixels, of several maps the largest; or None if it covers a whole `limit` x `limit` image (attention, global
        pooling).
    """
    probe = copy.deepcopy(backbone).double().cpu().eval()
    with torch.no_grad():
        for tensor in probe.parameters():
            # A constant keeps zero-initialised layers (the last BatchNorm of a residual branch) from hiding their branch.
            tensor.copy_(tensor.abs() + 1e-3)
    for name, module in list(probe.named_modules()):
        if isinstance(module, nn.MaxPool2d):
            mean = nn.AvgPool2d(module.kernel_size, module.stride, module.padding, module.ceil_mode)
            probe.set_submodule(name, mean)
    size = 32
    while size <= limit:
        images = torch.ones(1, 3, size, size, dtype=torch.double, requires_grad=True)
        outputs = probe(images)
        extents = [_extent(images, features) for features in (outputs if isinstance(outputs, list) else [outputs])]
        known = [extent for extent in extents if extent is not None]
        if len(known) == len(extents):
            return max(known)
        size *= 2
    return None


def _extent(images: Tensor, features: Tensor) -> int | None:
    """The longer side of the pixels that the centre of a map depends on; None where they reach the image's border."""
    centre = features[0, :, features.shape[2] // 2, features.shape[3] // 2].sum()
    (gradient,) = torch.autograd.grad(centre, images, retain_graph=True)
    touched = gradient[0].abs().sum(0) > 0
    rows, columns = touched.any(1).nonzero().flatten(), touched.any(0).nonzero().flatten()
    size = images.shape[2]
    if min(int(rows[0]), int(columns[0])) > 0 and max(int(rows[-1]), int(columns[-1])) < size - 1:
        return max(int(rows[-1] - rows[0]), int(columns[-1] - columns[0])) + 1
    return None


class BackboneAndHead(nn.Module):
    """Images to the maps of a dense head's predictions, without the neck: its mean over the channels stands in for it."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.backbone, self.head = model.backbone, model.head
        self.channels = int(model.neck.out_channels)  # pyright: ignore[reportArgumentType]

    def forward(self, images: Tensor) -> list[Tensor]:
        """Map images [B, 3, H, W] to the predictions [B, K + 4, h, w] of each level."""
        *finer, last = self.backbone.stages(images)
        neck = last.mean(1, keepdim=True).expand(-1, self.channels, -1, -1)
        return self.head.maps((*finer, neck))  # pyright: ignore[reportCallIssue]
