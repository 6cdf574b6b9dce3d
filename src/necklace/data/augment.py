"""Augmentation and normalisation of whole batches as tensors, on the batch's device.

torchvision's transforms.v2 draws its random parameters once for a batched tensor, so that a flip would flip all images or
none. Here each image has its own draw, and flip and crop together are a single gather of rows and columns.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Augmentation:
    """What is done to training images; every draw is per image.

    Attributes:
        flip: Mirror left and right with probability 1/2.
        crop_padding: Shift by up to this many pixels along each side, with the border reflected into the gap; 0 for none.
        cutout: Side in pixels of a square that is set to mid-grey at a random place; 0 for none.
    """

    flip: bool = False
    crop_padding: int = 0
    cutout: int = 0

    def __post_init__(self) -> None:
        for name in ("crop_padding", "cutout"):
            if getattr(self, name) < 0:
                raise ValueError(f"data.augment.{name}={getattr(self, name)}: must be 0 (off) or a number of pixels")

    def __call__(self, images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Augment a batch.

        Args:
            images: uint8 [B, H, W, 3].
            generator: A CPU generator; draws are made on the CPU, so that they are the same on every device.

        Returns:
            uint8 [B, H, W, 3], a new tensor; `images` is left as it was.
        """
        count, height, width = images.shape[:3]
        rows = torch.arange(height).expand(count, height)
        columns = torch.arange(width).expand(count, width)
        if self.crop_padding:
            shifts = torch.randint(-self.crop_padding, self.crop_padding + 1, (2, count, 1), generator=generator)
            rows = _reflect(rows + shifts[0], height)
            columns = _reflect(columns + shifts[1], width)
        if self.flip:
            mirrored = torch.rand(count, 1, generator=generator) < 0.5
            columns = torch.where(mirrored, columns.flip(1), columns)
        if self.flip or self.crop_padding:
            batch = torch.arange(count).view(-1, 1, 1)
            index = (batch, rows[:, :, None], columns[:, None, :])
            images = images[tuple(axis.to(images.device) for axis in index)]
        if self.cutout:
            centre_y = torch.randint(height, (count, 1), generator=generator)
            centre_x = torch.randint(width, (count, 1), generator=generator)
            hit_rows = _within(torch.arange(height), centre_y, self.cutout)
            hit_columns = _within(torch.arange(width), centre_x, self.cutout)
            hole = (hit_rows[:, :, None] & hit_columns[:, None, :]).unsqueeze(3).to(images.device)
            images = images.masked_fill(hole, 128)
        return images


def _reflect(index: torch.Tensor, size: int) -> torch.Tensor:
    """Fold indices that lie outside [0, size) back in, as a mirror at the border would, for shifts of any length."""
    if size == 1:
        return torch.zeros_like(index)
    period = 2 * (size - 1)
    index = index.remainder(period)
    return torch.where(index < size, index, period - index)


def _within(positions: torch.Tensor, centres: torch.Tensor, side: int) -> torch.Tensor:
    """Which positions [P] lie in the windows of `side` pixels around the centres [B, 1]: bool [B, P]."""
    start = centres - side // 2
    return (positions >= start) & (positions < start + side)


def normalise(images: torch.Tensor, mean: Sequence[float], std: Sequence[float]) -> torch.Tensor:
    """Turn uint8 [B, H, W, 3] into float32 [B, 3, H, W] (channels_last in memory), (value / 255 - mean) / std."""
    scale = torch.tensor([1 / (255 * s) for s in std], device=images.device)
    shift = torch.tensor([-m / s for m, s in zip(mean, std, strict=True)], device=images.device)
    return torch.addcmul(shift, images.float(), scale).permute(0, 3, 1, 2)
