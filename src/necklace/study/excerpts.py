"""The parts of a run's folder that a study keeps: its learning curve, its pictures' numbers, and small copies of them."""

import csv
import io
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

from PIL import Image
from typing_extensions import TypedDict

from necklace.record import Record, checked, read_json

# Pictures of a run that a report shows small, and how small: pixels across, colours.
SHOWN = ("receptive_field", "gates*", "confusion", "detections", "precision_recall", "errors")
THUMBNAIL = 440, 64

Curve = dict[str, list[float | None]]
"""Column of a learning curve to its values by epoch, None where an epoch has no value; here epochs count from 0."""


class KnockoutRow(TypedDict):
    """One change of a layer of the neck, see `necklace.diagnostics.knockout`."""

    layer: str
    context: str
    change: str
    scope: str
    value: float
    drop: float
    low: float | None
    high: float | None


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


@dataclass(frozen=True)
class _Knockout:
    """A run's knockout.json."""

    run: str
    weights_hash: str
    metric: str
    value: float
    images: int
    layers: dict[str, dict[str, Any]]
    changes: list[KnockoutRow]
    notes: list[str]


def read_knockout(folder: Path, record: Record) -> dict[str, Any]:
    """What changing a run's neck did on val; empty if nobody asked for it.

    Raises:
        ValueError: The file is damaged, or of other weights than the record.
    """
    path = folder / "knockout.json"
    return known_knockout(read_json(path), record, path) if path.exists() else {}


def known_knockout(content: Any, record: Record, path: Path) -> dict[str, Any]:
    """The content of a knockout.json, checked.

    Args:
        content: What was read.
        record: Of the run.
        path: Where it was read, for the message.

    Raises:
        ValueError: It is damaged, or of other weights than the record.
    """
    found = asdict(checked(_Knockout, content, path, "knockout"))
    if found["weights_hash"] != record.weights_hash:
        raise ValueError(
            f"{path}: knockout: is of other weights than the record; necklace inspect RUN --knockout makes it again"
        )
    for number, row in enumerate(found["changes"]):
        if abs(found["value"] - row["value"] - row["drop"]) > 2e-6:
            raise ValueError(f"{path}: knockout.changes.{number}: drop is {row['drop']}, but {found['value']} - {row['value']}")
    return found


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
