"""A set of runs that no study.yaml asked for, read as a study: runs that differ in nothing but the seed are a row."""

from itertools import takewhile
from pathlib import Path

from necklace.identity import hash_identity
from necklace.record import Record
from necklace.run.folder import RunFolder
from necklace.study.excerpts import read_curve, read_pictures
from necklace.study.store import StudyInfo, StudyRecords, StudyRun


def study_of_runs(root: Path, metric: str) -> StudyRecords:
    """Read all runs below a folder.

    Args:
        root: Such as outputs/runs, or a single run's folder.
        metric: Name of a metric of the records.

    Returns:
        The runs as a study without baseline: finished ones from the smallest neck to the largest, then failed and unfinished
        ones; none is left out.

    Raises:
        FileNotFoundError: There is no run below `root`.
        ValueError: A record is damaged, or none has the metric.
    """
    names = ("record.json", "FAILED", "code")  # W&B has folders of that name
    paths = sorted({path.parent for name in names for path in root.rglob(name) if path.is_file()})
    if not paths:
        raise FileNotFoundError(f"{root}: holds no runs (folders with a record.json or FAILED)")
    folders = [RunFolder(path) for path in paths]
    records = {folder.path: record for folder in folders if (record := folder.record())}
    if records and not any(metric in record.metrics for record in records.values()):
        known = sorted({name for record in records.values() for name in record.metrics})
        raise ValueError(f"{root}: no run has the metric {metric}; there are: {', '.join(known)}")
    rows = _row_names(paths, records)
    runs = sorted((_run(folder, rows[folder.path], records.get(folder.path)) for folder in folders), key=_by_neck_size)
    info = StudyInfo(
        name=root.name,
        question="",
        baseline=None,
        metric=metric,
        rows=tuple(dict.fromkeys(run.row for run in runs)),
        seeds=tuple(sorted({run.seed for run in runs})),
    )
    return StudyRecords(info, tuple(runs), {})


def _run(folder: RunFolder, row: str, record: Record | None) -> StudyRun:
    if record:
        pictures = read_pictures(folder.path)
        return StudyRun(row, record.config["seed"], {}, folder.name, "done", None, record, read_curve(folder.path), pictures)
    failure = folder.failure()
    return StudyRun(row, _seed_of(folder.path), {}, folder.name, "failed" if failure else "missing", failure, None)


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


def _by_neck_size(run: StudyRun) -> tuple[bool, int, str, int]:
    if run.record is None:
        return True, 0, run.row, run.seed
    return False, run.record.cost["neck"]["params"], run.row, run.seed
