"""The parts of a run's folder that a study keeps: its learning curve, its pictures' numbers, and small copies of them."""

import csv
import io
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

from PIL import Image

from necklace.record import checked, read_json

# Pictures of a run that a report shows small, and how small: pixels across, colours.
SHOWN = ("receptive_field", "gates*", "confusion", "detections", "precision_recall", "errors")
THUMBNAIL = 440, 64

Curve = dict[str, list[float | None]]
"""Column of a learning curve to its values by epoch, None where an epoch has no value; here epochs count from 0."""


@dataclass(frozen=True)
class _Pictures:
    """The part of a run's pictures.json that a study keeps."""

    open_ended: ClassVar[bool] = True

    receptive_field: dict[str, Any]
    contributions: dict[str, Any]


def read_curve(folder: Path) -> Curve:
    """The learning curve of a run's folder: epoch, losses and val metrics, to seven digits.

    Raises:
        ValueError: The file is damaged.
    """
    path = folder / "history.csv"
    try:
        rows = list(csv.DictReader(path.read_text(encoding="utf-8").splitlines(), strict=True)) if path.exists() else []
        columns = [name for name in (rows[0] if rows else {}) if name == "epoch" or name.startswith(("train/", "val/"))]
        curve = {name: [float(f"{float(row[name]):.7g}") if row[name] else None for row in rows] for name in columns}
    except (ValueError, TypeError, KeyError, csv.Error) as error:
        raise ValueError(f"{path}: damaged: {error}") from error
    epochs = curve.get("epoch", [])
    if epochs and epochs[0] != 0:  # files of earlier code counted from 0 as well
        curve["epoch"] = [None if epoch is None else epoch - 1 for epoch in epochs]
    return curve


def read_pictures(folder: Path) -> dict[str, Any]:
    """The numbers of a run's pictures that a study keeps; none if it has no pictures."""
    path = folder / "pictures" / "pictures.json"
    if not path.exists():
        return {}
    return asdict(checked(_Pictures, read_json(path), path))


def read_thumbnails(folder: Path) -> dict[str, bytes]:
    """A run's pictures made small, as PNG."""
    found = {}
    for path in [path for pattern in SHOWN for path in sorted((folder / "pictures").glob(f"{pattern}.png"))]:
        width, colours = THUMBNAIL
        with Image.open(path) as picture:
            height = max(1, round(picture.height * width / picture.width))
            small = picture.convert("RGB").resize((width, height), Image.Resampling.LANCZOS)
            # An octree keeps the colours of thin lines over a photograph, which Pillow's default would blend into one.
            small = small.quantize(colours, method=Image.Quantize.FASTOCTREE)
        content = io.BytesIO()
        small.save(content, "PNG", optimize=True)
        found[path.stem] = content.getvalue()
    return found
