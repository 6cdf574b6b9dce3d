"""From images to batches on the device: sizes, order, augmentation, normalisation.

Which images make a step, and at which size, `sizes.py` plans from (seed, epoch, rank) alone, so it is the same for every neck
and after a resume, and ranks that train together plan one by one and agree. The images of one size are held in memory as one
uint8 tensor, and a batch is one gather from it: no work per image in the hot loop. (Unless the split is mapped from a file.)
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import pytorch_lightning as pl
import torch

from necklace.data.augment import Augmentation, normalise
from necklace.data.images import ImageSet, SplitName
from necklace.data.sizes import Fixed, Native, Sizes, Step
from necklace.data.splits import Splits
from necklace.streams import torch_generator


class Batch(NamedTuple):
    """One step's images on this rank.

    Attributes:
        images: uint8 [B, H, W, 3] from the loader; float32 [B, 3, H, W] once on the device and normalised.
        labels: int64 [B], or int8 [B, K] (1 present, 0 absent, -1 not judged).
        indices: int64 [B], the images' positions in their split.
        total: int64 [], images of this step over all ranks.
        step: int64 [3], epoch, step and rank: where in the augmentation's stream this batch stands.
    """

    images: torch.Tensor
    labels: torch.Tensor
    indices: torch.Tensor
    total: torch.Tensor
    step: torch.Tensor


class SizedImages:
    """The images of a split at the sizes that steps ask for, each size made once.

    Where pixels are mapped from a file because memory does not hold them, it may not hold them at these sizes either: then
    the images of each batch are resized anew.

    Args:
        images: The split.
        own_size: int64 [N, 2], the one size that each image comes at, or None where each comes at any size.
    """

    def __init__(self, images: ImageSet, own_size: torch.Tensor | None) -> None:
        self.images, self.own_size = images, own_size
        self._made: dict[tuple[int, int], tuple[torch.Tensor, torch.Tensor]] = {}

    def gather(self, indices: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        """The images at `indices` [B], brought to `size`: uint8 [B, height, width, 3]."""
        if self.images.starts is not None:
            return self.images.select(indices).resized(*size)
        if size not in self._made:
            if self.own_size is None:
                self._made[size] = self.images.resized(*size), torch.arange(len(self.images))
            else:
                members = (self.own_size == torch.tensor(size)).all(1).nonzero().flatten()
                place = torch.full((len(self.images),), -1)
                place[members] = torch.arange(len(members))
                self._made[size] = self.images.select(members).resized(*size), place
        made, place = self._made[size]
        return made[place[indices]]


class Batches:
    """The batches of a plan.

    Args:
        plan: Gives the epoch and its steps, asked anew at each pass.
        images: The split's images.
        labels: [N] or [N, K].
        rank: This process among those that share the plan.
    """

    def __init__(
        self, plan: Callable[[], tuple[int, list[Step]]], images: SizedImages, labels: torch.Tensor, rank: int
    ) -> None:
        self.plan, self.images, self.labels, self.rank = plan, images, labels, rank

    def __len__(self) -> int:
        return len(self.plan()[1])

    def __iter__(self) -> Iterator[Batch]:
        epoch, steps = self.plan()
        for number, step in enumerate(steps):
            yield Batch(
                self.images.gather(step.indices, step.size),
                self.labels[step.indices],
                step.indices,
                torch.tensor(step.total),
                torch.tensor([epoch, number, self.rank]),
            )


class DataModule(pl.LightningDataModule):
    """Train, val and test batches of a source.

    Args:
        splits: The images.
        sizes: At which sizes: fixed, multiscale or native.
        batch_size: Images in a training step, over all ranks.
        seed: The run's seed, for order, sizes and augmentation.
        augment: What is done to training images.
        eval_sizes: Sides in pixels at which the test split is judged besides.
        mean: Channel means for normalisation, in [0, 1].
        std: Channel standard deviations.

    Attributes:
        splits: Split to its images.
        classes: Names of the classes.
        skipped: (path, reason) of every image left out.
        min_gap: The least number of pixels between what the label joins, or None.
        digest: The content of each split as a sha256.
        size: Height and width that stand for all: the fixed size, that of evaluation, or the most frequent native one.

    Raises:
        ValueError: An option is out of range, or a split is too small for it.
    """

    def __init__(
        self,
        splits: Splits,
        sizes: Sizes,
        batch_size: int,
        seed: int,
        augment: Augmentation,
        eval_sizes: Sequence[int] = (),
        mean: Sequence[float] = (0.5, 0.5, 0.5),
        std: Sequence[float] = (0.25, 0.25, 0.25),
    ) -> None:
        super().__init__()
        if batch_size < 1:
            raise ValueError(f"batch_size={batch_size}: must be at least 1")
        train = splits.images["train"]
        if len(train) < batch_size:
            raise ValueError(f"batch_size={batch_size}: larger than the training split of {len(train)} images")
        self.sizes, self.seed, self.batch_size, self.augment = sizes, seed, batch_size, augment
        self.mean, self.std = tuple(mean), tuple(std)
        self.splits, self.classes, self.skipped, self.min_gap = splits.images, splits.classes, splits.skipped, splits.min_gap
        self.size = _typical_size(sizes, train)
        self.digest = splits.digest
        self._sized = {
            name: SizedImages(images, sizes.native_shapes(images.shapes) if isinstance(sizes, Native) else None)
            for name, images in self.splits.items()
        }
        self.eval_sizes = tuple(eval_sizes)
        self.test_size: int | None = None
        self._planned: tuple[int, list[Step]] | None = None

    def train_dataloader(self) -> Batches:
        """The training batches of the trainer's epoch; each pass asks for the epoch anew."""
        return Batches(self._train_plan, self._sized["train"], self.splits["train"].labels, self._ranks()[0])

    def val_dataloader(self) -> Batches:
        """All val images, once over all ranks."""
        return self.eval_batches("val")

    def test_dataloader(self) -> Batches:
        """All test images, once over all ranks; at `test_size`, where that is set, instead of the sizes of the run."""
        return self.eval_batches("test", self.test_size)

    def eval_batches(self, name: SplitName, size: int | None = None) -> Batches:
        """All images of a split, once over all ranks.

        Args:
            name: The split.
            size: Bring every image to this side instead of the sizes of the run.
        """
        images = self.splits[name]
        rank, world_size = self._ranks()
        sizes = self.sizes if size is None else Fixed(size)
        steps = sizes.eval_steps(images.shapes, self.batch_size, rank, world_size)
        if not steps:
            raise ValueError(f"the {name} split of {len(images)} images leaves rank {rank} of {world_size} without any")
        sized = self._sized[name] if size is None else SizedImages(images, None)
        return Batches(lambda: (0, steps), sized, images.labels, rank)

    def _ranks(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def _train_plan(self) -> tuple[int, list[Step]]:
        # The trainer's own epoch: Lightning calls set_epoch on samplers only, and never on what makes whole batches.
        epoch = self.trainer.current_epoch if self.trainer else 0
        if self._planned is None or self._planned[0] != epoch:
            rank, world_size = self._ranks()
            shapes = self.splits["train"].shapes
            self._planned = epoch, self.sizes.train_steps(shapes, self.batch_size, self.seed, epoch, rank, world_size)
        return self._planned

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Augment (in training) and normalise on the device."""
        return self.prepare(batch, augment=bool(self.trainer and self.trainer.training))

    def prepare(self, batch: Batch, augment: bool) -> Batch:
        """Turn a batch of the loader into what the model takes."""
        images = batch.images
        if augment:
            images = self.augment(images, torch_generator(self.seed, "augment", *batch.step.tolist()))
        return batch._replace(images=normalise(images, self.mean, self.std))


def _typical_size(sizes: Sizes, images: ImageSet) -> tuple[int, int]:
    if isinstance(sizes, Native):
        shapes, counts = sizes.native_shapes(images.shapes).unique(dim=0, return_counts=True)
        height, width = shapes[counts.argmax()].tolist()
        return height, width
    return sizes.eval_steps(images.shapes[:1], 1, 0, 1)[0].size
