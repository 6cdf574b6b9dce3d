"""From images to batches on the device: sizes, order, augmentation, normalisation.

`sizes.py` plans the images and the size of each step from (seed, epoch, rank) only. So the plan is the same for every neck and
after a resume, and ranks that train together need no communication for it. The images of one size are kept in memory as one
uint8 tensor, and a batch is one gather from it, without work per image (unless the split is too large for memory). On a GPU
that tensor lies on the device, where it fits.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import pytorch_lightning as pl
import torch

from necklace.data.augment import Augmentation, Share, normalise
from necklace.data.boxes import Targets
from necklace.data.fitting import checked_size
from necklace.data.images import ImageSet, SplitName
from necklace.data.sampler import Balanced, Sampler
from necklace.data.sizes import Fixed, Native, Sizes, Step
from necklace.data.splits import Splits
from necklace.seeding import torch_generator

CPU = torch.device("cpu")
# A split lies on the GPU if it takes at most this share of the memory that is free there when its first batch is made.
DEVICE_SHARE = 0.25


class Batch(NamedTuple):
    """One step's images on this rank.

    Attributes:
        images: uint8 [B, H, W, 3] from the loader; float32 [B, 3, H, W] once on the device and normalised.
        labels: int64 [B], or int8 [B, K] (1 present, 0 absent, -1 ignored), or `Targets` where the images have boxes.
        indices: int64 [B], the images' positions in their split.
        total: Images of this step over all ranks; a number of the host, so that nothing waits for the device to read it.
        step: Epoch, step and rank: the position of this batch in the augmentation's random stream.
    """

    images: torch.Tensor
    labels: Any
    indices: torch.Tensor
    total: int
    step: tuple[int, int, int]


class SizedImages:
    """The images of a split at the sizes of the steps; each size is computed once and kept.

    Pixels that are mapped from a file do not fit into memory, and may not fit at these sizes either: then the images of each
    batch are resized when it is read.

    Args:
        images: The split.
        own_size: int64 [N, 2], the only size that each image is used at, or None if each image is used at every size.
    """

    def __init__(self, images: ImageSet, own_size: torch.Tensor | None) -> None:
        self.images, self.own_size = images, own_size
        self._made: dict[tuple[int, int], tuple[torch.Tensor, torch.Tensor]] = {}
        self._moved: dict[tuple[torch.device, tuple[int, int]], torch.Tensor] = {}

    def gather(self, indices: torch.Tensor, size: tuple[int, int], device: torch.device = CPU) -> torch.Tensor:
        """Return the images at `indices` [B], resized to `size`: uint8 [B, height, width, 3].

        Args:
            indices: On the CPU.
            size: Height and width in pixels.
            device: Where the batch is wanted. The result lies there if the split fits, see `DEVICE_SHARE`, else on the CPU.
        """
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
        held, wanted = self._on(device, size, made), place[indices]
        if held.device.type == "cuda":
            wanted = wanted.pin_memory().to(device, non_blocking=True)
        return held.flatten(1).index_select(0, wanted).view(-1, *size, 3)  # an image is a row: copied in one piece

    def _on(self, device: torch.device, size: tuple[int, int], made: torch.Tensor) -> torch.Tensor:
        """The images on a GPU, copied there once if there is room; else where they are."""
        if device.type != "cuda":
            return made
        if (device, size) not in self._moved:
            room = DEVICE_SHARE * torch.cuda.mem_get_info(device)[0]
            self._moved[device, size] = made.to(device) if made.numel() <= room else made
        return self._moved[device, size]


class Batches:
    """The batches of a plan.

    Args:
        plan: Returns the epoch and its steps; called at each pass.
        images: The split's images.
        rank: This process among those that share the plan.
        device: Where the images are wanted.
    """

    def __init__(
        self,
        plan: Callable[[], tuple[int, list[Step]]],
        images: SizedImages,
        rank: int,
        device: torch.device = CPU,
    ) -> None:
        self.plan, self.images, self.rank, self.device = plan, images, rank, device

    def __len__(self) -> int:
        return len(self.plan()[1])

    def __iter__(self) -> Iterator[Batch]:
        epoch, steps = self.plan()
        for number, step in enumerate(steps):
            yield Batch(
                self.images.gather(step.indices, step.size, self.device),
                self._labels(step),
                step.indices,
                step.total,
                (epoch, number, self.rank),
            )

    def _labels(self, step: Step) -> torch.Tensor | Targets:
        images = self.images.images
        if images.boxes is None:
            return images.labels[step.indices]
        return images.boxes.targets(step.indices, images.shapes, step.size)


class DataModule(pl.LightningDataModule):
    """Train, val and test batches of a source.

    Args:
        splits: The images.
        sizes: The plan of sizes: fixed, multiscale or native.
        batch_size: Images in a training step, over all ranks.
        seed: For order and sizes.
        augment: The augmentation of training images.
        eval_sizes: Further sides in pixels at which the test split is evaluated.
        mean: Channel means for normalisation, in [0, 1].
        std: Channel standard deviations, in the same units.
        sampler: `shuffle`: an epoch has each training image once; `balanced`: each class equally often, see `sampler.py`.
        augment_seed: For the augmentation; None for `seed`.

    Attributes:
        splits: Split to its images.
        classes: Names of the classes.
        skipped: (path, reason) of every image left out.
        notes: What a reader of the results should know about the data, as sentences without full stop.
        min_gap: Minimum number of pixels between the two things that a label depends on, or None.
        read_within: Side in pixels of the top left corner in which alone a head may read, or None.
        digest: SHA-256 of each split's content.
        size: A typical height and width: the fixed size, the evaluation size, or the most frequent native one.
        test_size: Side in pixels for the next test pass, or None for the sizes of the run.

    Raises:
        ValueError: An option is out of range, or a split is too small for it.
    """

    def __init__(  # noqa: PLR0913, the options of its config
        self,
        splits: Splits,
        sizes: Sizes,
        batch_size: int,
        seed: int,
        augment: Augmentation,
        eval_sizes: Sequence[int] = (),
        mean: Sequence[float] = (0.5, 0.5, 0.5),
        std: Sequence[float] = (0.25, 0.25, 0.25),
        sampler: Sampler = "shuffle",
        augment_seed: int | None = None,
    ) -> None:
        super().__init__()
        self.augment_seed = seed if augment_seed is None else augment_seed
        self.size = checked_size(splits.images["train"], sizes, batch_size, sampler, augment)
        self.sizes, self.seed, self.batch_size, self.augment, self.sampler = sizes, seed, batch_size, augment, sampler
        self.mean, self.std = tuple(mean), tuple(std)
        self.splits, self.classes, self.skipped, self.min_gap = splits.images, splits.classes, splits.skipped, splits.min_gap
        self.read_within = splits.read_within
        self.notes = splits.notes
        self.digest = splits.digest
        self._sized = {
            name: SizedImages(images, sizes.native_shapes(images.shapes) if isinstance(sizes, Native) else None)
            for name, images in self.splits.items()
        }
        self.eval_sizes = tuple(eval_sizes)
        self.test_size: int | None = None
        self._planned: tuple[int, list[Step]] | None = None
        self._turned: torch.Tensor | None = None  # bool [N], the training images that the first epoch flips

    def train_dataloader(self) -> Batches:
        """Return the training batches; each pass uses the trainer's current epoch."""
        return Batches(self._train_plan, self._sized["train"], self._ranks()[0], self._device())

    def val_dataloader(self) -> Batches:
        """Return all val images, each once over all ranks."""
        return self.eval_batches("val")

    def test_dataloader(self) -> Batches:
        """Return all test images, each once over all ranks; at `test_size`, if it is set, instead of the sizes of the run."""
        return self.eval_batches("test", self.test_size)

    def eval_batches(self, name: SplitName, size: int | None = None) -> Batches:
        """Return all images of a split, each once over all ranks.

        Args:
            name: The split.
            size: Side in pixels for every image, instead of the sizes of the run.

        Raises:
            ValueError: This rank gets no image.
        """
        images = self.splits[name]
        rank, world_size = self._ranks()
        sizes = self.sizes if size is None else Fixed(size)
        steps = sizes.eval_steps(images.shapes, self.batch_size, rank, world_size)
        if not steps:
            raise ValueError(f"the {name} split of {len(images)} images has no image for rank {rank} of {world_size}")
        sized = self._sized[name] if size is None else SizedImages(images, None)
        return Batches(lambda: (0, steps), sized, rank, self._device())

    def sample(self, count: int) -> Iterator[torch.Tensor]:
        """Yield at most `count` training images, spread evenly over the split: float32 [B, 3, H, W], not augmented."""
        train = self.splits["train"]
        images = train.select(torch.linspace(0, len(train) - 1, min(count, len(train))).round().long())
        sized = SizedImages(images, None)
        for step in self.sizes.eval_steps(images.shapes, self.batch_size, 0, 1):
            yield normalise(sized.gather(step.indices, step.size), self.mean, self.std)

    def class_counts(self) -> dict[SplitName, list[int]]:
        """The number of images of each class in each split; with several labels an image, of those that show it."""
        return {name: _class_counts(images.labels, len(self.classes)) for name, images in self.splits.items()}

    def _ranks(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def _device(self) -> torch.device:
        return self.trainer.strategy.root_device if self.trainer else CPU

    def _train_plan(self) -> tuple[int, list[Step]]:
        # The trainer's own epoch, as Lightning calls set_epoch only on samplers, not on a loader of whole batches.
        epoch = self.trainer.current_epoch if self.trainer else 0
        if self._planned is None or self._planned[0] != epoch:
            rank, world_size = self._ranks()
            train = self.splits["train"]
            plan = Balanced(self.sizes, train.labels) if self.sampler == "balanced" else self.sizes
            self._planned = epoch, plan.train_steps(train.shapes, self.batch_size, self.seed, epoch, rank, world_size)
        return self._planned

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        """Move a batch of the loader; on a CPU it is there, and Lightning need not look at each of its parts."""
        return batch if device.type == "cpu" else super().transfer_batch_to_device(batch, device, dataloader_idx)

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Augment (in training only) and normalise, on the device."""
        return self.prepare(batch, augment=bool(self.trainer and self.trainer.training))

    def prepare(self, batch: Batch, augment: bool) -> Batch:
        """Augment, if asked to, and normalise a batch of the loader for the model."""
        images, labels = batch.images, batch.labels
        if augment:
            epoch, number, rank = batch.step
            # One stream for all ranks: each draws for the whole step and takes its share.
            generator = torch_generator(self.augment_seed, "augment", epoch, number, 0)
            share = Share(rank, self._ranks()[1], batch.total)
            flips = self._flips(batch.indices, epoch) if self.augment.flip == "alternate" else None
            if isinstance(labels, Targets):
                images, labels = self.augment.with_boxes(images, labels, generator, share, flips)
            else:
                images = self.augment(images, generator, share, flips)
        return batch._replace(images=normalise(images, self.mean, self.std), labels=labels)

    def _flips(self, indices: torch.Tensor, epoch: int) -> torch.Tensor:
        """Which of the training images at `indices` [B] an epoch flips, with `flip=alternate`: bool [B]."""
        if self._turned is None:
            self._turned = torch.rand(len(self.splits["train"]), generator=torch_generator(self.augment_seed, "flip")) < 0.5
        self._turned = self._turned.to(indices.device)  # once: a copy in each step would wait for the device
        return self._turned[indices] ^ bool(epoch % 2)


def _class_counts(labels: torch.Tensor, classes: int) -> list[int]:
    """Images of each class, from labels int64 [N] or int8 [N, K]."""
    return (labels.bincount(minlength=classes) if labels.ndim == 1 else (labels == 1).sum(0)).tolist()
