"""From a source of images to batches on the device: split, size, order, augmentation, normalisation.

Images are held in memory as one uint8 tensor [N, H, W, 3], and a batch is one gather from it: no work per image in the hot
loop. Order and augmentation depend on (seed, epoch, step) alone, so they are the same for every neck and after a resume.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import pytorch_lightning as pl
import torch

from necklace.data.augment import Augmentation, normalise
from necklace.data.images import ImageSet, Source
from necklace.streams import torch_generator


class Batch(NamedTuple):
    """One step's images.

    Attributes:
        images: uint8 [B, H, W, 3] from the loader; float32 [B, 3, H, W] once on the device and normalised.
        labels: int64 [B].
        indices: int64 [B], the images' positions in their split.
        step: int64 [2], epoch and step: where in the augmentation's stream this batch stands.
    """

    images: torch.Tensor
    labels: torch.Tensor
    indices: torch.Tensor
    step: torch.Tensor


class Batches:
    """Batches of a split whose images all have one size.

    Args:
        images: uint8 [N, H, W, 3].
        labels: int64 [N].
        batch_size: Images in a batch.
        order: Gives the epoch and the order of its images, asked anew at each pass; None keeps the split's own order.

    In training (an `order` is given) the last incomplete batch is left out; the order changes from epoch to epoch, and with it
    the images that are left out. Otherwise every image comes exactly once.
    """

    def __init__(
        self,
        images: torch.Tensor,
        labels: torch.Tensor,
        batch_size: int,
        order: Callable[[], tuple[int, torch.Tensor]] | None = None,
    ) -> None:
        self.images, self.labels, self.batch_size, self.order = images, labels, batch_size, order

    def __len__(self) -> int:
        count = len(self.images)
        return count // self.batch_size if self.order else -(-count // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        epoch, order = self.order() if self.order else (0, torch.arange(len(self.images)))
        for step in range(len(self)):
            indices = order[step * self.batch_size : (step + 1) * self.batch_size]
            yield Batch(self.images[indices], self.labels[indices], indices, torch.tensor([epoch, step]))


class DataModule(pl.LightningDataModule):
    """Train, val and test batches of a source at one image size.

    Args:
        source: Where the images come from.
        size: Side in pixels that every image is resized to, or [height, width].
        batch_size: Images in a training step.
        seed: The run's seed, for order and augmentation.
        augment: What is done to training images.
        val_fraction: Share of each class that is split off train for validation, where the source has no val of its own.
        train_images: Use only this many training images (equal shares of each class), None for all.
        test_images: The same for test.
        mean: Channel means for normalisation, in [0, 1].
        std: Channel standard deviations.

    Raises:
        ValueError: An option is out of range, or a split is too small for it.
    """

    def __init__(
        self,
        source: Source,
        size: int | Sequence[int],
        batch_size: int,
        seed: int,
        augment: Augmentation,
        val_fraction: float = 0.1,
        train_images: int | None = None,
        test_images: int | None = None,
        mean: Sequence[float] = (0.5, 0.5, 0.5),
        std: Sequence[float] = (0.25, 0.25, 0.25),
    ) -> None:
        super().__init__()
        height, width = (size, size) if isinstance(size, int) else size
        if min(height, width) < 1:
            raise ValueError(f"data.size={size}: must be a number of pixels from 1, or [height, width]")
        if batch_size < 1:
            raise ValueError(f"batch_size={batch_size}: must be at least 1")
        if not 0 < val_fraction < 1:
            raise ValueError(f"data.val_fraction={val_fraction}: must lie between 0 and 1")
        self.source, self.seed, self.batch_size, self.augment = source, seed, batch_size, augment
        self.size = (int(height), int(width))
        self.mean, self.std = tuple(mean), tuple(std)
        self.classes = source.classes
        train, val = source.split("train"), source.split("val")
        if train is None:
            raise ValueError("data: the source has no train split")
        train = _limited(train, train_images, "data.train_images")
        if val is None:
            kept, held_out = split_indices(train.labels, val_fraction)
            train, val = train.select(kept), train.select(held_out)
        if len(train) < batch_size:
            raise ValueError(f"batch_size={batch_size}: larger than the training split of {len(train)} images")
        test = source.split("test")
        self.splits: dict[str, ImageSet] = {"train": train, "val": val}
        if test is not None:
            self.splits["test"] = _limited(test, test_images, "data.test_images")
        self._tensors: dict[str, torch.Tensor] = {}

    def digest(self) -> dict[str, str]:
        """The content of each split as a sha256: what a run's identity holds instead of paths."""
        return {name: images.digest() for name, images in self.splits.items()}

    def batches(self, name: str, shuffle: bool = False) -> Batches:
        """The batches of a split; with `shuffle` in a new order for each epoch of the trainer."""
        if name not in self._tensors:
            self._tensors[name] = self.splits[name].resized(*self.size)
        images, labels = self._tensors[name], self.splits[name].labels
        return Batches(images, labels, self.batch_size, self._order if shuffle else None)

    def _order(self) -> tuple[int, torch.Tensor]:
        epoch = self.trainer.current_epoch if self.trainer else 0
        generator = torch_generator(self.seed, "order", epoch)
        return epoch, torch.randperm(len(self.splits["train"]), generator=generator)

    def train_dataloader(self) -> Batches:  # noqa: D102
        return self.batches("train", shuffle=True)

    def val_dataloader(self) -> Batches:  # noqa: D102
        return self.batches("val")

    def test_dataloader(self) -> Batches:  # noqa: D102
        return self.batches("test")

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Augment (in training) and normalise on the device."""
        return self.prepare(batch, augment=bool(self.trainer and self.trainer.training))

    def prepare(self, batch: Batch, augment: bool) -> Batch:
        """Turn a batch of the loader into what the model takes."""
        images = batch.images
        if augment:
            epoch, step = batch.step.tolist()
            images = self.augment(images, torch_generator(self.seed, "augment", epoch, step))
        return batch._replace(images=normalise(images, self.mean, self.std))


def split_indices(labels: torch.Tensor, fraction: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Split off a share of each class, by a rule that knows no run seed: every cell of a study has the same split.

    Args:
        labels: int64 [N].
        fraction: Share of each class that is split off, rounded, but at least one image of a class that has two.

    Returns:
        Indices that stay and indices that are split off, both ascending.
    """
    held_out = []
    for label in labels.unique().tolist():
        members = (labels == label).nonzero().flatten()
        count = min(max(1, round(fraction * len(members))), len(members) - 1)
        held_out.append(members[torch.randperm(len(members), generator=torch_generator(0, "split", label))[:count]])
    mask = torch.zeros(len(labels), dtype=torch.bool)
    mask[torch.cat(held_out)] = True
    return (~mask).nonzero().flatten(), mask.nonzero().flatten()


def _limited(images: ImageSet, count: int | None, option: str) -> ImageSet:
    """Keep `count` images, each class in its own proportion."""
    if count is None:
        return images
    if not 0 < count <= len(images):
        raise ValueError(f"{option}={count}: must be between 1 and the split's {len(images)} images")
    if count == len(images):
        return images
    # Ranks within each class, scaled to [0, 1): the `count` smallest take the same share of every class.
    rank = torch.empty(len(images), dtype=torch.double)
    for label in images.labels.unique().tolist():
        members = (images.labels == label).nonzero().flatten()
        shuffled = members[torch.randperm(len(members), generator=torch_generator(0, "limit", label))]
        rank[shuffled] = torch.arange(len(members), dtype=torch.double) / len(members)
    return images.select(rank.argsort(stable=True)[:count].sort().values)
