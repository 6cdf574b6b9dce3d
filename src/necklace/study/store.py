"""What a study keeps in version control: records/, from which every number and figure of it can be derived again.

`records/RUN.json` is a run's record with its learning curve, the numbers of its pictures and its knockout;
`records/RUN.NAME.png` are thumbnails of the pictures of each row's first run; `records/RUN.evidence.npz` is what a run's
metrics come from, where the record alone does not say; `records/study.json` says which runs there are, whether they finished,
and how they are to be read; `records/costs.json` holds the speeds that were measured at the end; `records/rules.json` says
what decides. Results that study.yaml no longer asks for lie in `records/retired/` until it asks for them again.
"""

import json
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from fnmatch import fnmatchcase
from functools import partial
from glob import escape
from pathlib import Path
from typing import Any

from necklace.atomic import write_changed
from necklace.guard.links import check_no_link
from necklace.guard.names import check_listed
from necklace.identity import hash_of_name
from necklace.migrations import LAYOUT, migrated_study
from necklace.record import Record, check_file_of_evidence, checked, parse_record, read_json
from necklace.study.costs import read_costs, write_costs
from necklace.study.excerpts import SHOWN, Curve, known_knockout
from necklace.study.rules import FILE, Rules, read_rules, write_rules

RETIRED = "retired"


@dataclass(frozen=True)
class StudyRun:
    """One run of a study.

    Attributes:
        row: Name of its row.
        seed: Its seed.
        choice: Option to the value that was tried with it, where the study chooses.
        name: Name of its folder and its record.
        state: `done`, `stale`, `failed`, `running`, `missing`, or `damaged`: set aside, as its record cannot be used.
        failure: Why it failed, or what is wrong with its record, in a line.
        record: Of a done or stale run.
        curve: Its learning curve, such as `{"epoch": [0, 1], "val/acc": [0.3, 0.5]}`; empty without a record.
        pictures: `receptive_field` and `contributions` as in its pictures.json; empty if it was not asked for pictures.
        knockout: As in its knockout.json; empty if nobody asked for it.
        thumbnails: Name of a picture to a small PNG, of the first run of a row that has pictures.
        evidence: The file that the record's evidence names, in the run's folder or in `records/`; None where it names none.
        again: Of a stale run that was trained again with other code: the digest of that `code`, its `commit`, empty where it
            is not known, the `weights` that were compared, and whether it gave `equal` ones, `yes` or `no`. Empty for others.
    """

    row: str
    seed: int
    choice: dict[str, Any]
    name: str
    state: str
    failure: str | None
    record: Record | None
    curve: Curve = field(default_factory=dict)
    pictures: dict[str, Any] = field(default_factory=dict)
    knockout: dict[str, Any] = field(default_factory=dict)
    thumbnails: dict[str, bytes] = field(default_factory=dict)
    evidence: Path | None = None
    again: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class StudyInfo:
    """What a study is and how its runs are to be read.

    Attributes:
        name: The study's name.
        question: In the author's words.
        baseline: Name of a row, or None where the runs are just a set.
        metric: Name of a metric of the records.
        rows: Names, in order.
        seeds: In order.
        overrides: Hydra overrides of every run, as study.yaml has them.
        axes: Config keys that may differ between runs, or None where nothing was declared.
        same: Two rows that compute the same, or None.
        controls: Row whose width was matched to a neck's size to what was matched, `params` or `macs`.
        tolerance: Largest difference of the metric when a run is trained again on another machine.
        allow: Fields that may differ besides the axes.
        arguments: What the command was given beside the study's name, such as overrides, `--seeds 5`, `--allow FIELD`.
        dropped: Sentences about rows that were asked for twice.
    """

    name: str
    question: str
    baseline: str | None
    metric: str
    rows: tuple[str, ...]
    seeds: tuple[int, ...]
    overrides: tuple[str, ...] = ()
    axes: tuple[str, ...] | None = None
    same: tuple[str, str] | None = None
    controls: dict[str, str] = field(default_factory=dict)
    tolerance: float = 0.0
    allow: tuple[str, ...] = ()
    arguments: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()


@dataclass(frozen=True)
class StudyRecords:
    """A study's runs, all that its tables and figures are made from.

    Attributes:
        info: What the study is.
        runs: Row by row.
        costs: Row to `latency_ms`, `train_images_per_s`, `peak_memory_mib`, and the conditions.
        rules: What decides, and all that was ever compared; None where nothing is decided.
    """

    info: StudyInfo
    runs: tuple[StudyRun, ...]
    costs: dict[str, dict[str, Any]]
    rules: Rules | None = None


@dataclass(frozen=True)
class _Entry:
    """A run's line in study.json."""

    row: str
    seed: int
    choice: dict[str, Any]
    name: str
    state: str
    failure: str | None
    again: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _Kept:
    """A run's file in records/, but for the record, which has its own reader."""

    record: dict[str, Any]
    curve: Curve
    pictures: dict[str, Any]
    knockout: dict[str, Any] = field(default_factory=dict)


_COMPACT: Mapping[str, Any] = {"separators": (",", ":"), "sort_keys": True, "allow_nan": False}


def write_records(study: StudyRecords, folder: Path) -> list[str]:
    """Write `records/` of a study's folder: every file whole, those that are as they should be untouched.

    Args:
        study: What to write.
        folder: Such as experiments/NAME. Files of runs that the study no longer asks for move to `records/retired/`.

    Returns:
        Names of the runs that were retired.
    """
    records = folder / "records"
    check_no_link(records, records / RETIRED)
    records.mkdir(parents=True, exist_ok=True)
    runs = []
    wanted = {"study.json", FILE, *(["costs.json"] if study.costs else [])}
    for run in study.runs:
        runs.append({name: getattr(run, name) for name in ("row", "seed", "choice", "name", "state", "failure")})
        runs[-1] |= {"again": run.again} if run.again else {}
        if run.record:
            wanted.add(f"{run.name}.json")
            parts = {"record": asdict(run.record), "curve": run.curve, "pictures": run.pictures}
            parts |= {"knockout": run.knockout} if run.knockout else {}
            write_changed(records / f"{run.name}.json", json.dumps(parts, **_COMPACT) + "\n")
        if run.evidence:
            wanted.add(evidence_file(records, run.name).name)
            write_changed(evidence_file(records, run.name), run.evidence.read_bytes())
        for name, content in run.thumbnails.items():
            wanted.add(f"{run.name}.{name}.png")
            write_changed(records / f"{run.name}.{name}.png", content)
    if study.costs:
        write_costs(study.costs, folder)
    if study.rules:
        write_rules(study.rules, folder)
    content = {"layout": LAYOUT, **asdict(study.info), "runs": runs}
    write_changed(records / "study.json", json.dumps(content, indent=1, allow_nan=False) + "\n")
    kept = [path for kind in ("json", "png", "npz") for path in records.glob(f"*.{kind}")]
    retired = [path for path in kept if path.name not in wanted]
    _move(retired, records / RETIRED)
    for path in (records / RETIRED).glob("*"):
        if path.name in wanted:  # what it holds is in records/ again
            path.unlink()
    return sorted(path.stem for path in retired if path.suffix == ".json" and path.name != "costs.json")


def _move(paths: Iterable[Path], folder: Path) -> None:
    for path in paths:
        folder.mkdir(exist_ok=True)
        os.replace(path, folder / path.name)


def read_info(folder: Path) -> tuple[StudyInfo, list[StudyRun]]:
    """Read `records/study.json`: what the study is, and its runs without what their own files hold.

    Raises:
        FileNotFoundError: The study has no records.
        ValueError: The file is not what `write_records` writes.
    """
    path = folder / "records" / "study.json"
    if not path.is_file():
        raise FileNotFoundError(f"{path}: the study has no records yet; run it first")
    content = dict(migrated_study(read_json(path), path))
    del content["layout"]
    entries = content.pop("runs", None)
    if not isinstance(entries, list):
        raise ValueError(f"{path}: runs: must be a list")
    runs = [checked(_Entry, entry, path, f"runs.{number}") for number, entry in enumerate(entries)]
    for run in runs:
        check_listed(run.name, run.row, path)
    tuples = {name: tuple(value) if isinstance(value, list) else value for name, value in content.items()}
    return checked(StudyInfo, tuples, path), [StudyRun(**asdict(entry), record=None) for entry in runs]


def read_records(folder: Path) -> StudyRecords:
    """Read `records/` of a study's folder strictly. A run whose own file is damaged, or not there, is set aside.

    Raises:
        FileNotFoundError: The study has no records.
        ValueError: `study.json`, `costs.json` or `rules.json` is not what `write_records` writes.
    """
    info, runs = read_info(folder)
    found = tuple(or_aside(run, partial(with_record, run, folder)) if run.state in ("done", "stale") else run for run in runs)
    return StudyRecords(info, found, read_costs(folder), read_rules(folder))


def with_record(run: StudyRun, folder: Path) -> StudyRun:
    """A run of a study's folder with what its own file in `records/` holds.

    Raises:
        FileNotFoundError: The file is not there.
        ValueError: It is not what `write_records` writes.
    """
    path = folder / "records" / f"{run.name}.json"
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: the study says that this run is {run.state}, but its record is not there; bring it back "
            f"(git checkout), or remove {path.parent}: what outputs/ holds is not trained again"
        )
    return _filled(run, path)


def or_aside(run: StudyRun, read: Callable[[], StudyRun]) -> StudyRun:
    """What `read` gives; where a file of the run is damaged or not there, the run alone, set aside."""
    try:
        return read()
    except (ValueError, OSError) as error:
        return replace(run, state="damaged", failure=" ".join(str(error).split()), record=None, again={})


def _filled(run: StudyRun, path: Path) -> StudyRun:
    kept = checked(_Kept, read_json(path), path)
    thumbnails = {name: file.read_bytes() for name, file in thumbnail_files(path.parent, run.name).items()}
    record = parse_record(kept.record, path)
    if run.name != record.name and record.hash != hash_of_name(run.name):
        raise ValueError(f"{path}: is the record of another run, {record.name}")
    evidence = found_evidence(record, evidence_file(path.parent, run.name))
    knockout = known_knockout(kept.knockout, record, path) if kept.knockout else {}
    own = {"curve": kept.curve, "pictures": kept.pictures, "knockout": knockout}
    return replace(run, record=record, **own, thumbnails=thumbnails, evidence=evidence)


def evidence_file(records: Path, run: str) -> Path:
    """The file of a run's evidence in a folder of records."""
    return records / f"{run}.evidence.npz"


def found_evidence(record: Record, path: Path) -> Path | None:
    """The file of a record's evidence; None where the record names none.

    Raises:
        FileNotFoundError: The record names some, and it is not there.
        ValueError: It is another file.
    """
    check_file_of_evidence(record, path)
    return None if record.evidence is None else path


def retired_runs(folder: Path) -> dict[str, Path]:
    """Hash to the file in `records/retired/` of each run that study.yaml once asked for."""
    return {hash_of_name(path.stem): path for path in sorted((folder / "records" / RETIRED).glob("*.json"))}


def read_retired(path: Path) -> StudyRun:
    """A retired run; its row is the one that it is asked for again under, so it is left empty.

    Raises:
        ValueError: The file is not what `write_records` wrote.
    """
    run = _filled(StudyRun("", 0, {}, path.stem, "done", None, None), path)
    assert run.record is not None
    return replace(run, seed=run.record.config["seed"])


def thumbnail_files(records: Path, run: str) -> dict[str, Path]:
    """Name of a picture to the file of its thumbnail, of one run in a folder of records, in the order of `SHOWN`."""
    start = f"{run}."
    found = {path.stem.removeprefix(start): path for path in sorted(records.glob(f"{escape(start)}*.png"))}
    return {name: found[name] for pattern in SHOWN for name in found if fnmatchcase(name, pattern)}
