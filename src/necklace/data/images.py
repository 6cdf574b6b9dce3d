"""Images in memory or mapped from a file, and the interface of a source of images.

Every source (generated or read from disk) returns the same type: all images of a split as one flat uint8 tensor, each at its
native size. Images are neither warped nor padded to a common shape; callers that need one size call `resized`.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, Protocol

import torch

from necklace.data.boxes import Boxes
from necklace.data.files import cores

SplitName = Literal["train", "val", "test"]
SPLIT_NAMES: tuple[SplitName, ...] = ("train", "val", "test")


@dataclass(frozen=True, eq=False)
class ImageSet:
    """The images of one split.

    Attributes:
        pixels: uint8 `[sum(h * w * 3)]`, the images one after another, each `[h, w, 3]` RGB, row by row. With `starts`, it may
            contain other images too, and is shared by the sets that are selected from this one.
        shapes: int64 `[N, 2]`, height and width of each image.
        labels: int64 `[N]`, the class of each image; or, if an image may show several classes, int8 `[N, K]`: 1 present,
            0 absent, -1 ignored in loss and metrics.
        names: A unique id for each image, such as its relative path or `train/17`.
        starts: int64 `[N]`, the position in `pixels` where each image begins, for pixels that are mapped from a file and must
            not be copied; None if the images are stored one after another.
        boxes: The true boxes of the images, inside of them; `labels` are then int8 `[N, K]`. None where nothing is known of
            where things are.
    """

    pixels: torch.Tensor
    shapes: torch.Tensor
    labels: torch.Tensor
    names: tuple[str, ...]
    starts: torch.Tensor | None = None
    boxes: Boxes | None = None

    def __post_init__(self):
        count = len(self.names)
        if self.pixels.dtype != torch.uint8 or self.pixels.ndim != 1:
            raise ValueError(f"pixels must be uint8 [P], not {self.pixels.dtype} {list(self.pixels.shape)}")
        if self.shapes.dtype != torch.int64 or tuple(self.shapes.shape) != (count, 2):
            raise ValueError(f"shapes must be int64 [{count}, 2], not {self.shapes.dtype} {list(self.shapes.shape)}")
        kind = self.labels.dtype, self.labels.ndim
        if kind not in ((torch.int64, 1), (torch.int8, 2)) or len(self.labels) != count:
            raise ValueError(
                f"labels must be int64 [{count}] or int8 [{count}, K], not {self.labels.dtype} {list(self.labels.shape)}"
            )
        if self.labels.ndim == 2 and not bool(((self.labels >= -1) & (self.labels <= 1)).all()):
            raise ValueError("labels of several classes must be 1 (present), 0 (absent) or -1 (ignored)")
        if count and int(self.shapes.min()) < 1:
            raise ValueError("an image must be at least 1x1")
        if self.starts is None:
            if int(self.offsets[-1]) != self.pixels.numel():
                raise ValueError(f"shapes ask for {int(self.offsets[-1])} values, pixels hold {self.pixels.numel()}")
        elif self.starts.dtype != torch.int64 or tuple(self.starts.shape) != (count,):
            raise ValueError(f"starts must be int64 [{count}], not {self.starts.dtype} {list(self.starts.shape)}")
        elif bool((self.starts < 0).any()) or bool((self.starts + self.shapes.prod(1) * 3 > self.pixels.numel()).any()):
            raise ValueError(f"an image of this start and shape does not lie within the {self.pixels.numel()} pixels")
        if len(set(self.names)) != count:
            raise ValueError("names of images must be unique")
        if self.boxes is not None:
            self._check_boxes(self.boxes)

    def _check_boxes(self, boxes: Boxes) -> None:
        if self.labels.ndim != 2 or len(boxes) != len(self):
            raise ValueError(f"boxes of {len(boxes)} images need labels int8 [{len(boxes)}, K] of as many images")
        sides = self.shapes[boxes.image][:, [1, 0]]
        if bool((boxes.xyxy[:, :2] < 0).any()) or bool((boxes.xyxy[:, 2:] > sides).any()):
            raise ValueError("boxes must lie inside their images")
        if bool((boxes.classes >= self.labels.shape[1]).any()):
            raise ValueError(f"classes of boxes must be below {self.labels.shape[1]}, the number of classes")

    @classmethod
    def build(
        cls,
        images: Iterable[torch.Tensor],
        labels: Sequence[int] | torch.Tensor,
        names: Sequence[str],
        boxes: Boxes | None = None,
    ) -> "ImageSet":
        """Make a set of separate images.

        Args:
            images: uint8 tensors, each `[h, w, 3]`.
            labels: One class index for each image, or int8 `[N, K]` as in `ImageSet`.
            names: A unique id for each image.
            boxes: The boxes of the images, or None.

        Returns:
            The set, with the images in the given order.
        """
        images = list(images)
        return cls(
            pixels=torch.cat([image.reshape(-1) for image in images] or [torch.empty(0, dtype=torch.uint8)]),
            shapes=torch.tensor([image.shape[:2] for image in images], dtype=torch.int64).reshape(len(images), 2),
            labels=labels if isinstance(labels, torch.Tensor) else torch.tensor(labels, dtype=torch.int64).reshape(len(labels)),
            names=tuple(names),
            boxes=boxes,
        )

    def __len__(self) -> int:
        return len(self.names)

    @cached_property
    def offsets(self) -> torch.Tensor:
        """int64 `[N + 1]`: without `starts`, image i is `pixels[offsets[i]:offsets[i + 1]]`."""
        ends = (self.shapes.prod(1) * 3).cumsum(0)
        return torch.cat([ends.new_zeros(1), ends])

    @cached_property
    def common_shape(self) -> tuple[int, int] | None:
        """Height and width if all images share them, else None (also for an empty set)."""
        if not len(self) or not bool((self.shapes == self.shapes[0]).all()):
            return None
        return int(self.shapes[0, 0]), int(self.shapes[0, 1])

    def image(self, index: int) -> torch.Tensor:
        """Return image `index` as a uint8 view `[h, w, 3]`; negative indices count from the end."""
        count = len(self)
        if not -count <= index < count:
            raise IndexError(f"image {index} of a set of {count}")
        index %= count
        height, width = self.shapes[index].tolist()
        start = int((self.offsets if self.starts is None else self.starts)[index])
        return self.pixels[start : start + height * width * 3].view(height, width, 3)

    def resized(self, height: int, width: int) -> torch.Tensor:
        """Resize all images to one size.

        Bilinear with antialiasing, image by image, so the result for an image does not depend on the others in the set. Images
        that already have the size are copied unchanged; if all have it, the result is a view of `pixels`, unless these are
        mapped from a file.

        Args:
            height: Height of the results, in pixels.
            width: Width of the results, in pixels.

        Returns:
            uint8 `[N, height, width, 3]`.
        """
        if height < 1 or width < 1:
            raise ValueError(f"images cannot be resized to {height}x{width}: both sides must be at least 1")
        if self.common_shape == (height, width) and self.starts is None:
            return self.pixels.view(len(self), height, width, 3)
        from torchvision.transforms.v2 import InterpolationMode  # here: a plan looks at images and resizes none
        from torchvision.transforms.v2 import functional as transforms

        out = torch.empty((len(self), height, width, 3), dtype=torch.uint8)
        inference = torch.is_inference_mode_enabled()

        def fill(first: int) -> None:
            with torch.inference_mode(inference):  # the mode is per thread, and `out` was made in the caller's
                for index in range(first, min(first + share, len(self))):
                    image = self.image(index)
                    if image.shape[:2] != (height, width):
                        image = transforms.resize_image(
                            image.permute(2, 0, 1), [height, width], interpolation=InterpolationMode.BILINEAR, antialias=True
                        ).permute(1, 2, 0)
                    out[index] = image

        # Threads, as torch releases the interpreter's lock; each task has several images, as one is too short for a task.
        workers = cores()
        share = max(1, min(64, len(self) // (4 * workers)))
        with ThreadPoolExecutor(workers) as pool:
            list(pool.map(fill, range(0, len(self), share)))
        return out

    def digest(self) -> str:
        """Return the SHA-256 over shapes, labels, pixels, names and, if there are some, boxes, in hexadecimal."""
        digest = hashlib.sha256()
        for part in (self.shapes, self.labels):
            array = part.contiguous().numpy()
            array = array.astype(array.dtype.newbyteorder("<"), copy=False)
            # The shape goes in first, so that the same bytes in arrays of other shapes give another digest.
            digest.update(f"{array.dtype.str}{array.shape}".encode())
            digest.update(array.reshape(-1).data)
        digest.update(f"|u1({int(self.offsets[-1])},)".encode())
        for run in self.in_order():
            digest.update(run.contiguous().numpy().data)
        for name in self.names:
            # A file name on Linux may be any bytes; Python represents the undecodable ones as surrogates.
            encoded = name.encode("utf-8", "surrogateescape")
            digest.update(len(encoded).to_bytes(8, "little") + encoded)
        if self.boxes is not None:
            digest.update(f"|boxes {self.boxes.digest()}".encode())
        return digest.hexdigest()

    def select(self, indices: torch.Tensor | Sequence[int]) -> "ImageSet":
        """Return the images at `indices` (distinct, int64 `[M]`), in that order, as a new set; mapped pixels are shared."""
        chosen = torch.as_tensor(indices, dtype=torch.int64).reshape(-1)
        starts = None
        if self.starts is not None:
            pixels, starts = self.pixels, self.starts[chosen]
        elif self.common_shape is not None:
            pixels = self.pixels.view(len(self), -1).index_select(0, chosen).view(-1)  # in one piece for each image
        else:
            parts = [self.image(index).reshape(-1) for index in chosen.tolist()]
            pixels = torch.cat(parts or [self.pixels[:0]])
        return ImageSet(
            pixels=pixels,
            shapes=self.shapes[chosen],
            labels=self.labels[chosen],
            names=tuple(self.names[index] for index in chosen.tolist()),
            starts=starts,
            boxes=None if self.boxes is None else self.boxes.select(chosen),
        )

    def in_order(self) -> Iterator[torch.Tensor]:
        """Yield the pixels of the images in order, in contiguous pieces."""
        if self.starts is None:
            yield self.pixels
        else:
            yield from (self.image(index).reshape(-1) for index in range(len(self)))


@dataclass(frozen=True, eq=False)
class Splits:
    """All images that a run uses, with the facts that their source states.

    Attributes:
        images: Split to its images: `train`, `val` and, if the source has it, `test`.
        classes: Names of the classes.
        skipped: (path, reason) of every image left out.
        min_gap: As in `Source`; None if the source has none.
        own_val: Whether the source has a val split, so that none was split off train.
        notes: What a reader of the results should know about the data: sentences without full stop.
        read_within: As in `Source`; None if the source has none.
    """

    images: dict[SplitName, ImageSet]
    classes: tuple[str, ...]
    skipped: tuple[tuple[str, str], ...]
    min_gap: int | None
    own_val: bool = False
    notes: tuple[str, ...] = ()
    read_within: int | None = None

    @cached_property
    def digest(self) -> dict[str, str]:
        """SHA-256 of each split's content; the identity of a run contains it instead of paths."""
        return {name: images.digest() for name, images in self.images.items()}


class Source(Protocol):
    """A source of images: `Glyphs`, `Context`, `Folder`, or any class with these three members.

    A source may have a fourth, `min_gap: int`: the minimum number of pixels between the two things that its label depends on
    (`Context`). A run then rejects a backbone whose receptive field covers the gap. And a fifth, `notes: tuple[str, ...]`: what
    a reader of the results should know about the splits read so far, as sentences without full stop. And a sixth, with
    `min_gap`: `read_within: int | None`, the side in pixels of the top left corner in which alone a head may read.

    Attributes:
        classes: Names of the classes; a label is an index into it.
        skipped: (path, reason) of every image left out, for the splits read so far.
    """

    @property
    def classes(self) -> tuple[str, ...]: ...  # noqa: D102

    @property
    def skipped(self) -> tuple[tuple[str, str], ...]: ...  # noqa: D102

    def split(self, name: SplitName) -> ImageSet | None:
        """Return the images of a split, or None if the source has no such split (val is then split off train)."""
        ...
