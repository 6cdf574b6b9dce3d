"""Which images make a batch, at which height and width, on which rank: index arithmetic, no image is touched.

`Fixed` brings every image to one size; `Multiscale` draws a size for each batch (as YOLO does) or takes the sizes in turn, one
for each whole epoch (SPP-net's protocol, arXiv 1406.4729, "Multi-size training"); `Native` lets every image keep its own shape
and batches images of one shape, without padding.

A plan is the list of an epoch's steps. It depends on nothing but its arguments, so every rank plans alone, all plans fit
together, and a resumed run goes on at step k with `steps[k:]`.

- Training: every rank has the same number of steps, each of one size on all ranks, with at least one image; no image comes
  twice in an epoch. What fills no batch is left out, other images in each epoch.
- Evaluation: every image exactly once over all ranks. Ranks may differ in the number of steps, and their images by one in all.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from necklace.streams import stream_seed, torch_generator


class Step(NamedTuple):
    """One rank's share of a step.

    Attributes:
        indices: int64 [B], this rank's images.
        size: Height and width that all of them are brought to, the same on all ranks.
        total: Images of the step over all ranks: the loss is the sum over ranks divided by this.
    """

    indices: Tensor
    size: tuple[int, int]
    total: int


@dataclass(frozen=True)
class Fixed:
    """Every image at one size.

    In training an epoch is one permutation cut into batches; the last incomplete batch, always less than half of the images, is
    left out. It falls to other images in each epoch by chance, as the permutation does.

    Attributes:
        size: Side in pixels, or [height, width].
    """

    size: int | Sequence[int]

    def __post_init__(self):
        _ = self._size  # a bad option shows when it is given, not at the first batch

    @cached_property
    def _size(self) -> tuple[int, int]:
        return _height_width("data.sizes.size", self.size)

    def train_steps(self, shapes: Tensor, batch_size: int, seed: int, epoch: int, rank: int, world_size: int) -> list[Step]:
        """One rank's steps of a training epoch.

        Args:
            shapes: int64 [N, 2], height and width of each image as it is stored.
            batch_size: Images in a batch, over all ranks.
            seed: The run's seed.
            epoch: The epoch, from 0.
            rank: This process, from 0.
            world_size: Number of processes.

        Raises:
            ValueError: `batch_size` is smaller than the world size, or no batch can be formed.
        """
        batches = _shuffled(len(shapes), batch_size, seed, epoch, rank, world_size)
        return [Step(batch[rank::world_size], self._size, batch_size) for batch in batches]

    def eval_steps(self, shapes: Tensor, batch_size: int, rank: int, world_size: int) -> list[Step]:
        """One rank's steps through all images of `shapes` (int64 [N, 2]), in their order; see `train_steps`."""
        return _in_order(len(shapes), self._size, batch_size, rank, world_size)

    def least_shapes(self, shapes: Tensor) -> Tensor:
        """The smallest size that each image of `shapes` is brought to: int64 [N, 2]."""
        return torch.tensor(self._size).expand(len(shapes), 2)


@dataclass(frozen=True)
class Multiscale:
    """Every image of a batch at one size, which changes from batch to batch or from epoch to epoch.

    The images of a step are those of `Fixed`, so the two differ in size alone. A draw depends on (seed, epoch, step) only.

    Attributes:
        sizes: Sides in pixels, as a list or as {min, max, step} with both ends. A side listed twice is drawn twice as often.
        eval_size: Side in pixels, or [height, width], for evaluation.
        per: `batch` draws a side for each batch; `epoch` takes the sides in the order given, one for each epoch.
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
                # A max that the steps jump over would never be drawn, and nobody would notice.
                raise ValueError(f"{problem} such that whole steps lead from min to max")
            return tuple(range(low, high + 1, step))
        if not isinstance(self.sizes, Sequence) or not self.sizes or not all(map(_is_positive, self.sizes)):
            raise ValueError(f"{problem} a list of sides in pixels from 1, or min, max and step")
        return tuple(self.sizes)

    @cached_property
    def _eval_size(self) -> tuple[int, int]:
        return _height_width("data.sizes.eval_size", self.eval_size)

    def train_steps(self, shapes: Tensor, batch_size: int, seed: int, epoch: int, rank: int, world_size: int) -> list[Step]:
        """One rank's steps of a training epoch; see `Fixed.train_steps`."""
        batches = _shuffled(len(shapes), batch_size, seed, epoch, rank, world_size)
        return [Step(batch[rank::world_size], self._drawn(seed, epoch, step), batch_size) for step, batch in enumerate(batches)]

    def _drawn(self, seed: int, epoch: int, step: int) -> tuple[int, int]:
        # The stream's seed is a hash, so its remainder is a uniform draw: no generator has to be made for each step.
        draw = epoch if self.per == "epoch" else stream_seed(seed, "size", epoch, step)
        side = self._sides[draw % len(self._sides)]
        return side, side

    def eval_steps(self, shapes: Tensor, batch_size: int, rank: int, world_size: int) -> list[Step]:
        """One rank's steps through all images at `eval_size`; see `Fixed.eval_steps`."""
        return _in_order(len(shapes), self._eval_size, batch_size, rank, world_size)

    def least_shapes(self, shapes: Tensor) -> Tensor:
        """The smallest size that each image of `shapes` is brought to: int64 [N, 2]."""
        drawn = [(side, side) for side in self._sides]
        return torch.tensor([*drawn, self._eval_size]).amin(0).expand(len(shapes), 2)


@dataclass(frozen=True)
class Native:
    """Every image at its own shape, in batches of one shape.

    In training each group of images of one shape is cut into batches; what remains of it makes a smaller batch if that gives
    every rank an image (two, where the map is 1x1: BatchNorm cannot train on one value per channel), else it is left out. Who
    is left out goes round the group from epoch to epoch: an image is seen in one of two successive epochs at least. What cannot
    be trained on at its shape counts as left out in every epoch: a group too small to give each rank its one or two images, and
    images with a 1x1 map where the batch size itself is less than two per rank.

    Attributes:
        max_side: No side is longer, in pixels.
        stride: Every side is a multiple of this. It stands for the backbone's stride: an image of `stride` x `stride` is taken
            to give a 1x1 map.
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
        """The size that each image is brought to.

        An image whose longer side exceeds the largest multiple of `stride` within `max_side` is scaled down to it; nothing is
        scaled up. Then each side goes to the nearest multiple of `stride` (halves go up), and to one stride at least. So a side
        is off its exactly scaled length by at most `stride / 2`, unless that length is below `stride / 2`: then it is `stride`.

        Args:
            shapes: int64 [N, 2], height and width of each image as it is stored.

        Returns:
            int64 [N, 2].
        """
        # In integers, so that the same image gets the same shape on every machine; capping at a multiple of the stride keeps
        # the rounding from leading beyond max_side.
        cap = self.max_side - self.max_side % self.stride
        longest = shapes.amax(1, keepdim=True)
        strides = (2 * shapes * longest.clamp(max=cap) + self.stride * longest) // (2 * self.stride * longest)
        return strides.clamp(min=1) * self.stride

    def train_steps(self, shapes: Tensor, batch_size: int, seed: int, epoch: int, rank: int, world_size: int) -> list[Step]:
        """One rank's steps of a training epoch; see `Fixed.train_steps`."""
        _check(batch_size, world_size, rank, world_size)
        sizes, group, counts = self._groups(shapes)
        left = self._leftovers(sizes, counts, batch_size, world_size)
        # A fixed order within each group, in which the window of those left out moves on by its own length in each epoch. It is
        # shorter than half the group, since a whole batch is always longer than it: so two successive windows share no image.
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
                f" has enough of them to make a batch over {world_size} ranks"
            )
        return [steps[step] for step in torch.randperm(len(steps), generator=generator).tolist()]

    def eval_steps(self, shapes: Tensor, batch_size: int, rank: int, world_size: int) -> list[Step]:
        """One rank's steps through all images, shape by shape, in their order within each; see `train_steps`."""
        _check(batch_size, 1, rank, world_size)
        sizes, group, counts = self._groups(shapes)
        return _dealt(_by_group(group, torch.arange(len(shapes))), _cut(sizes, counts, batch_size), rank, world_size)

    def least_shapes(self, shapes: Tensor) -> Tensor:
        """The smallest size that each image of `shapes` is brought to: int64 [N, 2]."""
        return self.native_shapes(shapes)

    def _groups(self, shapes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The shapes [G, 2] that occur, the group [N] of each image, and the number of images [G] in each group."""
        return self.native_shapes(shapes).unique(dim=0, return_inverse=True, return_counts=True)

    def _leftovers(self, sizes: Tensor, counts: Tensor, batch_size: int, world_size: int) -> Tensor:
        """Number of images of each group that an epoch leaves out: int64 [G]."""
        least = world_size * (1 + (sizes == self.stride).all(1).long())
        remainder = counts % batch_size
        # Where not even a whole batch is enough, nothing of the group can be trained on.
        return torch.where(least > batch_size, counts, remainder.where(remainder < least, 0))


Sizes = Fixed | Multiscale | Native


def _shuffled(count: int, batch_size: int, seed: int, epoch: int, rank: int, world_size: int) -> Sequence[Tensor]:
    """The whole batches of an epoch's permutation of `count` images, each int64 [batch_size]."""
    _check(batch_size, world_size, rank, world_size)
    if count < batch_size:
        raise ValueError(f"batch_size={batch_size}: larger than the number of training images, {count}")
    order = torch.randperm(count, generator=torch_generator(seed, "order", epoch))
    return order[: count - count % batch_size].split(batch_size)


def _in_order(count: int, size: tuple[int, int], batch_size: int, rank: int, world_size: int) -> list[Step]:
    """One rank's steps through `count` images at one size."""
    _check(batch_size, 1, rank, world_size)
    return _dealt(torch.arange(count), _cut(torch.tensor([size]), torch.tensor([count]), batch_size), rank, world_size)


def _cut(sizes: Tensor, counts: Tensor, batch_size: int) -> Iterable[tuple[int, int, tuple[int, int]]]:
    """Cut groups that lie one after another (of `counts` [G] images, of `sizes` [G, 2]) into batches: start, end and size."""
    first = 0
    for (height, width), count in zip(sizes.tolist(), counts.tolist(), strict=True):
        for start in range(first, first + count, batch_size):
            yield start, min(start + batch_size, first + count), (height, width)
        first += count


def _dealt(order: Tensor, batches: Iterable[tuple[int, int, tuple[int, int]]], rank: int, world_size: int) -> list[Step]:
    """One rank's steps: images go round the ranks all along `order` [N], so that no rank gets every small batch."""
    steps = []
    for start, end, size in batches:
        indices = order[start:end][(rank - start) % world_size :: world_size]
        if len(indices):
            steps.append(Step(indices, size, end - start))
    return steps


def _by_group(group: Tensor, images: Tensor) -> Tensor:
    """The images [M] group by group, within each in the order given; `group` is int64 [N]."""
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
        raise ValueError(f"rank={rank}: must lie in the world of {world_size} processes")
    if batch_size < least:
        raise ValueError(f"batch_size={batch_size}: must be at least {least}, one image for each process")
