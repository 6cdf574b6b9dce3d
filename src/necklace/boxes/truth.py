"""One image with its true boxes and what a model found in it: what all measures of detection start from."""

from dataclasses import dataclass

import numpy as np

COUNTS = 0  # an object to be found
IGNORED = 1  # VOC's `difficult`, or cut by a crop: neither to be found nor wrong to find
CROWD = 2  # COCO's `iscrowd`: several objects in one box; as ignored, and any number of detections may lie in it

_TYPES = {
    "true_boxes": (np.float32, 4),
    "true_classes": (np.int64, None),
    "flags": (np.uint8, None),
    "boxes": (np.float32, 4),
    "scores": (np.float32, None),
    "classes": (np.int64, None),
}


@dataclass(frozen=True, eq=False)
class ImageBoxes:
    """The M true boxes and D detections of an image.

    Boxes are `[x0, y0, x1, y1]` in pixels of the stored image, from 0, without the right and bottom edge.

    Attributes:
        index: The image's position in its split.
        height: Of the stored image.
        width: Of the stored image.
        true_boxes: float32 [M, 4].
        true_classes: int64 [M].
        flags: uint8 [M], `COUNTS`, `IGNORED` or `CROWD`.
        boxes: float32 [D, 4], in any order; of equal scores, the first counts as the better.
        scores: float32 [D].
        classes: int64 [D].

    Raises:
        ValueError: An array has another type or length, a value is NaN or infinite, corners are swapped, or a class or flag is
            out of range.
    """

    index: int
    height: int
    width: int
    true_boxes: np.ndarray
    true_classes: np.ndarray
    flags: np.ndarray
    boxes: np.ndarray
    scores: np.ndarray
    classes: np.ndarray

    def __post_init__(self) -> None:
        if self.index < 0 or self.height < 1 or self.width < 1:
            self._refuse(f"{self.height}x{self.width} pixels: allowed are an index from 0 and at least one pixel")
        lengths = {"true_boxes": len(self.true_classes), "flags": len(self.true_classes)}
        lengths |= {"boxes": len(self.classes), "scores": len(self.classes)}
        for name, (kind, columns) in _TYPES.items():
            values = getattr(self, name)
            rows = lengths.get(name, len(values))
            shape = (rows,) if columns is None else (rows, columns)
            if values.dtype != kind or values.shape != shape:
                due = f"{np.dtype(kind)} {list(shape)}"
                self._refuse(f"`{name}` is {values.dtype} {list(values.shape)}: allowed is {due}")
        for name in ("true_boxes", "boxes", "scores"):
            values = getattr(self, name)
            if not np.isfinite(values).all():
                self._refuse(f"`{name}` holds {values[~np.isfinite(values)][0]}: allowed are finite numbers")
        for name in ("true_boxes", "boxes"):
            values = getattr(self, name)
            if (values[:, 2:] < values[:, :2]).any():
                swapped = values[(values[:, 2:] < values[:, :2]).any(1)][0].tolist()
                self._refuse(f"`{name}` holds {swapped}: allowed is [x0, y0, x1, y1] with x0 <= x1 and y0 <= y1")
        for name in ("true_classes", "classes"):
            if (getattr(self, name) < 0).any():
                self._refuse(f"`{name}` holds {getattr(self, name).min()}: allowed are classes from 0")
        if (self.flags > CROWD).any():
            self._refuse(f"`flags` holds {self.flags.max()}: allowed are 0 (counts), 1 (ignored) and 2 (crowd)")

    def _refuse(self, problem: str) -> None:
        raise ValueError(f"boxes of image {self.index}: {problem}")
