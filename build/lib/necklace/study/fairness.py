"""Is it the row that makes the difference? All that was not declared an axis has to be equal over the cells of a table."""

import json
from collections.abc import Iterator, Sequence
from typing import Any

from necklace.record import Record
from necklace.study.archive import Archive, ArchivedCell


class Unfair(ValueError):
    """Cells differ in more than the study's axes, or not where they should."""


def check_fairness(archive: Archive) -> list[str]:
    """Hold a study's finished cells to its axes.

    Args:
        archive: The study; `axes` None leaves nothing to hold them to: then every difference is only told.

    Returns:
        A sentence for each difference that was allowed.

    Raises:
        Unfair: A field outside the axes differs, with its values and cells; or two seeds of a row gave the same weights.
    """
    found = [(cell, cell.record) for cell in archive.cells if cell.record]
    _check_seeds(found)
    told, refused = [], []
    # A user's own neck has code of its own: what counts is whether a cell's code is today's, or which other it is. Of a set of
    # runs that nobody planned, that is not known.
    codes = [record.code if archive.axes is None or cell.state == "stale" else "today's" for cell, record in found]
    for field, values in differences([record for _, record in found], archive.axes or ("neck",), codes).items():
        cells: dict[str, list[str]] = {}
        for (cell, _), value in zip(found, values, strict=True):
            cells.setdefault(value, []).append(f"{cell.row}, seed {cell.seed}")
        sides = "; ".join(f"{value} ({_few(names)})" for value, names in list(cells.items())[:4])
        if archive.axes is None or _below(field, archive.allow):
            told.append(f"{field} differs: {sides}")
        else:
            refused.append(f"{field} differs: {sides}")
    if refused:
        raise Unfair(
            f"{archive.name}: the cells differ in more than the axes ({', '.join(archive.axes or ())}):\n  "
            + "\n  ".join(refused)
            + "\n--allow FIELD accepts a difference and says so under the table"
        )
    return told


def differences(records: Sequence[Record], axes: Sequence[str], codes: Sequence[str] | None = None) -> dict[str, list[str]]:
    """The fields outside the axes that are not the same in all records.

    Args:
        records: At least one for a difference.
        axes: Config keys and groups, such as `neck` or `data/sizes`; a key stands for all below it.
        codes: What stands for each record's code; the record's own if None.

    Returns:
        Field to its value in each record, as JSON; `absent` where a record has no such field.
    """
    codes = [record.code for record in records] if codes is None else codes
    tables = [dict(_comparable(record)) | {"code": code} for record, code in zip(records, codes, strict=True)]
    free = [axis.replace("/", ".").lstrip("+~") for axis in axes] + ["seed"]
    # What follows from an axis is free with it: how many steps an epoch has, how many tensors a backbone.
    if any(axis in ("epochs", "batch_size") or axis.split(".")[0] in ("data", "trainer") for axis in free):
        free.append("steps")
    if any(axis.split(".")[0] == "backbone" for axis in free):
        free.append("pretrained")
    found = {}
    for field in dict.fromkeys(name for table in tables for name in table):
        values = [table.get(field, "absent") for table in tables]
        if len(set(values)) > 1 and not _below(field, free):
            found[field] = values
    return found


def _below(field: str, keys: Sequence[str]) -> bool:
    return any(field == key or field.startswith(key + ".") for key in keys)


def _comparable(record: Record) -> Iterator[tuple[str, str]]:
    """What a fair comparison has to hold equal: the identity, and what the run met with."""
    yield from _flat(record.identity, "")
    for field in ("steps", "world_size", "pretrained"):
        yield field, json.dumps(getattr(record, field))
    yield from _flat(record.versions, "versions")
    yield from _flat(record.device, "device")
    yield "trainer.deterministic", json.dumps(record.config["trainer"].get("deterministic"))


def _flat(node: Any, path: str) -> Iterator[tuple[str, str]]:
    if isinstance(node, dict):
        for key, value in node.items():
            yield from _flat(value, f"{path}.{key}" if path else str(key))
    else:
        yield path, json.dumps(node, sort_keys=True)


def _check_seeds(found: Sequence[tuple[ArchivedCell, Record]]) -> None:
    """Equal figures of two seeds may be chance; equal weights are one run that was counted twice."""
    seen: dict[tuple[str, str], ArchivedCell] = {}
    for cell, record in found:
        twin = seen.setdefault((cell.row, record.weights_hash), cell)
        if twin.seed != cell.seed:
            seeds = f"seeds {twin.seed} and {cell.seed}"
            raise Unfair(f"row '{cell.row}': {seeds} ended with the same weights: the seed had no effect")


def _few(names: Sequence[str]) -> str:
    more = f" and {len(names) - 2} more" if len(names) > 2 else ""
    return ", ".join(names[:2]) + more
