"""Augmentation and normalisation of whole batches as tensors, on the batch's device.

torchvision's transforms.v2 draws its random parameters once per batched tensor, so a flip would flip all images or none. Here
each image has its own draws, and flip and shift together are a single gather of pixels. The draws are made on the CPU, so that
they are the same on every device, and reach it in one copy that no step waits for. Processes that train together each draw for
all images of a step and use their share, so an image is changed in the same way whatever their number.

A random resized crop is cut from the image at the size of its batch, not from the original pixels. So the batch keeps one
shape, which native sizes need, and no image is decoded again; but a small crop is enlarged from fewer pixels than the file may
have.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, NamedTuple

import torch

from necklace.data.boxes import Targets
from necklace.data.mosaic import draw_layout, mosaic
from necklace.data.moved_boxes import cropped, flipped

GREY = (0.299, 0.587, 0.114)  # weights of red, green and blue in brightness, Rec. 601
ASPECT = 4 / 3  # largest ratio between the aspects of crop and image, in both directions


class Share(NamedTuple):
    """Which images of a step a process has: every `world_size`th, from `rank` on.

    Attributes:
        rank: The process.
        world_size: Processes that train together.
        total: Images of the step over all of them, or None for those of the batch.
    """

    rank: int = 0
    world_size: int = 1
    total: int | None = None

    def of(self, draws: torch.Tensor, axis: int) -> torch.Tensor:
        """The process's share of draws for all images, which lie along `axis`."""
        return draws if self.world_size == 1 else draws.movedim(axis, 0)[self.rank :: self.world_size].movedim(0, axis)


WHOLE = Share()


@dataclass(frozen=True)
class Augmentation:
    """Augmentation of training images; every draw is per image. The order is mosaic, crop, shift, flip, photometric, cutout.

    Attributes:
        mosaic: The probability that an image becomes a mosaic of four of its batch, see `mosaic.py`; 0 for none. Only for
            images with boxes. The others come from the images of the same process.
        crop_scale: Cut out a box and resize it to the image's size. Its share of the area is uniform in [crop_scale, 1], its
            aspect log-uniform within 4/3 of the image's own, as far as such a box fits; 1 for none.
        crop_padding: Shift by up to this many pixels along each axis; the gap is filled by reflection; 0 for none.
        flip: Flip horizontally with probability 1/2. `alternate`: half of the images in the first epoch, drawn once, and from
            then on an image is flipped in every other epoch, so that two epochs show both of its sides (airbench94).
        photometric: Change brightness, then contrast, then saturation, each by a factor uniform in [1 - photometric,
            1 + photometric]; 0 for none.
        cutout: Side in pixels of a square at a random place that is set to mid-grey; 0 for none.

    Raises:
        ValueError: An option is out of range.
    """

    flip: bool | Literal["alternate"] = False
    crop_padding: int = 0
    cutout: int = 0
    photometric: float = 0.0
    crop_scale: float = 1.0
    mosaic: float = 0.0

    def __post_init__(self) -> None:
        if self.flip not in (True, False, "alternate"):
            raise ValueError(f"data.augment.flip={self.flip}: must be true, false or alternate")
        for name in ("crop_padding", "cutout"):
            if getattr(self, name) < 0:
                raise ValueError(f"data.augment.{name}={getattr(self, name)}: must be 0 (off) or a number of pixels")
        if not 0 <= self.photometric <= 1:
            raise ValueError(f"data.augment.photometric={self.photometric}: must be 0 (off) or a strength up to 1")
        if not 0 <= self.mosaic <= 1:
            raise ValueError(f"data.augment.mosaic={self.mosaic}: must be 0 (off) or a probability up to 1")
        if not 0 < self.crop_scale <= 1:
            raise ValueError(f"data.augment.crop_scale={self.crop_scale}: must be 1 (off) or a share of the area above 0")

    def __call__(
        self,
        images: torch.Tensor,
        generator: torch.Generator,
        share: Share = WHOLE,
        flips: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Augment a batch.

        Args:
            images: uint8 [B, H, W, 3].
            generator: A CPU generator, so that the draws are the same on every device; the same for all processes.
            share: Which images of the step these are.
            flips: bool [B] on the images' device, the images to flip, for `alternate`.

        Returns:
            uint8 [B, H, W, 3]; `images` is not changed.
        """
        crops, draws = self._draws(images.shape, generator, share)
        return self._changed(images, crops, draws, flips)

    def with_boxes(
        self,
        images: torch.Tensor,
        targets: Targets,
        generator: torch.Generator,
        share: Share = WHOLE,
        flips: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, Targets]:
        """Augment a batch and its boxes, with the draws that a batch without boxes has, after those of mosaics.

        Args:
            images: uint8 [B, H, W, 3].
            targets: Their boxes.
            generator: As in `__call__`.
            share: As in `__call__`.
            flips: As in `__call__`.

        Returns:
            Images as in `__call__`, and the boxes in them, see `moved_boxes.py`.
        """
        count, height, width = images.shape[:3]
        left: torch.Tensor | float = 1.0
        if self.mosaic:
            layout = draw_layout(count, height, width, self.mosaic, generator)
            images, targets, left = mosaic(images, targets, layout)
        crops, draws = self._draws(images.shape, generator, share)
        if crops is not None:
            targets = cropped(targets, crops.to(images.device, non_blocking=True), (height, width), left)
        if self.flip:
            which = draws[1].view(-1).to(images.device, non_blocking=True) if flips is None else flips
            targets = flipped(targets, which, width)
        return self._changed(images, crops, draws, flips), targets

    def _changed(
        self, images: torch.Tensor, crops: torch.Tensor | None, draws: list[torch.Tensor], flips: torch.Tensor | None
    ) -> torch.Tensor:
        """Images uint8 [B, H, W, 3], changed as drawn; see `_draws`."""
        count, height, width = images.shape[:3]
        device = images.device
        if crops is not None:
            images = resized_crops(images, crops)
        shifts, mirrored, factors, centres = _on(device, draws)
        rows = torch.arange(height, device=device).expand(count, height)
        columns = torch.arange(width, device=device).expand(count, width)
        if self.crop_padding:
            rows, columns = _reflect(rows + shifts[0], height), _reflect(columns + shifts[1], width)
        if self.flip:
            columns = torch.where(mirrored if flips is None else flips[:, None], columns.flip(1), columns)
        if self.flip or self.crop_padding:
            first = height * torch.arange(count, device=device)[:, None]  # row of each image among the rows of all
            place = (width * (first + rows))[:, :, None] + columns[:, None, :]
            # A pixel is a row of three bytes here: four times as fast as an index for each axis.
            images = images.reshape(-1, 3).index_select(0, place.view(-1)).view(count, height, width, 3)
        if self.photometric:
            images = adjust(images, *factors)
        if self.cutout:
            hit_rows = _within(torch.arange(height, device=device), centres[0], self.cutout)
            hit_columns = _within(torch.arange(width, device=device), centres[1], self.cutout)
            images = images.masked_fill((hit_rows[:, :, None] & hit_columns[:, None, :]).unsqueeze(3), 128)
        return images

    def _draws(
        self, shape: Sequence[int], generator: torch.Generator, share: Share
    ) -> tuple[torch.Tensor | None, list[torch.Tensor]]:
        """The boxes to cut out, int64 [B, 4], None for none; and the rest, empty where it is off or nothing is drawn for it.

        The rest is shifts int64 [2, B, 1], flips bool [B, 1], factors [3, B] and centres int64 [2, B, 1].
        """
        height, width = shape[1:3]
        count = shape[0] if share.total is None else share.total
        crops = share.of(_boxes(count, height, width, self.crop_scale, generator), 0) if self.crop_scale < 1 else None
        shifts = mirrored = factors = centres = torch.empty(0)
        if self.crop_padding:
            drawn = torch.randint(-self.crop_padding, self.crop_padding + 1, (2, count, 1), generator=generator)
            shifts = share.of(drawn, 1)
        if self.flip and self.flip != "alternate":
            mirrored = share.of(torch.rand(count, 1, generator=generator) < 0.5, 0)
        if self.photometric:
            factors = 1 + self.photometric * (2 * share.of(torch.rand(3, count, generator=generator), 1) - 1)
        if self.cutout:
            centres = torch.stack([torch.randint(side, (count, 1), generator=generator) for side in (height, width)])
            centres = share.of(centres, 1)
        return crops, [shifts, mirrored, factors, centres]


def _on(device: torch.device, parts: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Small tensors of the CPU on the batch's device, all in one copy that the CPU does not wait for.

    They travel as float32, which holds whole numbers up to 2 ** 24.
    """
    if device.type == "cpu":
        return list(parts)
    packed = torch.cat([part.reshape(-1).float() for part in parts])
    packed = (packed.pin_memory() if device.type == "cuda" else packed).to(device, non_blocking=True)
    pieces = packed.split([part.numel() for part in parts])
    return [piece.view(part.shape).to(part.dtype) for piece, part in zip(pieces, parts, strict=True)]


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
    sides, spans = images.shape[1:3], ((top, height), (left, width))
    lines = [part for side, span in zip(sides, spans, strict=True) for part in _lines(side, *span)]
    lines = _on(images.device, lines)
    rows = _stretched(images, *lines[:3])
    return _stretched(rows.transpose(1, 2), *lines[3:]).transpose(1, 2).round().to(torch.uint8)


def _lines(count: int, start: torch.Tensor, size: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """For each of `count` lines of an image, the two lines within [start, start + size) that it lies between, int64 [B, L].

    The third tensor, float32 [B, L], is how far it lies from the first one, in [0, 1].
    """
    # Line i covers [i, i + 1]: centres are mapped to centres, and lines outside the box are not used.
    place = torch.minimum(((torch.arange(count) + 0.5) * size / count - 0.5).clamp(min=0), size - 1) + start
    before = place.floor()
    after = torch.minimum(before + 1, start + size - 1)
    return before.long(), after.long(), (place - before).float()


def _stretched(images: torch.Tensor, before: torch.Tensor, after: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Interpolate between lines `before` and `after` [B, L] of each image [B, L, M, 3]: float32 [B, L, M, 3]."""
    batch = torch.arange(len(images), device=images.device)[:, None]
    return torch.lerp(images[batch, before].float(), images[batch, after].float(), weight[:, :, None, None])


def adjust(images: torch.Tensor, brightness: torch.Tensor, contrast: torch.Tensor, saturation: torch.Tensor) -> torch.Tensor:
    """Change brightness, then contrast, then saturation of each image by its own factors; 1 changes nothing.

    Args:
        images: uint8 [B, H, W, 3].
        brightness: float32 [B]: pixels are multiplied by it.
        contrast: float32 [B]: 0 gives the mean grey of the image, values above 1 increase the distance from it.
        saturation: float32 [B]: 0 gives the grey of each pixel, values above 1 increase the distance from it.

    Returns:
        uint8 [B, H, W, 3].
    """
    weights = _constant(GREY, images.device)
    factors = [factor.view(-1, 1, 1, 1) for factor in (brightness, contrast, saturation)]
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
    width, device = images.shape[2], images.device
    # Whole rows at a time: three values would be looked up for each pixel, which takes twice as long.
    scale = _constant(tuple(1 / (255 * s) for s in std), device, width)
    shift = _constant(tuple(-m / s for m, s in zip(mean, std, strict=True)), device, width)
    return torch.addcmul(shift, images.flatten(2).float(), scale).view(images.shape).permute(0, 3, 1, 2)


@lru_cache(maxsize=256)  # of multiscale and native sizes, a few for each width
def _constant(values: tuple[float, ...], device: torch.device, times: int = 1) -> torch.Tensor:
    """Numbers, so many times one after another, on a device: copied there once, and not in each step."""
    with torch.inference_mode(False):
        return torch.tensor(values, device=device).repeat(times)
