"""What augmentation does to the boxes of a batch.

A crop clips the boxes. An object of which less than `LEAST_LEFT` of its area is left is ignored from then on, neither wanted
nor forbidden to be found; one of which nothing is left is gone.
"""

import torch

from necklace.boxes.truth import CROWD, IGNORED
from necklace.data.boxes import Targets

LEAST_LEFT = 0.3


def flipped(targets: Targets, which: torch.Tensor, width: int) -> Targets:
    """Mirror the boxes of some images horizontally.

    Args:
        targets: The boxes.
        which: bool [B], the images.
        width: Their width in pixels.
    """
    x0, y0, x1, y1 = targets.boxes.unbind(1)
    turned = torch.stack([width - x1, y0, width - x0, y1], 1)
    return targets._replace(boxes=torch.where(which[targets.image][:, None], turned, targets.boxes))


def cropped(targets: Targets, crops: torch.Tensor, size: tuple[int, int], left: torch.Tensor | float = 1.0) -> Targets:
    """Cut a window out of each image and resize it to the image's size.

    Args:
        targets: The boxes.
        crops: int64 [B, 4]: top, left, height and width of the window in each image, in pixels.
        size: Height and width of the images.
        left: [M], the share of each object that was left before.
    """
    height, width = size
    top, start, tall, wide = crops.double()[targets.image].unbind(1)
    corner = torch.stack([start, top, start, top], 1)
    scale = torch.stack([width / wide, height / tall], 1).repeat(1, 2)
    return clipped(targets, (targets.boxes.double() - corner) * scale, size, left)[0]


def clipped(
    targets: Targets, moved: torch.Tensor, size: tuple[int, int], left: torch.Tensor | float = 1.0
) -> tuple[Targets, torch.Tensor]:
    """Clip boxes at the border of their images.

    Args:
        targets: The boxes before they were moved.
        moved: float64 [M, 4], where they are now.
        size: Height and width of the images.
        left: [M], the share of each object that was left before.

    Returns:
        Those of which something is left, and float64 [M], the share of each object that is.
    """
    height, width = size
    limits = moved.new_tensor([width, height, width, height])
    inside = moved.clamp(min=0).minimum(limits)
    left = left * _area(inside) / _area(moved)
    flags = torch.where((left < LEAST_LEFT) & (targets.flags != CROWD), IGNORED, targets.flags).to(torch.uint8)
    boxes = inside.float()
    some = (boxes[:, 0] < boxes[:, 2]) & (boxes[:, 1] < boxes[:, 3])
    return targets._replace(boxes=boxes, flags=flags).kept(some), left[some]


def _area(boxes: torch.Tensor) -> torch.Tensor:
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
