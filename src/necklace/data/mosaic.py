"""Mosaic: four images of a batch in one, with their boxes.

The images are laid out as two rows of two, and the new image is a window of one image's size onto them: where the four meet is
drawn uniformly. Nothing is resized, so the batch keeps its shape, and an object is either whole or cut by a border. This is the
mosaic of YOLOv4 and YOLOv5 (Bochkovskiy et al. 2020, arXiv 2004.10934) without the random scale that follows there;
`data.augment.crop_scale` gives one. The image itself is the top left of the four, the other three are drawn from its batch.
"""

from typing import NamedTuple

import torch

from necklace.data.boxes import Targets
from necklace.data.moved_boxes import clipped


class Layout(NamedTuple):
    """What is drawn for a batch.

    Attributes:
        tiles: int64 [B, 4], the images at the top left, top right, bottom left and bottom right of each new image.
        start: int64 [B, 2], row and column of the first image at which the window begins; 0, 0 for an image that stays.
    """

    tiles: torch.Tensor
    start: torch.Tensor


def draw_layout(count: int, height: int, width: int, share: float, generator: torch.Generator) -> Layout:
    """Draw mosaics for a share of the images of a batch.

    Args:
        count: Images.
        height: Their height in pixels.
        width: Their width.
        share: The probability of an image to become a mosaic.
        generator: A CPU generator.
    """
    becomes = torch.rand(count, 1, generator=generator) < share
    others = torch.randint(count, (count, 3), generator=generator)
    sides = torch.tensor([height, width])
    start = (torch.rand(count, 2, generator=generator, dtype=torch.double) * (sides + 1)).long()
    own = torch.arange(count)[:, None]
    return Layout(torch.where(becomes, torch.cat([own, others], 1), own), torch.where(becomes, start, 0))


def mosaic(images: torch.Tensor, targets: Targets, layout: Layout) -> tuple[torch.Tensor, Targets, torch.Tensor]:
    """Make the mosaics of a batch.

    Args:
        images: uint8 [B, H, W, 3].
        targets: Their boxes.
        layout: From `draw_layout`, on the CPU.

    Returns:
        The images, their boxes as `clipped` gives them, and float64 [M], the share of each object that is left.
    """
    layout = Layout(*(part.to(images.device, non_blocking=True) for part in layout))
    return _pixels(images, layout), *_boxes(targets, layout, (images.shape[1], images.shape[2]))


def _pixels(images: torch.Tensor, layout: Layout) -> torch.Tensor:
    count, height, width = images.shape[:3]
    rows, columns = (
        torch.arange(side, device=images.device) + layout.start[:, axis, None] for axis, side in enumerate((height, width))
    )
    tile = 2 * (rows // height)[:, :, None] + (columns // width)[:, None, :]
    source = layout.tiles.gather(1, tile.view(count, -1)).view(tile.shape)
    place = width * (height * source + (rows % height)[:, :, None]) + (columns % width)[:, None, :]
    return images.reshape(-1, 3).index_select(0, place.view(-1)).view(images.shape)


def _boxes(targets: Targets, layout: Layout, size: tuple[int, int]) -> tuple[Targets, torch.Tensor]:
    height, width = size
    counts = targets.image.bincount(minlength=targets.count)
    first = counts.cumsum(0) - counts
    used = torch.ones_like(layout.tiles, dtype=torch.bool)
    used[:, 1::2] = layout.start[:, 1, None] > 0  # right
    used[:, 2:] &= layout.start[:, 0, None] > 0  # below
    each = torch.where(used, counts[layout.tiles], 0).view(-1)  # boxes of each tile of each image
    tile = torch.repeat_interleave(torch.arange(len(each), device=each.device), each)
    rows = torch.arange(len(tile), device=each.device) - (each.cumsum(0) - each)[tile] + first[layout.tiles.view(-1)[tile]]
    image, place = tile // 4, tile % 4
    shift = torch.stack([place % 2 * width, place // 2 * height], 1) - layout.start[image].flip(1)
    before = targets._replace(boxes=targets.boxes[rows], classes=targets.classes[rows], flags=targets.flags[rows], image=image)
    return clipped(before, before.boxes.double() + shift.repeat(1, 2), size)
