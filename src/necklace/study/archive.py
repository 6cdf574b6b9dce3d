"""What a study keeps in version control: records/, from which every number and figure of it can be derived again.

`records/CELL.json` is a cell's record with its learning curve and the numbers of its pictures; `records/CELL.NAME.png` are
thumbnails of the pictures of each row's first cell; `records/study.json` says which cells there are, whether they
finished, and how they are to be read; `records/costs.json` holds the speeds that were measured at the end.
"""

import csv
import io
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from fnmatch import fnmatchcase
from glob import escape
from pathlib import Path
from typing import Any

from PIL import Image

from necklace.record import Record, parse_record
from necklace.study.plan import Plan
from necklace.study.states import CellState

LAYOUT = 3

# Pictures of a cell that a report shows small, and how small: pixels across, colours.
SHOWN = ("receptive_field", "gates*", "confusion")
THUMBNAIL = 440, 48


@dataclass(frozen=True)
class ArchivedCell:
    """One cell of a study as the archive has it.

    Attributes:
        row: Name of its row.
        seed: Its seed.
        choice: Option to the value that was tried with it, where the study chooses.
        cell: Name of its folder and its record.
        state: `done`, `stale`, `failed`, `running` or `missing`.
        failure: What it failed of, in a line, if it failed.
        record: Of a done or stale cell.
        curve: Column of the learning curve to its values by epoch, None where an epoch has no value.
        pictures: `receptive_field` and `contributions` as in its pictures.json; empty if it was not asked for pictures.
        thumbnails: Name of a picture to a small PNG, of the first cell of a row that has pictures.
    """

    row: str
    seed: int
    choice: dict[str, Any]
    cell: str
    state: str
    failure: str | None
    record: Record | None
    curve: dict[str, list[float | None]]
    pictures: dict[str, Any] = field(default_factory=dict)
    thumbnails: dict[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True)
class Archive:
    """A study's cells and how to read them.

    Attributes:
        name: The study's name.
        question: In the author's words.
        baseline: Name of a row, or None where the runs are just a set.
        metric: Name of a figure of the records.
        rows: Names, in order.
        seeds: In order.
        overrides: Hydra overrides of every cell, as study.yaml has them.
        axes: Config keys that may differ between cells, or None where nothing was declared.
        same: Two rows that compute the same, or None.
        controls: Row whose width was matched to a neck's size to what was matched, `params` or `macs`.
        tolerance: Largest difference of the metric when a cell is trained again on another machine.
        allow: Fields that may differ besides the axes.
        arguments: What the command was given beside the study's name, such as overrides, `--seeds 5`, `--allow FIELD`.
        dropped: Sentences about rows that were asked for twice.
        cells: Row by row.
        costs: Row to `latency_ms`, `train_images_per_s`, `peak_memory_mib`, and the conditions.
    """

    name: str
    question: str
    baseline: str | None
    metric: str
    rows: tuple[str, ...]
    seeds: tuple[int, ...]
    overrides: tuple[str, ...]
    axes: tuple[str, ...] | None
    same: tuple[str, str] | None
    controls: dict[str, str]
    tolerance: float
    allow: tuple[str, ...]
    arguments: tuple[str, ...]
    dropped: tuple[str, ...]
    cells: tuple[ArchivedCell, ...]
    costs: dict[str, dict[str, Any]]


def archive_of(
    plan: Plan,
    states: Sequence[CellState],
    kept: Sequence[ArchivedCell],
    allow: Sequence[str],
    arguments: Sequence[str],
    costs: dict[str, dict[str, Any]],
) -> Archive:
    """The archive of a plan.

    Args:
        plan: The study's cells.
        states: What there is of each here.
        kept: What an earlier archive holds: it stands for cells that are not here, such as those of a colleague's machine.
        allow: Fields that may differ besides the axes.
        arguments: What the command was given.
        costs: As in `Archive`.
    """
    study = plan.study
    cells = []
    elsewhere = {cell.record.cell_hash: cell for cell in kept if cell.record}
    illustrated: set[str] = set()
    for cell, found in zip(plan.cells, states, strict=True):
        known = elsewhere.get(cell.cell_hash)
        if found.state in ("missing", "running") and known and known.record:
            state = "done" if known.record.code == cell.code else "stale"
            thumbnails = {} if cell.row in illustrated else known.thumbnails
            illustrated |= {cell.row} if thumbnails else set()
            cells.append(replace(known, row=cell.row, choice=cell.choice, state=state, thumbnails=thumbnails))
            continue
        name = found.folder.name if found.folder else cell.label
        curve = read_curve(found.folder) if found.record and found.folder else {}
        pictures = read_pictures(found.folder) if found.record and found.folder else {}
        thumbnails: dict[str, bytes] = {}
        if pictures and found.folder and cell.row not in illustrated:
            unchanged = known and known.record == found.record and known.pictures == pictures
            thumbnails = (known.thumbnails if known and unchanged else {}) or read_thumbnails(found.folder)
        illustrated |= {cell.row} if thumbnails else set()
        about = cell.row, cell.seed, cell.choice, name, found.state, found.failure, found.record
        cells.append(ArchivedCell(*about, curve, pictures, thumbnails))
    return Archive(
        name=study.name,
        question=study.question,
        baseline=study.baseline,
        metric=study.metric,
        rows=tuple(plan.rows),
        seeds=tuple(dict.fromkeys(cell.seed for cell in plan.cells)),
        overrides=study.overrides,
        axes=plan.axes,
        same=study.same,
        controls=plan.controls,
        tolerance=study.tolerance,
        allow=tuple(allow),
        arguments=tuple(arguments),
        dropped=plan.dropped,
        cells=tuple(cells),
        costs=costs,
    )


def read_curve(folder: Path) -> dict[str, list[float | None]]:
    """The learning curve of a run's folder: epoch, losses and val metrics, to seven digits."""
    path = folder / "history.csv"
    rows = list(csv.DictReader(path.read_text(encoding="utf-8").splitlines())) if path.exists() else []
    columns = [name for name in (rows[0] if rows else {}) if name == "epoch" or name.startswith(("train/", "val/"))]
    return {name: [float(f"{float(row[name]):.7g}") if row[name] else None for row in rows] for name in columns}


def read_pictures(folder: Path) -> dict[str, Any]:
    """The numbers of a run's pictures that a study keeps; none if it has no pictures."""
    path = folder / "pictures" / "pictures.json"
    return {name: _read_json(path)[name] for name in ("receptive_field", "contributions")} if path.exists() else {}


def read_thumbnails(folder: Path) -> dict[str, bytes]:
    """A run's pictures made small, as PNG."""
    found = {}
    for path in [path for pattern in SHOWN for path in sorted((folder / "pictures").glob(f"{pattern}.png"))]:
        width, colours = THUMBNAIL
        with Image.open(path) as picture:
            height = max(1, round(picture.height * width / picture.width))
            small = picture.convert("RGB").resize((width, height), Image.Resampling.LANCZOS).quantize(colours)
        content = io.BytesIO()
        small.save(content, "PNG", optimize=True)
        found[path.stem] = content.getvalue()
    return found


def write_archive(archive: Archive, folder: Path) -> None:
    """Write `records/` of a study's folder: every file whole, those that are as they should be untouched.

    Args:
        archive: What to write.
        folder: Such as experiments/NAME. Records of cells that the study no longer asks for are removed.
    """
    records = folder / "records"
    records.mkdir(parents=True, exist_ok=True)
    header = {field.name: getattr(archive, field.name) for field in fields(Archive) if field.name not in ("cells", "costs")}
    cells = []
    wanted = {"study.json", "costs.json"} if archive.costs else {"study.json"}
    for cell in archive.cells:
        cells.append({name: getattr(cell, name) for name in ("row", "seed", "choice", "cell", "state", "failure")})
        if cell.record:
            wanted.add(f"{cell.cell}.json")
            parts = {"record": asdict(cell.record), "curve": cell.curve, "pictures": cell.pictures}
            _write(records / f"{cell.cell}.json", (json.dumps(parts, **_COMPACT) + "\n").encode())
        for name, content in cell.thumbnails.items():
            wanted.add(f"{cell.cell}.{name}.png")
            _write(records / f"{cell.cell}.{name}.png", content)
    if archive.costs:
        write_costs(archive.costs, folder)
    study = {"layout": LAYOUT, **header, "cells": cells}
    _write(records / "study.json", (json.dumps(study, indent=1, allow_nan=False) + "\n").encode())
    for path in [*records.glob("*.json"), *records.glob("*.png")]:
        if path.name not in wanted:
            path.unlink()


_COMPACT: Mapping[str, Any] = {"separators": (",", ":"), "sort_keys": True, "allow_nan": False}


def _write(path: Path, content: bytes) -> None:
    """Write a file whole if it is not as it should be; unlike `write_whole` without waiting for the disk: these are copies."""
    if path.exists() and path.read_bytes() == content:
        return
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        part.write_bytes(content)
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def read_archive(folder: Path) -> Archive:
    """Read `records/` of a study's folder strictly.

    Raises:
        FileNotFoundError: It, or the record of a cell that is done, is not there.
        ValueError: A file of it is not what `write_archive` writes.
    """
    path = folder / "records" / "study.json"
    if not path.is_file():
        raise FileNotFoundError(f"{path}: the study has no records yet; run it first")
    content = _read_json(path)
    known = {field.name for field in fields(Archive)} - {"costs"} | {"layout"}
    if not isinstance(content, dict) or content.get("layout") != LAYOUT or content.keys() != known:
        raise ValueError(f"{path}: not an archive of layout {LAYOUT} with {', '.join(sorted(known))}")
    del content["layout"]
    cells = []
    for item in content.pop("cells"):
        if not isinstance(item, dict) or item.keys() != {"row", "seed", "choice", "cell", "state", "failure"}:
            raise ValueError(f"{path}: a cell has other fields than row, seed, choice, cell, state and failure")
        cell = ArchivedCell(**item, record=None, curve={})
        if cell.state in ("done", "stale"):
            own = path.with_name(f"{cell.cell}.json")
            if not own.is_file():
                raise FileNotFoundError(
                    f"{own}: the study says that this cell is {cell.state}, but its record is not there; bring it back "
                    f"(git checkout), or remove {path.parent}: what outputs/ holds is not trained again"
                )
            parts = _read_json(own)
            if not isinstance(parts, dict) or parts.keys() != {"record", "curve", "pictures"}:
                raise ValueError(f"{own}: must hold a record, a curve and pictures")
            record = parse_record(parts["record"], own)
            thumbnails = {name: file.read_bytes() for name, file in thumbnail_files(folder, cell.cell).items()}
            cell = replace(cell, record=record, curve=parts["curve"], pictures=parts["pictures"], thumbnails=thumbnails)
        cells.append(cell)
    costs = path.with_name("costs.json")
    lists: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in content.items()}
    return Archive(**lists, cells=tuple(cells), costs=_read_json(costs) if costs.exists() else {})


def thumbnail_files(folder: Path, cell: str) -> dict[str, Path]:
    """Name of a picture to the file of its thumbnail, of one cell in `records/`, in the order of `SHOWN`."""
    start = f"{cell}."
    found = {path.stem.removeprefix(start): path for path in sorted((folder / "records").glob(f"{escape(start)}*.png"))}
    return {name: found[name] for pattern in SHOWN for name in found if fnmatchcase(name, pattern)}


def write_costs(costs: dict[str, dict[str, Any]], folder: Path) -> None:
    """Write the costs of a study's rows into its folder."""
    path = folder / "records" / "costs.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    _write(path, (json.dumps(costs, indent=1, sort_keys=True, allow_nan=False) + "\n").encode())


def read_costs(folder: Path) -> dict[str, dict[str, Any]]:
    """The costs in a study's folder; none if there are none."""
    path = folder / "records" / "costs.json"
    return _read_json(path) if path.exists() else {}


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path}: not JSON: {error}") from error
