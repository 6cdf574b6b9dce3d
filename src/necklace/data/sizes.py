"""Plans of batches: the images of each batch, their height and width, and their rank. Index arithmetic only, no pixels.

`Fixed` resizes every image to one size. `Multiscale` draws a size for each batch (as YOLO does) or uses the sizes in turn, one
for each epoch (SPP-net's protocol, arXiv 1406.4729, "Multi-size training"). `Native` keeps the shape of every image and makes
batches of images of one shape, without padding.

A plan is the list of an epoch's steps. It depends only on its arguments, so ranks plan without communication, their plans are
consistent, and a resumed run continues at step k with `steps[k:]`.

- Training: every rank has the same number of steps. A step has one size on all ranks and at least one image on each. No image
  occurs twice in an epoch. Images that do not fill a batch are left out, different ones in each epoch.
- Evaluation: every image occurs exactly once over all ranks. Ranks may have different numbers of steps; their numbers of images
  differ by at most one.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from necklace.seeding import stream_seed, torch_generator


class Step(NamedTuple):
    """One rank's share of a step.

    Attributes:
        indices: int64 [B], this rank's images.
        size: Height and width of all images of the step in pixels, the same on all ranks.
        total: Images of the step over all ranks: the loss is the sum over ranks divided by this.
    """

    indices: Tensor
    size: tuple[int, int]
    total: int


@dataclass(frozen=True)
class Fixed:
    """Every image at one size.

    In training, an epoch is one permutation cut into batches. The last, incomplete batch, always less than half of the images,
    is left out; it has random images in each epoch.

    Attributes:
        size: Side in pixels, or [height, width].
    """

    size: int | Sequence[int]

    def __post_init__(self):
        _ = self._size  # a wrong option is reported now, not at the first batch

    @cached_property
    def _size(self) -> tuple[int, int]:
        return _height_width("data.sizes.size", self.size)

    def train_steps(self, shapes: Tensor, batch_size: int, seed: int, epoch: int, rank: int, world_size: int) -> list[Step]:
        """Plan the steps of one rank in a training epoch.

        Args:
            shapes: int64 [N, 2], height and width of each image as stored.
            batch_size: Images in a batch, over all ranks.
            seed: The run's seed.
            epoch: The epoch, from 0.
            rank: This process, from 0.
            world_size: Number of processes.

        Raises:
            ValueError: `batch_size` is smaller than `world_size`, or no batch can be formed.
        """
        batches = _shuffled(len(shapes), batch_size, seed, epoch, rank, world_size)
        return [Step(batch[rank::world_size], self._size, batch_size) for batch in batches]

    def eval_steps(self, shapes: Tensor, batch_size: int, rank: int, world_size: int) -> list[Step]:
        """Plan the steps of one rank through all images of `shapes` (int64 [N, 2]), in their order; see `train_steps`."""
        return _in_order(len(shapes), self._size, batch_size, rank, world_size)

    def least_shapes(self, shapes: Tensor) -> Tensor:
        """Return the smallest size that each image of `shapes` is resized to: int64 [N, 2]."""
        return torch.tensor(self._size).expand(len(shapes), 2)


@dataclass(frozen=True)
class Multiscale:
    """All images of a batch at one size, which changes from batch to batch or from epoch to epoch.

    The images of a step are those of `Fixed`, so the two differ in size only. The size depends on (seed, epoch, step) only.

    Attributes:
        sizes: Sides in pixels, as a list or as {min, max, step} with both ends included. A side listed twice is drawn twice as
            often.
        eval_size: Side in pixels, or [height, width], for evaluation.
        per: `batch` draws a side for each batch; `epoch` uses the sides in the given order, one for each epoch.
    """

    sizes: Sequence[int] | Mapping[str, int]
    eval_size: int | Sequence[int]
    per: Literal["batch", "epoch"] = "batch"

    def __post_init__(self):
        _ = self._sides, self._eval_size
        if self.per not in ("batch", "epoch"):
            raise ValueError(f"data.sizes.per={self.per}: must be batch or epoch")

    @cached_property
    def _sides(self) -> tuple[int, ...]:
        problem = f"data.sizes.sizes={self.sizes}: must be"
        if isinstance(self.sizes, Mapping):
            if set(self.sizes) != {"min", "max", "step"} or not all(map(_is_positive, self.sizes.values())):
                raise ValueError(f"{problem} a list of sides or min, max and step, all in pixels from 1")
            low, high, step = (self.sizes[name] for name in ("min", "max", "step"))
            if low > high or (high - low) % step:
                # A max that is not on a step would silently never be drawn.
                raise ValueError(f"{problem} such that whole steps lead from min to max")
            return tuple(range(low, high + 1, step))
        if not isinstance(self.sizes, Sequence) or not self.sizes or not all(map(_is_positive, self.sizes)):
            raise ValueError(f"{problem} a list of sides in pixels from 1, or min, max and step")
        return tuple(self.sizes)

    @cached_property
    def _eval_size(self) -> tuple[int, int]:
        return _height_width("data.sizes.eval_size", self.eval_size)

    def train_steps(self, shapes: Tensor, batch_size: int, seed: int, epoch: int, rank: int, world_size: int) -> list[Step]:
        """Plan the steps of one rank in a training epoch; see `Fixed.train_steps`."""
        batches = _shuffled(len(shapes), batch_size, seed, epoch, rank, world_size)
        return [Step(batch[rank::world_size], self._drawn(seed, epoch, step), batch_size) for step, batch in enumerate(batches)]

    def _drawn(self, seed: int, epoch: int, step: int) -> tuple[int, int]:
        # The stream's seed is a hash, so its remainder is a uniform draw, without a generator for each step.
        draw = epoch if self.per == "epoch" else stream_seed(seed, "size", epoch, step)
        side = self._sides[draw % len(self._sides)]
        return side, side

    def eval_steps(self, shapes: Tensor, batch_size: int, rank: int, world_size: int) -> list[Step]:
        """Plan the steps of one rank through all images at `eval_size`; see `Fixed.eval_steps`."""
        return _in_order(len(shapes), self._eval_size, batch_size, rank, world_size)

    def least_shapes(self, shapes: Tensor) -> Tensor:
        """Return the smallest size that each image of `shapes` is resized to: int64 [N, 2]."""
        drawn = [(side, side) for side in self._sides]
        return torch.tensor([*drawn, self._eval_size]).amin(0).expand(len(shapes), 2)


@dataclass(frozen=True)
class Native:
    """Every image at its own shape, in batches of one shape.

    In training, each group of images of one shape is cut into batches. The remaining images make a smaller batch if it has one
    image for every rank (two for a 1x1 map, as BatchNorm cannot train on one value per channel); otherwise they are left out.
    Left-out images rotate, so each is seen at least every other epoch. Images that can never make a batch are left out of every
    epoch: groups too small for one or two images per rank, and images with a 1x1 map if the batch size is below two per rank.

    Attributes:
        max_side: Longest side allowed, in pixels.
        stride: Every side is a multiple of this number of pixels. It must be a multiple of the backbone's stride: an image of
            `stride` x `stride` is assumed to give a 1x1 map.
    """

    max_side: int
    stride: int

    def __post_init__(self):
        if not _is_positive(self.stride):
            raise ValueError(f"data.sizes.stride={self.stride}: must be a number of pixels from 1")
        if not _is_positive(self.max_side) or self.max_side < self.stride:
            raise ValueError(
                f"data.sizes.max_side={self.max_side}: must be a number of pixels from data.sizes.stride={self.stride}"
            )

    def native_shapes(self, shapes: Tensor) -> Tensor:
        """Compute the size that each image is resized to.

        An image whose longer side exceeds the largest multiple of `stride` within `max_side` is scaled down to it; no image is
        scaled up. Then each side is rounded to the nearest multiple of `stride` (halves go up), but to at least one stride. So
        a side differs from its exactly scaled length by at most `stride / 2`, except for lengths below `stride / 2`, which
        become `stride`.

        Args:
            shapes: int64 [N, 2], height and width of each image as stored.

        Returns:
            int64 [N, 2].
        """
        # Integer arithmetic gives the same shape on every machine; a cap at a multiple of the stride prevents rounding beyond
        # max_side.
        cap = self.max_side - self.max_side % self.stride
        longest = shapes.amax(1, keepdim=True)
        strides = (2 * shapes * longest.clamp(max=cap) + self.stride * longest) // (2 * self.stride * longest)
        return strides.clamp(min=1) * self.stride

    def train_steps(self, shapes: Tensor, batch_size: int, seed: int, epoch: int, rank: int, world_size: int) -> list[Step]:
        """Plan the steps of one rank in a training epoch; see `Fixed.train_steps`."""
        _check(batch_size, world_size, rank, world_size)
        sizes, group, counts = self._groups(shapes)
        left = self._leftovers(sizes, counts, batch_size, world_size)
        # Each group has a fixed order, in which the window of left-out images advances by its own length in each epoch. It is
        # shorter than a whole batch, thus than half of the group, so two successive windows share no image.
        fixed = _by_group(group, torch.randperm(len(shapes), generator=torch_generator(seed, "rotation")))
        length, missing = counts[group[fixed]], left[group[fixed]]
        place = torch.arange(len(shapes)) - (counts.cumsum(0) - counts)[group[fixed]]
        kept = torch.zeros(len(shapes), dtype=torch.bool)
        kept[fixed] = (place - epoch * missing) % length >= missing
        generator = torch_generator(seed, "order", epoch)
        order = torch.randperm(len(shapes), generator=generator)
        order = _by_group(group, order[kept[order]])
        steps = [
            Step(order[start:end][rank::world_size], size, end - start)
            for start, end, size in _cut(sizes, counts - left, batch_size)
        ]
        if not steps:
            raise ValueError(
                f"batch_size={batch_size}, data.sizes.stride={self.stride}: no shape among the {len(shapes)} training images"
                f" has enough images for a batch over {world_size} ranks"
            )
        return [steps[step] for step in torch.randperm(len(steps), generator=generator).tolist()]

    def eval_steps(self, shapes: Tensor, batch_size: int, rank: int, world_size: int) -> list[Step]:
        """Plan the steps of one rank through all images, shape by shape, in their order within each; see `train_steps`."""
        _check(batch_size, 1, rank, world_size)
        sizes, group, counts = self._groups(shapes)
        return _dealt(_by_group(group, torch.arange(len(shapes))), _cut(sizes, counts, batch_size), rank, world_size)

    def least_shapes(self, shapes: Tensor) -> Tensor:
        """Return the smallest size that each image of `shapes` is resized to: int64 [N, 2]."""
        return self.native_shapes(shapes)

    def _groups(self, shapes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the distinct shapes [G, 2], the group [N] of each image, and the number of images [G] in each group."""
        return self.native_shapes(shapes).unique(dim=0, return_inverse=True, return_counts=True)

    def _leftovers(self, sizes: Tensor, counts: Tensor, batch_size: int, world_size: int) -> Tensor:
        """Return the number of images that an epoch leaves out of each group: int64 [G]."""
        least = world_size * (1 + (sizes == self.stride).all(1).long())
        remainder = counts % batch_size
        # If even a whole batch is too small, no image of the group can be trained on.
        return torch.where(least > batch_size, counts, remainder.where(remainder < least, 0))


Sizes = Fixed | Multiscale | Native


def _shuffled(count: int, batch_size: int, seed: int, epoch: int, rank: int, world_size: int) -> Sequence[Tensor]:
    """Return the whole batches of an epoch's permutation of `count` images, each int64 [batch_size]."""
    _check(batch_size, world_size, rank, world_size)
    if count < batch_size:
        raise ValueError(f"batch_size={batch_size}: larger than the number of training images, {count}")
    order = torch.randperm(count, generator=torch_generator(seed, "order", epoch))
    return order[: count - count % batch_size].split(batch_size)


def _in_order(count: int, size: tuple[int, int], batch_size: int, rank: int, world_size: int) -> list[Step]:
    """Plan the steps of one rank through `count` images at one size."""
    _check(batch_size, 1, rank, world_size)
    return _dealt(torch.arange(count), _cut(torch.tensor([size]), torch.tensor([count]), batch_size), rank, world_size)


def _cut(sizes: Tensor, counts: Tensor, batch_size: int) -> Iterable[tuple[int, int, tuple[int, int]]]:
    """Cut consecutive groups (of `counts` [G] images, of `sizes` [G, 2]) into batches: start, end and size."""
    first = 0
    for (height, width), count in zip(sizes.tolist(), counts.tolist(), strict=True):
        for start in range(first, first + count, batch_size):
            yield start, min(start + batch_size, first + count), (height, width)
        first += count


def _dealt(order: Tensor, batches: Iterable[tuple[int, int, tuple[int, int]]], rank: int, world_size: int) -> list[Step]:
    """Plan the steps of one rank: images alternate between ranks along all of `order` [N], to spread small batches evenly."""
    steps = []
    for start, end, size in batches:
        indices = order[start:end][(rank - start) % world_size :: world_size]
        if len(indices):
            steps.append(Step(indices, size, end - start))
    return steps


def _by_group(group: Tensor, images: Tensor) -> Tensor:
    """Sort the images [M] by group, keeping the given order within each; `group` is int64 [N]."""
    return images[group[images].argsort(stable=True)]


def _height_width(option: str, size: int | Sequence[int]) -> tuple[int, int]:
    sides = size if isinstance(size, Sequence) else (size, size)
    if len(sides) != 2 or not all(map(_is_positive, sides)):
        raise ValueError(f"{option}={size}: must be a number of pixels from 1, or [height, width]")
    return sides[0], sides[1]


def _is_positive(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _check(batch_size: int, least: int, rank: int, world_size: int) -> None:
    if not 0 <= rank < world_size:
        raise ValueError(f"rank={rank}: must lie in [0, {world_size}), the ranks of the processes")
    if batch_size < least:
        raise ValueError(f"batch_size={batch_size}: must be at least {least}, one image for each process")
