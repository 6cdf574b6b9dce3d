"""Augmentation and normalisation of whole batches as tensors, on the batch's device.

torchvision's transforms.v2 draws its random parameters once per batched tensor, so a flip would flip all images or none. Here
each image has its own draws, and flip and shift together are a single gather of rows and columns.

A random resized crop is cut from the image at the size of its batch, not from the original pixels. So the batch keeps one
shape, which native sizes need, and no image is decoded again; but a small crop is enlarged from fewer pixels than the file may
have.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

GREY = (0.299, 0.587, 0.114)  # weights of red, green and blue in brightness, Rec. 601
ASPECT = 4 / 3  # largest ratio between the aspects of crop and image, in both directions


@dataclass(frozen=True)
class Augmentation:
    """Augmentation of training images; every draw is per image. The order is crop, shift, flip, photometric, cutout.

    Attributes:
        crop_scale: Cut out a box and resize it to the image's size. Its share of the area is uniform in [crop_scale, 1], its
            aspect log-uniform within 4/3 of the image's own, as far as such a box fits; 1 for none.
        crop_padding: Shift by up to this many pixels along each axis; the gap is filled by reflection; 0 for none.
        flip: Flip horizontally with probability 1/2.
        photometric: Change brightness, then contrast, then saturation, each by a factor uniform in [1 - photometric,
            1 + photometric]; 0 for none.
        cutout: Side in pixels of a square at a random place that is set to mid-grey; 0 for none.

    Raises:
        ValueError: An option is out of range.
    """

    flip: bool = False
    crop_padding: int = 0
    cutout: int = 0
    photometric: float = 0.0
    crop_scale: float = 1.0

    def __post_init__(self) -> None:
        for name in ("crop_padding", "cutout"):
            if getattr(self, name) < 0:
                raise ValueError(f"data.augment.{name}={getattr(self, name)}: must be 0 (off) or a number of pixels")
        if not 0 <= self.photometric <= 1:
            raise ValueError(f"data.augment.photometric={self.photometric}: must be 0 (off) or a strength up to 1")
        if not 0 < self.crop_scale <= 1:
            raise ValueError(f"data.augment.crop_scale={self.crop_scale}: must be 1 (off) or a share of the area above 0")

    def __call__(self, images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Augment a batch.

        Args:
            images: uint8 [B, H, W, 3].
            generator: A CPU generator, so that the draws are the same on every device.

        Returns:
            uint8 [B, H, W, 3]; `images` is not changed.
        """
        count, height, width = images.shape[:3]
        if self.crop_scale < 1:
            images = resized_crops(images, _boxes(count, height, width, self.crop_scale, generator))
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
        if self.photometric:
            factors = 1 + self.photometric * (2 * torch.rand(3, count, generator=generator) - 1)
            images = adjust(images, *factors)
        if self.cutout:
            centre_y = torch.randint(height, (count, 1), generator=generator)
            centre_x = torch.randint(width, (count, 1), generator=generator)
            hit_rows = _within(torch.arange(height), centre_y, self.cutout)
            hit_columns = _within(torch.arange(width), centre_x, self.cutout)
            hole = (hit_rows[:, :, None] & hit_columns[:, None, :]).unsqueeze(3).to(images.device)
            images = images.masked_fill(hole, 128)
        return images


def _boxes(count: int, height: int, width: int, scale: float, generator: torch.Generator) -> torch.Tensor:
    """Draw boxes inside an image for `resized_crops`: int64 [count, 4]."""
    share, aspect, top, left = torch.rand(4, count, generator=generator, dtype=torch.double)
    share = scale + (1 - scale) * share
    # A box of nearly the whole area cannot have a much different aspect; clipping it at the border instead would lose area.
    aspect = (ASPECT ** (2 * aspect - 1)).clamp(share, 1 / share)
    sizes = [(side * (share * ratio).sqrt()).round().clamp(1, side) for side, ratio in ((height, 1 / aspect), (width, aspect))]
    starts = [(draw * (side - size + 1)).floor() for draw, side, size in zip((top, left), (height, width), sizes, strict=True)]
    return torch.stack([*starts, *sizes], 1).long()


def resized_crops(images: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
    """Cut a box out of each image and resize it to the image's size, bilinearly and without antialiasing.

    Args:
        images: uint8 [B, H, W, 3].
        boxes: int64 [B, 4], on the CPU: top, left, height and width of a box in each image, in pixels.

    Returns:
        uint8 [B, H, W, 3].
    """
    top, left, height, width = boxes.double()[:, :, None].unbind(1)
    rows = _stretched(images, top, height)
    return _stretched(rows.transpose(1, 2), left, width).transpose(1, 2).round().to(torch.uint8)


def _stretched(images: torch.Tensor, start: torch.Tensor, size: torch.Tensor) -> torch.Tensor:
    """Interpolate the lines [start, start + size) of each image [B, L, M, 3] to all L lines: float32 [B, L, M, 3]."""
    lines, device = images.shape[1], images.device
    # Line i covers [i, i + 1]: centres are mapped to centres, and lines outside the box are not used.
    place = torch.minimum(((torch.arange(lines) + 0.5) * size / lines - 0.5).clamp(min=0), size - 1) + start
    before = place.floor()
    after = torch.minimum(before + 1, start + size - 1)
    weight = (place - before).float()[:, :, None, None].to(device)
    batch = torch.arange(len(images), device=device)[:, None]
    first, second = (images[batch, index.long().to(device)].float() for index in (before, after))
    return torch.lerp(first, second, weight)


def adjust(images: torch.Tensor, brightness: torch.Tensor, contrast: torch.Tensor, saturation: torch.Tensor) -> torch.Tensor:
    """Change brightness, then contrast, then saturation of each image by its own factors; 1 changes nothing.

    Args:
        images: uint8 [B, H, W, 3].
        brightness: float32 [B], on the CPU: pixels are multiplied by it.
        contrast: float32 [B], on the CPU: 0 gives the mean grey of the image, values above 1 increase the distance from it.
        saturation: float32 [B], on the CPU: 0 gives the grey of each pixel, values above 1 increase the distance from it.

    Returns:
        uint8 [B, H, W, 3].
    """
    weights = torch.tensor(GREY, device=images.device)
    factors = [factor.view(-1, 1, 1, 1).to(images.device) for factor in (brightness, contrast, saturation)]
    pixels = (images.float() * factors[0]).clamp_(0, 255)
    grey = (pixels * weights).sum(3, keepdim=True)
    pixels = torch.lerp(grey.mean((1, 2), keepdim=True), pixels, factors[1]).clamp_(0, 255)
    grey = (pixels * weights).sum(3, keepdim=True)
    return torch.lerp(grey, pixels, factors[2]).clamp_(0, 255).round_().to(torch.uint8)


def _reflect(index: torch.Tensor, size: int) -> torch.Tensor:
    """Reflect indices outside [0, size) at the border, for shifts of any length."""
    if size == 1:
        return torch.zeros_like(index)
    period = 2 * (size - 1)
    index = index.remainder(period)
    return torch.where(index < size, index, period - index)


def _within(positions: torch.Tensor, centres: torch.Tensor, side: int) -> torch.Tensor:
    """Whether positions [P] are inside the windows of `side` pixels around the centres [B, 1]: bool [B, P]."""
    start = centres - side // 2
    return (positions >= start) & (positions < start + side)


def normalise(images: torch.Tensor, mean: Sequence[float], std: Sequence[float]) -> torch.Tensor:
    """Convert uint8 [B, H, W, 3] to float32 [B, 3, H, W] (channels_last in memory), (value / 255 - mean) / std."""
    scale = torch.tensor([1 / (255 * s) for s in std], device=images.device)
    shift = torch.tensor([-m / s for m, s in zip(mean, std, strict=True)], device=images.device)
    return torch.addcmul(shift, images.float(), scale).permute(0, 3, 1, 2)
