"""Check a study: derive everything that it committed from its records again, and train some of its cells again."""

import json
import os
import re
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from omegaconf import DictConfig, OmegaConf

from necklace.cell import hash_identity
from necklace.record import Record, unpack_bits, write_whole
from necklace.run import run
from necklace.study.analysis import analyse
from necklace.study.archive import Archive, ArchivedCell, thumbnail_files, write_archive
from necklace.study.figures import figure_data, write_figures
from necklace.study.plan import Study, axes_of, read_study, row_names
from necklace.study.report import write_report
from necklace.study.table import Layout, latex, layout, markdown, runs_csv


def write_study(archive: Archive, folder: Path) -> Layout:
    """Write all that a study commits: records/, runs.csv, table.md, table.tex, figures/ and report.html.

    Args:
        archive: The study's cells.
        folder: Such as experiments/NAME.

    Returns:
        The table.

    Raises:
        Unfair: The cells differ in more than the axes; then nothing was written.
        ValueError: No finished cell has the study's metric.
    """
    results = analyse(archive)
    table = layout(results)
    folder.mkdir(parents=True, exist_ok=True)
    _sweep(folder)
    write_archive(archive, folder)
    for name, text in _tables(archive, table).items():
        write_whole(folder / name, text)
    write_figures(results, folder / "figures")
    write_report(results, table, folder / "report.html")
    return table


def _tables(archive: Archive, table: Layout) -> dict[str, str]:
    """The tables of a study by file name."""
    return {
        "runs.csv": runs_csv(archive),
        "table.md": markdown(table, archive.name),
        "table.tex": latex(table, archive.name),
    }


def _sweep(folder: Path) -> None:
    """Remove the half-written files of processes that were killed."""
    for path in [*folder.glob(".*.[0-9]*"), *folder.glob("*/.*.[0-9]*")]:
        try:
            os.kill(int(path.suffix[1:]), 0)
        except ProcessLookupError:
            path.unlink(missing_ok=True)
        except (PermissionError, ValueError, OverflowError):  # another user's process, or no file of ours
            continue


def verify(archive: Archive, folder: Path) -> list[str]:
    """Derive tables, figures and the report from the records again, and compare; check the records themselves.

    Pictures are compared by the data they were drawn from, since their bytes depend on matplotlib's version.

    Args:
        archive: What `records/` of the study holds.
        folder: The study's folder.

    Returns:
        A sentence for each difference; none if all is as it should be.

    Raises:
        Unfair: The records differ in more than the axes.
    """
    problems = [f"{cell.cell}: {problem}" for cell in archive.cells for problem in _check_cell(cell)]
    problems += _check_rows(archive)
    listed = {f"{cell.cell}.json" for cell in archive.cells if cell.record} | {"study.json", "costs.json"}
    listed |= {path.name for cell in archive.cells for path in thumbnail_files(folder, cell.cell).values()}
    problems += [
        f"records/{path.name}: belongs to no cell" for path in sorted((folder / "records").iterdir()) if path.name not in listed
    ]
    if (folder / "study.yaml").exists():
        problems += _check_study(archive, read_study(folder / "study.yaml"))
    results = analyse(archive)
    table = layout(results)
    data = figure_data(results)
    expected = _tables(archive, table) | {f"figures/{name}.json": json.dumps(content) for name, content in data.items()}
    there = {str(path.relative_to(folder)) for path in folder.glob("figures/*.json")}
    problems += [f"{name}: no figure of this study" for name in sorted(there - expected.keys())]
    for name, text in expected.items():
        path = folder / name
        if not path.is_file():
            problems.append(f"{name}: is missing")
            continue
        found = path.read_text(encoding="utf-8")
        if path.suffix == ".json":
            found, text = _canonical(found), _canonical(text)
        if found != text:
            problems.append(f"{name}: is not what the records give{_first_difference(found, text)}")
    problems += [f"figures/{name}.png: is missing" for name in data if not (folder / "figures" / f"{name}.png").is_file()]
    report = folder / "report.html"
    if not report.is_file():
        return [*problems, "report.html: is missing"]
    with tempfile.TemporaryDirectory() as scratch:
        again = Path(scratch) / "report.html"
        write_report(results, table, again)
        if _without_drawings(again.read_text(encoding="utf-8")) != _without_drawings(report.read_text(encoding="utf-8")):
            problems.append("report.html: is not what the records give")
    return problems


def _canonical(text: str) -> str:
    """JSON in one spelling; the text itself where it is none."""
    try:
        return json.dumps(json.loads(text), sort_keys=True)
    except json.JSONDecodeError:
        return text


def _check_cell(cell: ArchivedCell) -> list[str]:
    """What does not agree between a cell, its record and its learning curve."""
    record = cell.record
    if record is None:
        return []
    problems = check_record(record)
    if (cell.cell, cell.seed) != (record.cell, record.config["seed"]):
        problems.append(f"is listed as seed {cell.seed}, but its record is of {record.cell}, seed {record.config['seed']}")
    if not 0 <= record.best_epoch < record.epochs:
        problems.append(f"best_epoch is {record.best_epoch} of {record.epochs}")
        return problems
    for name, values in cell.curve.items():
        at_best = values[record.best_epoch] if record.best_epoch < len(values) else None
        if name in ("val/acc", "val/map") and at_best is not None and abs(at_best - record.figures[name]) > 1e-4:
            problems.append(f"{name} is {record.figures[name]}, but {at_best} at its best epoch")
    return problems


def _check_rows(archive: Archive) -> list[str]:
    """Whether the cells of a row are the same run but for the seed, and no other row's."""
    problems = []
    seen: dict[str, str] = {}
    for row, choice in {(cell.row, json.dumps(cell.choice, sort_keys=True)): None for cell in archive.cells}:
        own = [cell.record for cell in archive.cells if (cell.row, json.dumps(cell.choice, sort_keys=True)) == (row, choice)]
        kinds = {hash_identity({**record.identity, "seed": None}) for record in own if record}
        if len(kinds) > 1:
            problems.append(f"row '{row}': its records differ in more than the seed")
        for kind in kinds:
            if seen.setdefault(kind, f"{row} {choice}") != f"{row} {choice}":
                problems.append(f"row '{row}': its records are those of row '{seen[kind].partition(' {')[0]}'")
    return problems


def _check_study(archive: Archive, study: Study) -> list[str]:
    """Whether the records are what study.yaml asks for."""
    problems = []
    asked_for = {name: getattr(study, name) for name in ("question", "baseline", "metric", "same", "tolerance", "overrides")}
    for name, value in (asked_for | {"axes": axes_of(study)}).items():
        if getattr(archive, name) != value:
            problems.append(f"study.yaml: {name} is {value!r}; the records were read with {getattr(archive, name)!r}")
    if "--seeds" not in archive.arguments and archive.seeds != study.seeds:
        problems.append(f"study.yaml: seeds are {list(study.seeds)}; the records have {list(archive.seeds)}")
    asked = set(row_names(study))
    dropped = {row for row in asked if any(f"row '{row}' is the same" in sentence for sentence in archive.dropped)}
    if set(archive.rows) != asked - dropped:
        problems.append(f"study.yaml: rows are {sorted(asked - dropped)}; the records have {sorted(archive.rows)}")
    return problems


def check_record(record: Record) -> list[str]:
    """What does not agree within a record: its hash with its config, its test accuracy with the images it got right."""
    problems = []
    config = dict(_leaves({**record.config, "data": {**record.config["data"], "digest": record.data["digest"]}}))
    # What the identity holds of a weights file is its digest.
    strange = [
        key for key, value in _leaves(record.identity) if key != "backbone.pretrained" and config.get(key, _leaves) != value
    ]
    if strange or hash_identity(record.identity) != record.cell_hash:
        what = f" ({', '.join(strange[:3])})" if strange else ""
        problems.append(f"its config, identity and hash do not belong together{what}")
    if record.test_correct is not None and "test/acc" in record.figures:
        correct = unpack_bits(record.test_correct, record.data["images"]["test"])
        if abs(float(np.mean(correct)) - record.figures["test/acc"]) > 1e-6:
            problems.append(
                f"test/acc is {record.figures['test/acc']}, but {int(correct.sum())} of {len(correct)} images were right"
            )
    return problems


def _leaves(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted key to value, of all that is no mapping."""
    if isinstance(node, dict) and node:
        for key, value in node.items():
            yield from _leaves(value, f"{path}.{key}" if path else str(key))
    else:
        yield path, node


def _first_difference(found: str, expected: str) -> str:
    for number, (mine, theirs) in enumerate(zip(found.splitlines(), expected.splitlines(), strict=False), start=1):
        if mine != theirs:
            at = next((k for k, (a, b) in enumerate(zip(mine, theirs, strict=False)) if a != b), min(len(mine), len(theirs)))
            start = max(0, at - 30)
            return f": line {number} has …{mine[start : at + 30]!r}, not …{theirs[start : at + 30]!r}"
    return ": it is longer or shorter"


def _without_drawings(html: str) -> str:
    """The page without its pictures, whose lines depend on matplotlib's version."""
    return re.sub(r"<svg\b.*?</svg>", "", html, flags=re.DOTALL)


@dataclass(frozen=True)
class Repetition:
    """A cell that was trained again.

    Attributes:
        cell: Its name.
        why_not_bitwise: Why equal weights were not due, or None if they were.
        same_weights: Whether they are equal.
        difference: The largest difference of a figure, or of the study's metric where equal weights were not due.
        holds: Whether the record is confirmed.
    """

    cell: str
    why_not_bitwise: str | None
    same_weights: bool
    difference: float
    holds: bool


def reproduce(
    archive: Archive, count: int, scratch: Path, overrides: Sequence[str], generator: np.random.Generator
) -> list[Repetition]:
    """Train random cells of a study again and compare with their records.

    Args:
        archive: The study's cells.
        count: How many, at most as many as are done.
        scratch: An empty folder for the runs.
        overrides: `data.KEY=VALUE` that differ here, such as `data.root=DIR`.
        generator: Chooses the cells.

    Raises:
        ValueError: There is no finished cell, more are asked for than there are, an override is of another kind, or a cell was
            trained by several processes.
    """
    done = [cell.record for cell in archive.cells if cell.record]
    if not 1 <= count <= len(done):
        raise ValueError(f"--reproduce {count}: must be between 1 and the {len(done)} cells that are done")
    moved = {text.partition("=")[0]: text.partition("=")[2] for text in overrides}
    if not all(key.startswith("data.") for key in moved):
        raise ValueError(f"--reproduce takes data.KEY=VALUE only, such as data.root=DIR, not {' '.join(overrides)}")
    chosen = [done[index] for index in sorted(generator.choice(len(done), count, replace=False).tolist())]
    for record in chosen:
        if record.world_size > 1:
            raise ValueError(f"{record.cell}: {record.world_size} processes trained it; run train.py with its config instead")
    return [_again(record, scratch, moved, archive) for record in chosen]


def _again(record: Record, scratch: Path, moved: dict[str, str], archive: Archive) -> Repetition:
    plain = json.loads(json.dumps(record.config))
    for key, value in moved.items():
        name = key.removeprefix("data.")
        if name not in plain["data"]:
            raise ValueError(f"{key}: data has no such option; it has {', '.join(sorted(plain['data']))}")
        # The config is resolved: what was interpolated from this key, under the same name, holds its old value too.
        plain["data"] = _replaced(plain["data"], name, plain["data"][name], yaml.safe_load(value))
    config = OmegaConf.create(plain | {"outputs": str(scratch), "study": "again", "rerun": False, "logger": None})
    assert isinstance(config, DictConfig)
    threads = torch.get_num_threads()
    torch.set_num_threads(record.device["threads"])  # in how many parts a sum is taken changes its rounding
    try:
        again = run(config, record.choices, [])
    finally:
        torch.set_num_threads(threads)
    if again.cell_hash != record.cell_hash:
        raise ValueError(f"{record.cell}: what was trained is another cell ({again.cell_hash}): is it the same data?")
    why = _why_not_bitwise(record, again)
    names = {archive.metric} if why else record.figures.keys() | again.figures.keys()
    difference = max(abs(record.figures[name] - again.figures[name]) for name in names)
    same = again.weights_hash == record.weights_hash
    holds = difference <= archive.tolerance if why else same and difference == 0
    return Repetition(record.cell, why, same, difference, holds)


def _replaced(node: Any, name: str, old: Any, new: Any) -> Any:
    """A config in which the options of a name that have the old value have the new one."""
    if not isinstance(node, dict):
        return node
    return {key: new if key == name and value == old else _replaced(value, name, old, new) for key, value in node.items()}


def _why_not_bitwise(record: Record, again: Record) -> str | None:
    """Why another run of the cell may come out a little different."""
    for what in ("code", "device", "versions"):
        if getattr(record, what) != getattr(again, what):
            return f"another {what}" if what != "versions" else "other versions"
    return None if record.config["trainer"].get("deterministic") else "trainer.deterministic is off"
