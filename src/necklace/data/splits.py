"""The splits of a source as runs use them: val is split off train, and each split is limited to the requested number of images.

Reading or drawing the images takes seconds, so a process reads them once for all its runs, and shares them with the processes
that it starts (`sharing.py`).
"""

import gc
import json
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import torch
from hydra.utils import instantiate

from necklace.data.contents import split_notes
from necklace.data.duplicates import duplicate_notes
from necklace.data.images import SPLIT_NAMES, ImageSet, Source, SplitName, Splits
from necklace.data.sharing import share_images, shared_images
from necklace.seeding import torch_generator

# Share of the images that becomes test where nothing says which ones are, and nobody says how many.
TEST_FRACTION = 0.2
OPTIONS = ("source", "val_fraction", "train_images", "test_images", "duplicates")


def read_splits(
    source: Source,
    val_fraction: float = 0.1,
    train_images: int | None = None,
    test_images: int | None = None,
    duplicates: str = "note",
) -> Splits:
    """Read the images of a source and split them.

    Args:
        source: The source of the images.
        val_fraction: Share of each class that is split off train for validation, if the source has no val split.
        train_images: Use only this many training images, the same share of each class; val is split off these. None for all.
        test_images: The same for test images.
        duplicates: For images that are in two splits or have two labels: `note` says so, `error` stops.

    Raises:
        ValueError: An option is out of range, the source has no train split, or `duplicates` is `error` and there are some.
    """
    if not 0 < val_fraction < 1:
        raise ValueError(f"data.val_fraction={val_fraction}: must lie between 0 and 1")
    if duplicates not in ("note", "error"):
        raise ValueError(f"data.duplicates={duplicates}: must be note or error")
    read, skipped = _read(source)
    train, val, test = (read.get(name) for name in SPLIT_NAMES)
    if train is None:
        raise ValueError("data: the source has no train split")
    train, own_val = _limited(train, train_images, "data.train_images"), val is not None
    if val is None:
        kept, held_out = split_indices(train.labels, val_fraction)
        train, val = train.select(kept), train.select(held_out)
    images: dict[SplitName, ImageSet] = {"train": train, "val": val}
    if test is not None:
        images["test"] = _limited(test, test_images, "data.test_images")
    found = duplicate_notes(images)
    if found and duplicates == "error":
        raise ValueError(f"data.duplicates=error: {'; '.join(found)} (data.duplicates=note trains with them and says so)")
    classes = tuple(source.classes)
    notes = *getattr(source, "notes", ()), *split_notes(images, classes, skipped), *found
    gap, within = (getattr(source, name, None) for name in ("min_gap", "read_within"))
    return Splits(images, classes, tuple(source.skipped), gap, own_val, notes, within)


def _read(source: Source) -> tuple[dict[SplitName, ImageSet], dict[SplitName, list[tuple[str, str]]]]:
    """Read all splits of a source; gives their images, and (path, reason) of what was skipped in each."""
    images: dict[SplitName, ImageSet] = {}
    skipped: dict[SplitName, list[tuple[str, str]]] = {}
    for name in SPLIT_NAMES:
        before = Counter(source.skipped)
        one = source.split(name)
        if one is not None:
            images[name] = one
        skipped[name] = list((Counter(source.skipped) - before).elements())
    return images, skipped


def splits_key(data: dict[str, Any]) -> str:
    """Return the options of a resolved data config that determine the images, as the key for `splits_of`."""
    return json.dumps({name: data[name] for name in OPTIONS if name in data}, sort_keys=True)


@lru_cache(maxsize=1)
def splits_of(key: str) -> Splits:
    """Return the images of a data config: shared by another process, or read from their source.

    A process keeps the images of the last key.

    Args:
        key: From `splits_key`.
    """
    shared = shared_images(key)
    if shared is not None:
        return shared
    options = json.loads(key)
    collects = gc.isenabled()
    gc.disable()  # a source makes an object for each file, none of them garbage: looking for some doubles the time
    try:
        return read_splits(instantiate(options.pop("source")), **options)
    finally:
        if collects:
            gc.enable()


@contextmanager
def share_splits(keys: Iterable[str]) -> Iterator[None]:
    """Let the processes started inside this context, on this machine, map the images instead of reading them again.

    Args:
        keys: From `splits_key`.
    """
    with share_images(keys, splits_of):
        splits_of.cache_clear()  # this process does not need the images itself
        yield


def split_indices(labels: torch.Tensor, fraction: float, stream: str = "split") -> tuple[torch.Tensor, torch.Tensor]:
    """Split off a share of each class, independently of the run's seed: all runs of a study have the same split.

    Args:
        labels: int64 [N], or int8 [N, K]: then each combination of classes counts as a class; if each is there once, all images
            count as one class.
        fraction: Share of each class to split off, rounded, but at least one image of a class that has two or more.
        stream: Name of the random stream that chooses them, so that two splits of one set are independent.

    Returns:
        Indices of the images kept and of those split off, int64, both ascending.
    """
    several = labels.ndim == 2
    labels = _strata(labels)
    if several and len(labels.unique()) == len(labels):
        labels = torch.zeros_like(labels)  # or none could be split off
    held_out = []
    for label in labels.unique().tolist():
        members = (labels == label).nonzero().flatten()
        count = min(max(1, round(fraction * len(members))), len(members) - 1)
        held_out.append(members[torch.randperm(len(members), generator=torch_generator(0, stream, label))[:count]])
    mask = torch.zeros(len(labels), dtype=torch.bool)
    mask[torch.cat(held_out)] = True
    return (~mask).nonzero().flatten(), mask.nonzero().flatten()


def split_by_rule(shown: Sequence[Hashable], fraction: float) -> tuple[list[int], list[int]]:
    """Split off a test split where nothing says which images are: a share of each combination of what images show.

    Args:
        shown: What each image shows; images whose combination is there once go together.
        fraction: As in `split_indices`.

    Returns:
        Positions of the images kept and of those split off, both ascending.
    """
    combinations = Counter(shown)
    numbers = {one: number for number, (one, count) in enumerate(combinations.items(), 1) if count > 1}
    strata = torch.tensor([numbers.get(one, 0) for one in shown], dtype=torch.int64)
    kept, held_out = split_indices(strata, fraction, "test")
    return kept.tolist(), held_out.tolist()


def _limited(images: ImageSet, count: int | None, option: str) -> ImageSet:
    """Keep `count` images, the same share of each class; None for all."""
    if count is None:
        return images
    if not 0 < count <= len(images):
        raise ValueError(f"{option}={count}: must be between 1 and the split's {len(images)} images")
    if count == len(images):
        return images
    # Ranks within each class, scaled to [0, 1): the `count` smallest are the same share of every class.
    rank = torch.empty(len(images), dtype=torch.double)
    labels = _strata(images.labels)
    for label in labels.unique().tolist():
        members = (labels == label).nonzero().flatten()
        shuffled = members[torch.randperm(len(members), generator=torch_generator(0, "limit", label))]
        rank[shuffled] = torch.arange(len(members), dtype=torch.double) / len(members)
    return images.select(rank.argsort(stable=True)[:count].sort().values)


def _strata(labels: torch.Tensor) -> torch.Tensor:
    """Return the class of each image, or the number of its combination of classes: int64 [N]."""
    return labels if labels.ndim == 1 else labels.unique(dim=0, return_inverse=True)[1]
