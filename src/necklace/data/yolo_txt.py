"""YOLO's label files: a line for each object, `class x y width height`, the last four in shares of the image's sides.

x and y are the centre. The frame is that of the file as stored, as everywhere (`annotated.py`); edges that come within 0.05
pixels of a whole pixel are that pixel, so that boxes of whole pixels survive the rounding of their shares. Lines of more values
are polygons, rotated boxes or predictions with a score, and stop the file.
"""

import math
from pathlib import Path

import numpy as np

from necklace.boxes.truth import COUNTS
from necklace.data.annotated import Objects

MAX_BYTES = 1 << 24  # as of VOC's annotations; the labels of a crowded image have about 30 kB
_VALUES = 5
_ROUNDING = 1e-5  # a share may be above 1 by so much: by the rounding of its decimals


def read_labels(path: Path | str, classes: int) -> Objects:
    """Read a label file.

    Args:
        path: The file; an empty one is that of an image without objects.
        classes: The number of classes.

    Raises:
        ValueError: A line is no box; the message has line and reason.
        OSError: It cannot be read.
    """
    with open(path, "rb") as file:
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise ValueError(f"larger than {MAX_BYTES >> 20} MiB")
    rows = []
    try:
        lines = data.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise ValueError("not text, but labels are") from None
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                rows.append(_row(line.split(), classes))
            except ValueError as error:
                raise ValueError(f"line {number}: {error}") from None
    values = np.array(rows, dtype=np.float64).reshape(-1, _VALUES)
    centre, size = values[:, 1:3], values[:, 3:5]
    corners = np.hstack([centre - size / 2, centre + size / 2])
    return Objects(corners, values[:, 0].astype(np.int64), np.full(len(rows), COUNTS, dtype=np.uint8), in_shares=True)


def _row(words: list[str], classes: int) -> list[float]:
    """Class, centre and size of an object.

    Raises:
        ValueError: It is none.
    """
    if len(words) != _VALUES:
        kind = ""
        if len(words) == _VALUES + 1:
            kind = ", a box with a score"
        elif len(words) > _VALUES and len(words) % 2:
            kind = ", a polygon or a rotated box"
        raise ValueError(f"a line of {len(words)} values{kind}: boxes have 5 (class x y width height)")
    try:
        values = [float(word) for word in words]
    except ValueError:
        raise ValueError(f"a value that is no number: {' '.join(words)[:80]!r}") from None
    if not all(map(math.isfinite, values)):
        raise ValueError(f"a value that is no finite number: {' '.join(words)[:80]!r}")
    if values[0] != int(values[0]) or not 0 <= values[0] < classes:
        raise ValueError(f"a class that data.yaml does not have: {words[0][:20]} (there are {classes}, from 0)")
    for word, value in zip(words[1:], values[1:], strict=True):
        if not 0 <= value <= 1 + _ROUNDING:
            raise ValueError(f"a value outside [0, 1]: {word[:20]} (boxes are in shares of the image's sides)")
    return values
