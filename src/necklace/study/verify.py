"""Check a study: derive everything that it committed from its records again, and train some of its cells again."""

import json
import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from omegaconf import OmegaConf

from necklace.cell import cell_identity, hash_identity
from necklace.record import Record, unpack_bits, write_whole
from necklace.run import run
from necklace.study.archive import Archive, write_archive
from necklace.study.figures import figure_data, write_figures
from necklace.study.report import write_report
from necklace.study.results import analyse
from necklace.study.table import Layout, latex, layout, markdown, runs_csv


def write_study(archive: Archive, folder: Path) -> Layout:
    """Write all that a study commits: records/, runs.csv, table.md, table.tex, figures/ and report.html.

    Args:
        archive: The study's cells.
        folder: Such as experiments/NAME.

    Returns:
        The table.

    Raises:
        Unfair: The cells differ in more than the axes; then only `records/` was written.
    """
    write_archive(archive, folder)
    results = analyse(archive)
    table = layout(results)
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


def verify(archive: Archive, folder: Path) -> list[str]:
    """Derive tables and figures from the records again and compare.

    Args:
        archive: What `records/` of the study holds.
        folder: The study's folder.

    Returns:
        A sentence for each difference; none if all is as it should be. Pictures are compared by the data they were drawn from.

    Raises:
        Unfair: The records differ in more than the axes.
    """
    problems = [f"{cell.cell}: {problem}" for cell in archive.cells if cell.record for problem in check_record(cell.record)]
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
            found, text = json.dumps(json.loads(found), sort_keys=True), json.dumps(json.loads(text), sort_keys=True)
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


def check_record(record: Record) -> list[str]:
    """What does not agree within a record: its hash with its config, its test accuracy with the images it got right."""
    problems = []
    identity = cell_identity(record.config, record.data["digest"])
    identity["backbone"]["pretrained"] = record.identity["backbone"]["pretrained"]  # a digest of a file that need not be here
    if identity != record.identity or hash_identity(record.identity) != record.cell_hash:
        problems.append("its config, identity and hash do not belong together")
    if record.test_correct is not None and "test/acc" in record.figures:
        correct = unpack_bits(record.test_correct, record.data["images"]["test"])
        if abs(float(np.mean(correct)) - record.figures["test/acc"]) > 1e-6:
            problems.append(
                f"test/acc is {record.figures['test/acc']}, but {int(correct.sum())} of {len(correct)} images were right"
            )
    return problems


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
        bitwise: Whether equal weights were due: same versions, processor and number of threads.
        same_weights: Whether they are equal.
        difference: The largest difference of a figure, or of the study's metric where equal weights were not due.
        holds: Whether the record is confirmed.
    """

    cell: str
    bitwise: bool
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
        overrides: `key=value` of the config that differ here, such as `data.root=DIR`.
        generator: Chooses the cells.

    Raises:
        ValueError: There is no finished cell, or more are asked for than there are.
    """
    done = [cell.record for cell in archive.cells if cell.record]
    if not 1 <= count <= len(done):
        raise ValueError(f"--reproduce {count}: must be between 1 and the {len(done)} cells that are done")
    chosen = generator.choice(len(done), count, replace=False)
    return [_again(done[index], scratch, overrides, archive) for index in sorted(chosen.tolist())]


def _again(record: Record, scratch: Path, overrides: Sequence[str], archive: Archive) -> Repetition:
    config = OmegaConf.create(record.config)
    config.merge_with_dotlist(list(overrides))
    config.merge_with({"outputs": str(scratch), "study": "again", "rerun": False, "logger": None})
    threads = torch.get_num_threads()
    torch.set_num_threads(record.device["threads"])  # in how many parts a sum is taken changes its rounding
    try:
        again = run(config, record.choices, [])
    finally:
        torch.set_num_threads(threads)
    if again.cell_hash != record.cell_hash:
        raise ValueError(f"{record.cell}: what was trained is another cell ({again.cell_hash}): is it the same data?")
    same_machine = again.device == record.device and again.versions == record.versions
    names = record.figures.keys() | again.figures.keys() if same_machine else {archive.metric}
    difference = max(abs(record.figures[name] - again.figures[name]) for name in names)
    same = again.weights_hash == record.weights_hash
    holds = same and difference == 0 if same_machine else difference <= archive.tolerance
    return Repetition(record.cell, same_machine, same, difference, holds)
