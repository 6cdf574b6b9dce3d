"""Sets with boxes, opened for tests of their sources."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from necklace.data.images import ImageSet

S = TypeVar("S")


def boxed_train(make: Callable[..., S], root: Path, **options: Any) -> tuple[ImageSet, S]:
    """The training images of a source with their boxes, and the source."""
    source: Any = make(root, boxes=True, **options)
    train = source.split("train")
    assert train is not None
    assert train.boxes is not None
    return train, source


def boxes_of(images: ImageSet, index: int) -> list[tuple[list[float], int, int]]:
    """The boxes of an image with their classes and flags."""
    assert images.boxes is not None
    xyxy, classes, flags = images.boxes.of(index)
    return list(zip(xyxy.tolist(), classes.tolist(), flags.tolist(), strict=True))
