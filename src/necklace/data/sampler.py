"""Which training images an epoch draws, where it is not each image once: `data.sampler=balanced`.

An epoch of N images draws N times, from each class that train has equally often (the counts of two classes differ by one at
most). Images of a rare class are therefore drawn several times, and of a common one only some. Each class is gone through in an
order of its own, again and again in a new order, and an epoch continues where the last one stopped: at any time two images of a
class have been drawn equally often, but for one draw.

What is drawn depends on (seed, epoch) only. The plan of batches (`sizes.py`) then works on the list of drawn images as it does
on all images, so ranks draw without communication what one process would draw, and a resumed run continues with the same draws.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from necklace.data.sizes import Native, Sizes, Step
from necklace.seeding import torch_generator

Sampler = Literal["shuffle", "balanced"]


def check_sampler(sampler: object, labels: Tensor) -> None:
    """Check the option against the training images' labels, int64 [N] or int8 [N, K].

    Raises:
        ValueError: The value is not known, or an image has several labels.
    """
    if sampler not in ("shuffle", "balanced"):
        raise ValueError(f"data.sampler={sampler}: must be shuffle or balanced")
    if sampler == "balanced" and labels.ndim > 1:
        raise ValueError(
            "data.sampler=balanced: images with several labels belong to no single class; "
            "must be shuffle here (task.class_weights=balanced weighs their rare labels)"
        )


def balanced_draw(labels: Tensor, count: int, seed: int, epoch: int) -> Tensor:
    """Draw images such that each class occurs equally often.

    Args:
        labels: int64 [N].
        count: Images to draw.
        seed: The run's seed.
        epoch: The epoch, from 0.

    Returns:
        int64 [count], positions in `labels`, class by class.
    """
    classes, counts = labels.unique(return_counts=True)
    groups = labels.argsort(stable=True).split(counts.tolist())
    drawn = []
    for place, (label, members) in enumerate(zip(classes.tolist(), groups, strict=True)):
        # Of e epochs, this class has so many draws; over the classes the sum is e * count (Hermite's identity).
        start, end = ((epochs * count + place) // len(classes) for epochs in (epoch, epoch + 1))
        drawn.append(_drawn_between(members, start, end, seed, label))
    return torch.cat(drawn)


def _drawn_between(members: Tensor, start: int, end: int, seed: int, label: int) -> Tensor:
    """Return the draws number `start` to `end` of a class's endless sequence of permutations of its images."""
    count = len(members)
    first, last = start // count, end // count

    def shuffled(round_: int) -> Tensor:
        return members[torch.randperm(count, generator=torch_generator(seed, "sampler", label, round_))]

    if first == last:
        return shuffled(first)[start - first * count : end - first * count]
    # Whole rounds need no order: the plan of batches shuffles all that was drawn.
    whole = members.repeat(last - first - 1)
    return torch.cat([shuffled(first)[start - first * count :], whole, shuffled(last)[: end - last * count]])


@dataclass(frozen=True)
class Balanced:
    """Plans training steps of balanced draws.

    With one size for all images of a batch, as many images are drawn as fill whole batches. With native sizes, which shapes are
    drawn changes from epoch to epoch, and so would the number of steps, on which schedule and validation rely: it is kept at
    that of the first epoch, by halving large batches or leaving some out. (Draws that make no batch at all, which takes a
    handful of images and several ranks, are replaced by those of the first epoch.)

    Attributes:
        sizes: The sizes of the drawn images.
        labels: int64 [N], of all images.
    """

    sizes: Sizes
    labels: Tensor

    def train_steps(self, shapes: Tensor, batch_size: int, seed: int, epoch: int, rank: int, world_size: int) -> list[Step]:
        """Plan the steps of one rank in a training epoch; see `Fixed.train_steps`."""
        count = len(shapes) if isinstance(self.sizes, Native) else len(shapes) - len(shapes) % batch_size

        def drawn_in(drawing_epoch: int) -> list[Step]:
            drawn = balanced_draw(self.labels, count, seed, drawing_epoch)
            steps = self.sizes.train_steps(shapes[drawn], batch_size, seed, epoch, rank, world_size)
            return [step._replace(indices=drawn[step.indices]) for step in steps]

        if not isinstance(self.sizes, Native) or epoch == 0:
            return drawn_in(epoch)
        first = drawn_in(0)
        try:
            steps = drawn_in(epoch)
        except ValueError:  # this epoch's draws of few images happen to have no shape that makes a batch for all ranks
            steps = first
        return _with_length(steps, len(first), self.sizes.stride, world_size)


def _with_length(steps: list[Step], count: int, stride: int, world_size: int) -> list[Step]:
    """Return `count` steps, the same ones on every rank: the first of them, or more by halving the largest."""

    def half(step: Step) -> int:
        # Each rank's share of the first half is then the first part of its share of the step.
        images = step.total // 2 // world_size * world_size
        least = world_size * (2 if step.size == (stride, stride) else 1)  # as in `Native`
        return images if images >= least else 0

    steps = steps[:count]
    while len(steps) < count:
        largest = max(range(len(steps)), key=lambda number: half(steps[number]))
        step, first = steps[largest], half(steps[largest])
        if not first:  # nothing can be halved any more: some come twice
            return (steps * count)[:count]
        own = first // world_size
        steps[largest : largest + 1] = [
            Step(step.indices[:own], step.size, first),
            Step(step.indices[own:], step.size, step.total - first),
        ]
    return steps
