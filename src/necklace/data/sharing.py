"""Images in shared memory: one process reads or draws them, the processes that it starts map them.

The runs of a study are processes of their own. Without sharing, each would spend seconds on reading the same images.
"""

import json
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from pickle import UnpicklingError
from typing import Any

import torch

from necklace.data.boxes import Boxes
from necklace.data.images import ImageSet, SplitName, Splits

# Environment variable with the paths of the files in shared memory, separated as in PATH.
SHARED_IMAGES = "NECKLACE_IMAGES"
BOXES = tuple(part.name for part in fields(Boxes))


@contextmanager
def share_images(keys: Iterable[str], read: Callable[[str], Splits]) -> Iterator[None]:
    """Put images into shared memory, where the processes started inside this context find them by `shared_images`.

    The files in memory have no name, so they disappear with this process, however it ends. Images that are mapped from a file
    stay there. On a system without such files nothing is shared, and each process reads the images itself.

    Args:
        keys: Name of each set of images, any text.
        read: Reads the images of a key.
    """
    before = os.environ.get(SHARED_IMAGES)
    files: list[int] = []
    try:
        for key in keys if hasattr(os, "memfd_create") else ():
            files += _in_memory(key, read(key))
        os.environ[SHARED_IMAGES] = os.pathsep.join(f"/proc/{os.getpid()}/fd/{number}" for number in files)
        yield
    finally:
        os.environ.pop(SHARED_IMAGES, None)
        if before is not None:
            os.environ[SHARED_IMAGES] = before
        for number in files:
            os.close(number)


def shared_images(key: str) -> Splits | None:
    """Map the images that another process has shared; None if there are none for this key.

    Args:
        key: As for `share_images`.
    """
    for path in filter(None, os.environ.get(SHARED_IMAGES, "").split(os.pathsep)):
        found = _mapped(path, key)
        if found is not None:
            return found
    return None


def _in_memory(key: str, splits: Splits) -> list[int]:
    """Write images to a file in memory and return its descriptor; none if they are already mapped from a file."""
    if any(images.starts is not None for images in splits.images.values()):
        return []
    number = os.memfd_create("necklace-images")
    with os.fdopen(number, "wb", closefd=False) as file:
        torch.save({"key": key, **_packed(splits)}, file)
    return [number]


def _packed(splits: Splits) -> dict[str, Any]:
    """Convert splits to tensors and text, which can be loaded without running any code."""
    images = {
        name: {"pixels": one.pixels, "shapes": one.shapes, "labels": one.labels, "names": json.dumps(one.names)}
        | {f"boxes.{part}": getattr(one.boxes, part) for part in (() if one.boxes is None else BOXES)}
        for name, one in splits.images.items()
    }
    facts = [splits.classes, splits.skipped, splits.min_gap, splits.own_val, splits.notes, splits.read_within]
    return {"images": images, "facts": json.dumps(facts)}


def _mapped(path: str, key: str) -> Splits | None:
    """Map the images in a file of `share_images`; None if it has another key, or has disappeared with its process."""
    try:
        content = torch.load(path, mmap=True, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, UnpicklingError):  # on another machine the path may be any file
        return None
    if not isinstance(content, dict) or content.get("key") != key:
        return None
    images: dict[SplitName, ImageSet] = {
        name: ImageSet(
            one["pixels"],
            one["shapes"],
            one["labels"],
            tuple(json.loads(one["names"])),
            boxes=Boxes(*(one[f"boxes.{part}"] for part in BOXES)) if "boxes.xyxy" in one else None,
        )
        for name, one in content["images"].items()
    }
    classes, skipped, min_gap, own_val, notes, read_within = json.loads(content["facts"])
    found = tuple((path, reason) for path, reason in skipped)
    return Splits(images, tuple(classes), found, min_gap, own_val, tuple(notes), read_within)
