"""A set of runs that no study.yaml asked for, seen as a study: all that differ in nothing but the seed are a row."""

from itertools import takewhile
from pathlib import Path

from necklace.cell import hash_identity
from necklace.record import Record, read_record
from necklace.study.archive import Archive, ArchivedCell, read_curve, read_pictures
from necklace.study.states import read_failure


def archive_of_runs(root: Path, metric: str) -> Archive:
    """Read all runs below a folder.

    Args:
        root: Such as outputs/demo, or a single run's folder.
        metric: Name of a figure of the records.

    Returns:
        The runs as an archive without baseline: finished ones from the smallest neck to the largest, then failed and unfinished
        ones; none is left out.

    Raises:
        FileNotFoundError: There is no run below `root`.
        ValueError: A record is damaged, or none has the metric.
    """
    names = ("record.json", "FAILED", "code")  # W&B has folders of that name
    folders = sorted({path.parent for name in names for path in root.rglob(name) if path.is_file()})
    if not folders:
        raise FileNotFoundError(f"{root}: holds no runs (folders with a record.json or FAILED)")
    records = {folder: read_record(folder / "record.json") for folder in folders if (folder / "record.json").exists()}
    if records and not any(metric in record.figures for record in records.values()):
        known = sorted({name for record in records.values() for name in record.figures})
        raise ValueError(f"{root}: no run has the metric {metric}; there are: {', '.join(known)}")
    names = _row_names(folders, records)
    cells = []
    for folder in folders:
        record = records.get(folder)
        failure = read_failure(folder) if (folder / "FAILED").exists() and not record else None
        state = "done" if record else "failed" if failure else "missing"
        seed = record.config["seed"] if record else _seed_of(folder)
        curve = read_curve(folder) if record else {}
        pictures = read_pictures(folder) if record else {}
        cells.append(ArchivedCell(names[folder], seed, {}, folder.name, state, failure, record, curve, pictures))
    cells.sort(key=_by_neck_size)
    return Archive(
        name=root.name,
        question="",
        baseline=None,
        metric=metric,
        rows=tuple(dict.fromkeys(cell.row for cell in cells)),
        seeds=tuple(sorted({cell.seed for cell in cells})),
        overrides=(),
        axes=None,
        same=None,
        controls={},
        tolerance=0.0,
        allow=(),
        arguments=(),
        dropped=(),
        cells=tuple(cells),
        costs={},
    )


def _row_names(folders: list[Path], records: dict[Path, Record]) -> dict[Path, str]:
    """Each folder's row: the part of the name in which rows differ, and the hash where that does not tell them apart."""
    bare = {folder: _bare_name(folder) for folder in folders}
    words = {name: name.split("_") for name in bare.values()}
    alike = sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, zip(*words.values(), strict=False)))
    start = min(alike, min(map(len, words.values())) - 1) if len(words) > 1 else 0
    short = {folder: "_".join(words[name][start:]) for folder, name in bare.items()}
    rows = {folder: hash_identity({**record.identity, "seed": None}) for folder, record in records.items()}
    by_name: dict[str, set[str]] = {}
    for folder, row in rows.items():
        by_name.setdefault(short[folder], set()).add(row)
    unclear = {name for name, own in by_name.items() if len(own) > 1}
    return {
        folder: f"{name} ({rows[folder][:4]})" if name in unclear and folder in rows else name for folder, name in short.items()
    }


def _bare_name(folder: Path) -> str:
    """The folder's name without seed and hash."""
    return (folder.name.rpartition("_")[0] or folder.name).rpartition("_s")[0] or folder.name


def _seed_of(folder: Path) -> int:
    digits = (folder.name.rpartition("_")[0]).rpartition("_s")[2]
    return int(digits) if digits.isdigit() else 0


def _by_neck_size(cell: ArchivedCell) -> tuple[bool, int, str, int]:
    if cell.record is None:
        return True, 0, cell.row, cell.seed
    return False, cell.record.cost["neck"]["params"], cell.row, cell.seed
