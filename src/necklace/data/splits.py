"""The splits of a source as runs use them: val split off train, each limited to as many images as are wanted.

Reading or drawing the images takes seconds, so they are read once for all runs of a process, and a process that starts others
can hand them over: a study's cells, each in a process of its own, map the images that the plan has read, all of them the same.
"""

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pickle import UnpicklingError
from typing import Any

import torch
from hydra.utils import instantiate

from necklace.data.images import ImageSet, Source, SplitName
from necklace.streams import torch_generator

OPTIONS = ("source", "val_fraction", "train_images", "test_images")
# Environment variable: files with images that another process has read.
HANDED = "NECKLACE_IMAGES"


@dataclass(frozen=True, eq=False)
class Splits:
    """All images that a run may see, and what their source says of them.

    Attributes:
        images: Split to its images; `train` and `val` are there, `test` may be.
        classes: Names of the classes.
        skipped: (path, reason) of every image left out.
        min_gap: As in `Source`; None where the source has none.
    """

    images: dict[SplitName, ImageSet]
    classes: tuple[str, ...]
    skipped: tuple[tuple[str, str], ...]
    min_gap: int | None

    @cached_property
    def digest(self) -> dict[str, str]:
        """The content of each split as a sha256: what a run's identity holds instead of paths."""
        return {name: images.digest() for name, images in self.images.items()}


def read_splits(
    source: Source, val_fraction: float = 0.1, train_images: int | None = None, test_images: int | None = None
) -> Splits:
    """Read the images of a source.

    Args:
        source: Where they come from.
        val_fraction: Share of each class that is split off train for validation, where the source has no val of its own.
        train_images: Use only this many training images (equal shares of each class; val is taken from them), None for all.
        test_images: The same for test.

    Raises:
        ValueError: An option is out of range.
    """
    if not 0 < val_fraction < 1:
        raise ValueError(f"data.val_fraction={val_fraction}: must lie between 0 and 1")
    train, val = source.split("train"), source.split("val")
    if train is None:
        raise ValueError("data: the source has no train split")
    train = _limited(train, train_images, "data.train_images")
    if val is None:
        kept, held_out = split_indices(train.labels, val_fraction)
        train, val = train.select(kept), train.select(held_out)
    images: dict[SplitName, ImageSet] = {"train": train, "val": val}
    test = source.split("test")
    if test is not None:
        images["test"] = _limited(test, test_images, "data.test_images")
    return Splits(images, tuple(source.classes), tuple(source.skipped), getattr(source, "min_gap", None))


def splits_key(data: dict[str, Any]) -> str:
    """What of a resolved data config says which images there are, as `splits_of` takes it."""
    return json.dumps({name: data[name] for name in OPTIONS if name in data}, sort_keys=True)


@lru_cache(maxsize=1)
def splits_of(key: str) -> Splits:
    """The images of a data config: what another process has handed over, else read from their source.

    They are read once in a process; the last ones are kept.

    Args:
        key: From `splits_key`.
    """
    for path in filter(None, os.environ.get(HANDED, "").split(os.pathsep)):
        taken = _taken(path, key)
        if taken is not None:
            return taken
    options = json.loads(key)
    return read_splits(instantiate(options.pop("source")), **options)


@contextmanager
def handed_over(keys: Iterable[str]) -> Iterator[None]:
    """Let processes that are started meanwhile, on this machine, map the images instead of reading them again.

    The images move to files in memory that have no name: they are gone with this process, however it ends. Images that are
    mapped from a file already stay there, and where the system has no such files, each process reads for itself.

    Args:
        keys: Of the images, from `splits_key`.
    """
    before = os.environ.get(HANDED)
    files: list[int] = []
    try:
        for key in keys if hasattr(os, "memfd_create") else ():
            files += _held_in_memory(key)
        splits_of.cache_clear()  # this process needs them no more
        os.environ[HANDED] = os.pathsep.join(f"/proc/{os.getpid()}/fd/{number}" for number in files)
        yield
    finally:
        os.environ.pop(HANDED, None)
        if before is not None:
            os.environ[HANDED] = before
        for number in files:
            os.close(number)


def _held_in_memory(key: str) -> list[int]:
    """A file without a name that holds the images; none where they are mapped from a file already."""
    splits = splits_of(key)
    if any(images.starts is not None for images in splits.images.values()):
        return []
    number = os.memfd_create("necklace-images")
    with os.fdopen(number, "wb", closefd=False) as file:
        torch.save({"key": key, **_packed(splits)}, file)
    return [number]


def _packed(splits: Splits) -> dict[str, Any]:
    """Splits as tensors and text, which can be read without running anything."""
    images = {
        name: {"pixels": held.pixels, "shapes": held.shapes, "labels": held.labels, "names": json.dumps(held.names)}
        for name, held in splits.images.items()
    }
    return {"images": images, "said": json.dumps([splits.classes, splits.skipped, splits.min_gap])}


def _taken(path: str, key: str) -> Splits | None:
    """The images in a file that `handed_over` has made; None if it holds others or is gone, with its process."""
    try:
        content = torch.load(path, mmap=True, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, UnpicklingError):  # on another machine the path may be any file
        return None
    if not isinstance(content, dict) or content.get("key") != key:
        return None
    images: dict[SplitName, ImageSet] = {
        name: ImageSet(held["pixels"], held["shapes"], held["labels"], tuple(json.loads(held["names"])))
        for name, held in content["images"].items()
    }
    classes, skipped, min_gap = json.loads(content["said"])
    return Splits(images, tuple(classes), tuple((path, reason) for path, reason in skipped), min_gap)


def split_indices(labels: torch.Tensor, fraction: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Split off a share of each class, by a rule that knows no run seed: every cell of a study has the same split.

    Args:
        labels: int64 [N], or int8 [N, K]: then each combination of classes is a class of its own.
        fraction: Share of each class that is split off, rounded, but at least one image of a class that has two.

    Returns:
        Indices that stay and indices that are split off, both ascending.
    """
    labels = _strata(labels)
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
    labels = _strata(images.labels)
    for label in labels.unique().tolist():
        members = (labels == label).nonzero().flatten()
        shuffled = members[torch.randperm(len(members), generator=torch_generator(0, "limit", label))]
        rank[shuffled] = torch.arange(len(members), dtype=torch.double) / len(members)
    return images.select(rank.argsort(stable=True)[:count].sort().values)


def _strata(labels: torch.Tensor) -> torch.Tensor:
    """The class of each image, or the number of its combination of classes: int64 [N]."""
    return labels if labels.ndim == 1 else labels.unique(dim=0, return_inverse=True)[1]
