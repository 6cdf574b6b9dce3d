"""A table of any set of runs, from their records alone; a failed run is a row too."""

from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

from rich.table import Table

from necklace.record import Record, read_record


@dataclass(frozen=True)
class Cell:
    """A run's folder with what is in it.

    Attributes:
        folder: The folder.
        record: The record of a finished run.
        failure: The last line of a failed run's traceback.
    """

    folder: Path
    record: Record | None
    failure: str | None


def read_cells(root: Path) -> list[Cell]:
    """Read all runs below a folder, in order of name.

    Args:
        root: A study's folder, such as outputs/demo, or a single run's.

    Returns:
        Finished, failed and unfinished runs; none is left out.

    Raises:
        FileNotFoundError: There is no run below `root`.
        ValueError: A record is damaged.
    """
    cells = []
    for config in sorted(root.rglob("config.yaml")):
        folder = config.parent
        if not any((folder / name).exists() for name in ("record.json", "FAILED", "checkpoints")):
            continue  # another tool's config.yaml, such as one in wandb/
        record = read_record(folder / "record.json") if (folder / "record.json").exists() else None
        failed = folder / "FAILED"
        failure = failed.read_text(encoding="utf-8").strip().splitlines()[-1] if failed.exists() else None
        cells.append(Cell(folder, record, failure))
    if not cells:
        raise FileNotFoundError(f"{root}: holds no runs (folders with a record.json or FAILED)")
    return cells


def run_table(cells: list[Cell], title: str) -> Table:
    """One row for each run: accuracy, parameters, multiply-adds, time."""
    # A study has one task; a set of runs of several tasks shows each run's own metric under the name of both.
    metrics = {_metric(cell.record) for cell in cells if cell.record} or {"acc"}
    shown = "/".join(sorted(metrics))
    table = Table(title=title)
    table.add_column("run", no_wrap=True)
    for header in ("seed", f"test\n{shown} %", f"val\n{shown} %", "params", "of\nneck", "MACs\n(M)", "of\nneck", "fit s"):
        table.add_column(header, justify="right", no_wrap=True)
    for cell, name in run_names(cells):
        if cell.record is None:
            table.add_row(name, "", "FAILED" if cell.failure else "unfinished")
            continue
        record, neck, metric = cell.record, cell.record.cost["neck"], _metric(cell.record)
        names = (f"test/{metric}", f"val/{metric}")
        accuracies = [f"{100 * record.figures[name]:.1f}" if name in record.figures else "-" for name in names]
        table.add_row(
            name,
            str(record.config["seed"]),
            *accuracies,
            f"{record.total('params'):,}",
            f"{neck['params']:,}",
            f"{record.total('macs') / 1e6:.1f}",
            f"{neck['macs'] / 1e6:.2f}",
            f"{record.fit_seconds:.0f}",
        )
    return table


def _metric(record: Record) -> str:
    """The metric that chose the checkpoint: `acc`, or `map` for several labels an image."""
    return "map" if "val/map" in record.figures else "acc"


def run_names(cells: list[Cell]) -> list[tuple[Cell, str]]:
    """Each run with the part of its name in which it differs: finished runs first, from the smallest neck to the largest."""
    names = [_bare_name(cell) for cell in cells]
    words = [name.split("_") for name in names]
    alike = sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, zip(*words, strict=False)))
    start = min(alike, min(map(len, words)) - 1) if len(set(names)) > 1 else 0
    rows = sorted(zip(cells, names, strict=True), key=_by_neck_size)
    return [(cell, "_".join(name.split("_")[start:])) for cell, name in rows]


def _bare_name(cell: Cell) -> str:
    """The folder's name without hash and seed."""
    name = cell.folder.name.rpartition("_")[0] or cell.folder.name
    return name.removesuffix(f"_s{cell.record.config['seed']}") if cell.record else name


def _by_neck_size(row: tuple[Cell, str]) -> tuple[bool, int, str, int]:
    """Finished runs first, from the smallest neck to the largest."""
    record, name = row[0].record, row[1]
    if record is None:
        return True, 0, name, 0
    return False, record.cost["neck"]["params"], name, record.config["seed"]
