"""A set of runs that no study.yaml asked for, read as a study: runs that differ in nothing but the seed are a row."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import takewhile
from pathlib import Path
from typing import Any

from necklace.identity import SAID, hash_identity, leaves, short_key, shown
from necklace.record import Record
from necklace.run.folder import RunFolder
from necklace.seeding import without_seed
from necklace.study.excerpts import read_curve, read_knockout, read_pictures
from necklace.study.metrics import METRICS
from necklace.study.store import StudyInfo, StudyRecords, StudyRun, found_evidence, or_aside


def study_of_runs(root: Path, metric: str | None) -> StudyRecords:
    """Read all runs below a folder.

    Args:
        root: Such as outputs/runs, or a single run's folder.
        metric: Name of a metric of the records; None for the first of `METRICS` that one has.

    Returns:
        The runs as a study without baseline: finished ones from the smallest neck to the largest, then failed and unfinished
        ones; none is left out.

    Raises:
        FileNotFoundError: There is no run below `root`.
        ValueError: None of the records has the metric.
    """
    names = ("record.json", "FAILED", "code")  # W&B has folders of that name
    paths = sorted({path.parent for name in names for path in root.rglob(name) if path.is_file()})
    if not paths:
        raise FileNotFoundError(f"{root}: holds no runs (folders with a record.json or FAILED)")
    folders = [RunFolder(path) for path in paths]
    records: dict[Path, Record] = {}
    aside: dict[Path, str] = {}
    for folder in folders:
        try:
            if record := folder.record():
                records[folder.path] = record
        except (ValueError, OSError) as error:
            aside[folder.path] = " ".join(str(error).split())
    measured = {name for record in records.values() for name in record.metrics}
    metric = metric or next((name for name in METRICS if name in measured), METRICS[0])
    if records and metric not in measured:
        raise ValueError(f"{root}: no run has the metric {metric}; there are: {', '.join(sorted(measured))}")
    rows = _row_names(paths, records)
    runs = [_run(folder, rows[folder.path], records.get(folder.path), aside.get(folder.path)) for folder in folders]
    runs.sort(key=_by_neck_size)
    info = StudyInfo(
        name=root.name,
        question="",
        baseline=None,
        metric=metric,
        rows=tuple(dict.fromkeys(run.row for run in runs)),
        seeds=tuple(sorted({run.seed for run in runs})),
    )
    return StudyRecords(info, tuple(runs), {})


def _run(folder: RunFolder, row: str, record: Record | None, problem: str | None) -> StudyRun:
    if record:
        run = StudyRun(row, record.config["seed"], {}, folder.name, "done", None, record)
        files = {"curve": lambda: read_curve(folder.path), "pictures": lambda: read_pictures(folder.path)}
        files["knockout"] = lambda: read_knockout(folder.path, record)
        files["evidence"] = lambda: found_evidence(record, folder.evidence_path)
        return or_aside(run, lambda: replace(run, **{name: read() for name, read in files.items()}))
    if problem:
        return StudyRun(row, _seed_of(folder.path), {}, folder.name, "damaged", problem, None)
    failure = folder.failure()
    return StudyRun(row, _seed_of(folder.path), {}, folder.name, "failed" if failure else "missing", failure, None)


def _row_names(folders: list[Path], records: dict[Path, Record]) -> dict[Path, str]:
    """Each folder's row: for finished runs what tells them apart, for others the same or what is particular in their name."""
    kinds = {folder: hash_identity(without_seed(record.identity)) for folder, record in records.items()}
    first = {kind: records[folder] for folder, kind in reversed(kinds.items())}
    names = dict(zip(first, _apart(list(first.values())), strict=True))
    bare = {folder: _bare_name(folder) for folder in folders}
    words = {name: name.split("_") for name in bare.values()}
    alike = sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, zip(*words.values(), strict=False)))
    start = min(alike, min(map(len, words.values())) - 1) if len(words) > 1 else 0
    by_label = {bare[folder]: names[kind] for folder, kind in kinds.items()}
    return {
        folder: names[kinds[folder]] if folder in kinds else by_label.get(name, "_".join(words[name][start:]))
        for folder, name in bare.items()
    }


def _apart(records: Sequence[Record]) -> list[str]:
    """A name for each of some records of different identities: its neck, and all in which it differs from another of them."""
    chosen = [_choices(record) for record in records]
    options = [_options(record) for record in records]
    found = []
    for own, values in zip(chosen, options, strict=True):
        words = [f"{group}={own[group]}" for group in own if group != "neck" and _vary(group, chosen)]
        # An option is compared with those of the same choice: other necks have other options.
        rivals = {group: [v for c, v in zip(chosen, options, strict=True) if c.get(group) == own[group]] for group in own}
        varying = [key for key in values if _vary(key, rivals.get(_group(key, own), options))]
        varying.sort(key=lambda key: not key.startswith("neck."))
        words = [f"{short_key(key)}={shown(values[key])}" for key in varying if key.startswith("neck.")] + words
        words += [f"{short_key(key)}={shown(values[key])}" for key in varying if not key.startswith("neck.")]
        found.append(", ".join([own["neck"], *words]))
    # What is left differs in the content of its files alone.
    return [
        f"{name}, data {found[:number].count(name) + 1}" if found.count(name) > 1 else name for number, name in enumerate(found)
    ]


def _choices(record: Record) -> dict[str, str]:
    """Config group to its choice, or to the network's name where the config has one, which the choice may belie."""
    place = {name: number for number, name in enumerate(record.config)}  # choices come in no order of their own
    known = sorted(
        (group for group in record.choices if group.partition("/")[0] in record.identity),
        key=lambda g: (place[g.partition("/")[0]], g),
    )
    named = {group: (record.config.get(group) or {}).get("name") for group in known}
    return {group: str(named[group] or record.choices[group]) for group in known}


def _group(key: str, choices: Mapping[str, str]) -> str:
    """The config group that an option belongs to, the innermost one."""
    parts = key.split(".")
    inner = "/".join(parts[:2])
    return inner if inner in choices else parts[0]


def _vary(key: str, among: Sequence[Mapping[str, Any]]) -> bool:
    """Whether an option is not the same everywhere."""
    return any(values.get(key) != among[0].get(key) for values in among)


def _options(record: Record) -> dict[str, Any]:
    """A record's options that make another run: those of its identity, and what stands behind the digests of its files."""
    identity = {name: value for name, value in record.identity.items() if name != "seed"}
    for group, names in SAID.items():
        behind = {name: value for name, value in record.config[group].items() if name in names}
        identity[group] = {name: value for name, value in identity[group].items() if name != "digest"} | behind
    found = leaves(identity)
    data = record.config["data"]
    # What follows from another option is not said twice.
    return {key: value for key, value in found.items() if key.count(".") < 2 or data.get(key.rpartition(".")[2]) != value}


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
