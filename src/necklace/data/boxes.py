"""True boxes: those of a split's images, and those of a batch.

A box is [x0, y0, x1, y1] in pixels from the image's top left corner, right and bottom exclusive: a box around the first pixel
alone is [0, 0, 1, 1]. The boxes of an image are in a fixed order, whatever the order in its annotation, so that two forms of
one data set are the same data.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from necklace.boxes.truth import COUNTS, CROWD


class Targets(NamedTuple):
    """The true boxes of a batch's images.

    Attributes:
        boxes: float32 [M, 4], in pixels of the batch's images.
        classes: int64 [M].
        flags: uint8 [M]: `COUNTS`, `IGNORED` or `CROWD` of `necklace.boxes.truth`.
        image: int64 [M], the image of each box, 0 to B - 1, ascending.
        count: Images of the batch, B; some may have no box.
    """

    boxes: torch.Tensor
    classes: torch.Tensor
    flags: torch.Tensor
    image: torch.Tensor
    count: int  # pyright: ignore[reportIncompatibleMethodOverride], the method of tuples is not used

    def kept(self, which: torch.Tensor) -> "Targets":
        """The boxes where `which`, bool [M], is true."""
        return Targets(self.boxes[which], self.classes[which], self.flags[which], self.image[which], self.count)


@dataclass(frozen=True, eq=False)
class Boxes:
    """The true boxes of the images of a split, one image after another.

    Attributes:
        xyxy: float32 [M, 4], in pixels of the stored images.
        classes: int64 [M].
        flags: uint8 [M]: `COUNTS`, `IGNORED` or `CROWD` of `necklace.boxes.truth`.
        offsets: int64 [N + 1]: the boxes of image i are those from `offsets[i]` up to `offsets[i + 1]`.

    Raises:
        ValueError: A tensor is of another type or shape, or a box has no area or is not finite.
    """

    xyxy: torch.Tensor
    classes: torch.Tensor
    flags: torch.Tensor
    offsets: torch.Tensor

    def __post_init__(self) -> None:
        count = len(self.classes)
        wanted = {"xyxy": (torch.float32, (count, 4)), "classes": (torch.int64, (count,)), "flags": (torch.uint8, (count,))}
        for name, (dtype, shape) in wanted.items():
            value = getattr(self, name)
            if value.dtype != dtype or tuple(value.shape) != shape:
                raise ValueError(f"{name} of boxes must be {dtype} {list(shape)}, not {value.dtype} {list(value.shape)}")
        ends = self.offsets
        if ends.dtype != torch.int64 or ends.ndim != 1 or not len(ends):
            raise ValueError(f"offsets of boxes must be int64 [N + 1], not {ends.dtype} {list(ends.shape)}")
        if int(ends[0]) != 0 or int(ends[-1]) != count or bool((ends.diff() < 0).any()):
            raise ValueError(f"offsets of boxes must ascend from 0 to the {count} boxes")
        if not bool(self.xyxy.isfinite().all()) or bool((self.xyxy[:, :2] >= self.xyxy[:, 2:]).any()):
            raise ValueError("a box must be finite, with x0 < x1 and y0 < y1")
        if count and (int(self.classes.min()) < 0 or int(self.flags.max()) > CROWD):
            raise ValueError(f"classes of boxes must be 0 or above, and flags 0 to {CROWD}")

    def __len__(self) -> int:
        """The number of images."""
        return len(self.offsets) - 1

    @classmethod
    def build(cls, xyxy: np.ndarray, classes: np.ndarray, flags: np.ndarray, image: np.ndarray, count: int) -> "Boxes":
        """Make the boxes of `count` images from boxes in any order.

        Within an image they are sorted by y0, x0, y1, x1, class and flag.

        Args:
            xyxy: [M, 4], in pixels.
            classes: [M].
            flags: [M].
            image: [M], the image of each box.
            count: Images.
        """
        xyxy = np.asarray(xyxy, dtype=np.float32).reshape(-1, 4)
        x0, y0, x1, y1 = xyxy.T
        order = np.lexsort((flags, classes, x1, y1, x0, y0, image))
        offsets = np.zeros(count + 1, dtype=np.int64)
        np.cumsum(np.bincount(np.asarray(image, dtype=np.int64), minlength=count), out=offsets[1:])
        return cls(
            torch.from_numpy(xyxy[order]),
            torch.from_numpy(np.asarray(classes, dtype=np.int64)[order]),
            torch.from_numpy(np.asarray(flags, dtype=np.uint8)[order]),
            torch.from_numpy(offsets),
        )

    @property
    def image(self) -> torch.Tensor:
        """int64 [M], the image of each box."""
        return torch.repeat_interleave(torch.arange(len(self)), self.offsets.diff())

    def of(self, index: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The boxes float32 [m, 4], classes int64 [m] and flags uint8 [m] of image `index`."""
        start, end = self.offsets[index : index + 2].tolist()
        return self.xyxy[start:end], self.classes[start:end], self.flags[start:end]

    def select(self, indices: torch.Tensor | Sequence[int]) -> "Boxes":
        """Return the boxes of the images at `indices` (int64 [B]), in that order."""
        rows, image, count = self._rows(indices)
        offsets = torch.zeros(count + 1, dtype=torch.int64)
        offsets[1:] = image.bincount(minlength=count).cumsum(0)
        return Boxes(self.xyxy[rows], self.classes[rows], self.flags[rows], offsets)

    def targets(self, indices: torch.Tensor, shapes: torch.Tensor, size: tuple[int, int]) -> Targets:
        """Return the boxes of a batch.

        Args:
            indices: int64 [B], its images.
            shapes: int64 [N, 2], height and width of each image as stored.
            size: Height and width of the batch's images.
        """
        rows, image, count = self._rows(indices)
        scale = torch.tensor(size).double() / shapes[indices].double()  # [B, 2]: of y and of x
        boxes = (self.xyxy[rows].double() * scale[image][:, [1, 0, 1, 0]]).float()
        return Targets(boxes, self.classes[rows], self.flags[rows], image, count)

    def labels(self, classes: int) -> torch.Tensor:
        """What each image shows, as labels of several classes have it: int8 [N, classes].

        1 for a class with an object that counts, -1 if all its objects are ignored or crowds, 0 without any.
        """
        counts, ignored = torch.zeros(2, len(self), classes, dtype=torch.int64)
        place, one = (self.image, self.classes), self.flags == COUNTS
        counts.index_put_(place, one.long(), accumulate=True)
        ignored.index_put_(place, (~one).long(), accumulate=True)
        return torch.where(counts > 0, 1, torch.where(ignored > 0, -1, 0)).to(torch.int8)

    def digest(self) -> str:
        """Return the SHA-256 over all of it, in hexadecimal."""
        digest = hashlib.sha256()
        for part in (self.offsets, self.xyxy, self.classes, self.flags):
            array = part.contiguous().numpy()
            array = array.astype(array.dtype.newbyteorder("<"), copy=False)
            digest.update(f"{array.dtype.str}{array.shape}".encode())
            digest.update(array.tobytes())
        return digest.hexdigest()

    def _rows(self, indices: torch.Tensor | Sequence[int]) -> tuple[torch.Tensor, torch.Tensor, int]:
        """The places of the boxes of some images, the position of each box's image among them, and their number."""
        chosen = torch.as_tensor(indices, dtype=torch.int64).reshape(-1)
        counts = self.offsets.diff()[chosen]
        image = torch.repeat_interleave(torch.arange(len(chosen)), counts)
        first = counts.cumsum(0) - counts  # of each image's boxes in the result
        return torch.arange(len(image)) - first[image] + self.offsets[chosen][image], image, len(chosen)
