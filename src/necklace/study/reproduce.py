"""Train some of a study's runs again and compare them with their records."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from necklace.code_version import code_version, version_digest
from necklace.guard.interpolations import check_resolved
from necklace.guard.plain_yaml import parsed_yaml
from necklace.guard.private import with_home
from necklace.guard.targets import check_training_targets
from necklace.identity import check_identity
from necklace.record import Record
from necklace.run.runner import run
from necklace.source_code import PACKAGE
from necklace.spec import run_spec
from necklace.study.store import StudyRecords, StudyRun

OTHER_CODE = "another code"


@dataclass(frozen=True)
class Repetition:
    """A run that was trained again.

    Attributes:
        name: Its name.
        why_not_bitwise: Why equal weights were not due, or None if they were.
        same_weights: Whether they are equal.
        difference: The largest difference of a metric, or of the study's metric where equal weights were not due.
        holds: Whether the record is confirmed.
        equal: Whether weights and all metrics that both records have are equal.
        record: What the training gave.
    """

    name: str
    why_not_bitwise: str | None
    same_weights: bool
    difference: float
    holds: bool
    equal: bool
    record: Record


def reproduce(
    study: StudyRecords,
    count: int,
    scratch: Path,
    overrides: Sequence[str],
    generator: np.random.Generator,
    trust: Sequence[Path] = (),
) -> Iterator[Repetition]:
    """Train random runs of a study again and compare with their records.

    Args:
        study: The study's runs.
        count: How many, at most as many as are done.
        scratch: An empty folder for the runs.
        overrides: `data.KEY=VALUE` that differ here, such as `data.root=DIR`.
        generator: Chooses the runs.
        trust: Folders whose Python files may run.

    Returns:
        The runs, each trained when it is asked for.

    Raises:
        ValueError: There is no finished run, more are asked for than there are, an override is of another kind, a run was
            trained by several processes, or a record names a class that may not run, or is not what its hash was taken over.
    """
    done = [run.record for run in study.runs if run.record]
    if not 1 <= count <= len(done):
        raise ValueError(f"--reproduce {count}: must be between 1 and the {len(done)} runs that are done")
    moved = {text.partition("=")[0]: text.partition("=")[2] for text in overrides}
    if not all(key.startswith("data.") for key in moved):
        raise ValueError(f"--reproduce takes data.KEY=VALUE only, such as data.root=DIR, not {' '.join(overrides)}")
    for record in done:
        if study.info.metric not in record.metrics:
            raise ValueError(f"{record.name}: has no {study.info.metric}; --table with another metric, or --rerun-stale, first")
    chosen = [done[index] for index in sorted(generator.choice(len(done), count, replace=False).tolist())]
    for record in chosen:
        if record.world_size > 1:
            raise ValueError(f"{record.name}: {record.world_size} processes trained it; run train.py with its config instead")
        check_identity(record.config, record.identity, record.data["digest"], record.hash, record.name)
        config = _config_of(record)
        check_resolved(config)
        check_training_targets(config, trust)
    return (_again(record, scratch, moved, study) for record in chosen)


def _again(record: Record, scratch: Path, moved: dict[str, str], study: StudyRecords) -> Repetition:
    config = _config_of(record)
    for key, value in moved.items():
        name = key.removeprefix("data.")
        if name not in config["data"]:
            raise ValueError(f"{key}: data has no such option; it has {', '.join(sorted(config['data']))}")
        # The config is resolved: what was interpolated from this key, under the same name, holds its old value too.
        config["data"] = _replaced(config["data"], name, config["data"][name], parsed_yaml(value))
    spec = run_spec(config | {"outputs": str(scratch)}, record.choices, [])
    if spec.hash != record.hash:
        raise ValueError(f"{record.name}: what would be trained is another run ({spec.hash}): is it the same data?")
    threads = torch.get_num_threads()
    torch.set_num_threads(record.device["threads"])  # in how many parts a sum is taken changes its rounding
    try:
        again = run(spec)
    finally:
        torch.set_num_threads(threads)
    why = _why_not_bitwise(record, again)
    names = {study.info.metric} if why else record.metrics.keys() | again.metrics.keys()
    difference = max(abs(record.metrics[name] - again.metrics[name]) for name in names)
    same = again.weights_hash == record.weights_hash
    holds = difference <= study.info.tolerance if why else same and difference == 0
    both = record.metrics.keys() & again.metrics.keys()
    equal = same and all(record.metrics[name] == again.metrics[name] for name in both)
    return Repetition(record.name, why, same, difference, holds, equal, again)


def with_repetitions(study: StudyRecords, repetitions: Sequence[Repetition]) -> StudyRecords:
    """The study with what repetitions say of runs that other code trained: whether today's gives equal weights, bit for bit.

    What was found earlier with code that is not today's is left out, and runs of code that is not there are left as they are.
    Other weights on another device, or with other versions, say nothing. Without such repetitions the study is as it was.
    """
    repeated = {each.name: each for each in repetitions if each.why_not_bitwise == OTHER_CODE}
    return replace(study, runs=tuple(_told(run, repeated) for run in study.runs)) if repeated else study


def _told(run: StudyRun, repeated: Mapping[str, Repetition]) -> StudyRun:
    """A run with what a repetition of it says."""
    record = run.record
    today = _code_of(record) if record else None
    if record is None or today is None:
        return run
    if record.code == today:
        return replace(run, state="done", again={})
    code, each = version_digest(today), repeated.get(record.name)
    if each is None:
        return replace(run, state="stale", again=run.again if run.again.get("code") == code else {})
    if not each.equal and (each.record.device, each.record.versions) != (record.device, record.versions):
        return replace(run, state="stale", again={})
    git = each.record.git
    commit = git["sha"] if git and not git["dirty"] else ""
    again = {"code": code, "commit": commit, "weights": record.weights_hash, "equal": "yes" if each.equal else "no"}
    return replace(run, state="stale", again=again)


def _code_of(record: Record) -> dict[str, str] | None:
    """The code that would train a run today; None where a module of the user's is not to be found, or cannot be read."""
    try:
        today = code_version(record.config)
    except SyntaxError:
        return None
    lost = [name for name in record.code.keys() - today.keys() if name.partition(".")[0] != PACKAGE]
    return None if lost else today


def _config_of(record: Record) -> dict[str, Any]:
    """A record's config, to be trained again: without its loggers, and with paths that are of this machine."""
    config = json.loads(json.dumps(record.config))
    config["callbacks"] = {**config.get("callbacks", {}), "knockout": False}  # which takes time and is not compared
    return with_home(config | {"study": "again", "rerun": False, "logger": None})


def _replaced(node: Any, name: str, old: Any, new: Any) -> Any:
    """A config in which the options of a name that have the old value have the new one."""
    if not isinstance(node, dict):
        return node
    return {key: new if key == name and value == old else _replaced(value, name, old, new) for key, value in node.items()}


def _why_not_bitwise(record: Record, again: Record) -> str | None:
    """Why another training of the run may come out a little different."""
    for what in ("code", "device", "versions"):
        if getattr(record, what) != getattr(again, what):
            return OTHER_CODE if what == "code" else f"another {what}" if what != "versions" else "other versions"
    return None if record.config["trainer"].get("deterministic") else "trainer.deterministic is off"
