"""The runs of a plan as the study keeps them: from outputs/, else from records/, else from records/retired/."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from necklace.code_version import version_digest
from necklace.guard.private import scrubbed
from necklace.identity import check_identity, hash_of_name
from necklace.study.excerpts import read_curve, read_knockout, read_pictures, read_thumbnails
from necklace.study.metrics import default_margin
from necklace.study.plan import Plan, PlannedRun
from necklace.study.rules import Asked, Rules, Setting, dropped_runs, kind_of, read_rules, updated
from necklace.study.status import RunStatus, StatusReader
from necklace.study.store import (
    StudyInfo,
    StudyRun,
    found_evidence,
    or_aside,
    read_info,
    read_retired,
    retired_runs,
    with_record,
)


class Kept:
    """Results that a study's folder holds, each read when it is asked for.

    They stand for runs that are not in outputs/ here, such as those of a colleague's machine.

    Attributes:
        info: What the study was when they were written, or None where there are none.
        problem: What is wrong with study.json, which is then passed over and written anew; None if nothing is.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.info: StudyInfo | None = None
        self.problem: str | None = None
        self._listed: dict[str, StudyRun] = {}
        if (folder / "records" / "study.json").exists():
            try:
                self.info, runs = read_info(folder)
            except ValueError as error:
                self.problem, names = str(error), (path.stem for path in sorted((folder / "records").glob("*_*.json")))
                runs = [StudyRun("", 0, {}, name, "done", None, None) for name in names]
            self._listed = {hash_of_name(run.name): run for run in runs if run.state in ("done", "stale")}
        self._retired = retired_runs(folder)
        self._read: dict[str, StudyRun] = {}

    @property
    def listed(self) -> dict[str, StudyRun]:
        """Hash to each finished run that study.json lists, without its record."""
        return self._listed

    def __contains__(self, run_hash: str) -> bool:
        return run_hash in self._listed or run_hash in self._retired

    def get(self, run_hash: str) -> StudyRun | None:
        """A result with its record, or None; without a record where that is damaged, which the run's `failure` says."""
        if run_hash not in self._read and run_hash in self:
            listed = self._listed.get(run_hash)
            if listed:
                self._read[run_hash] = or_aside(listed, lambda: _checked(with_record(listed, self.folder), self.folder))
            else:
                path = self._retired[run_hash]
                empty = StudyRun("", 0, {}, path.stem, "done", None, None)
                self._read[run_hash] = or_aside(empty, lambda: _checked(read_retired(path), self.folder))
        return self._read.get(run_hash)


def _checked(run: StudyRun, folder: Path) -> StudyRun:
    """A kept result whose record's config is what its hash was taken over.

    Raises:
        ValueError: It is not.
    """
    if record := run.record:
        where = str(folder / "records" / run.name)
        check_identity(record.config, record.identity, record.data["digest"], record.hash, where)
    return run


def collect(plan: Plan, status: StatusReader, kept: Kept, refused: Mapping[str, str] | None = None) -> tuple[StudyRun, ...]:
    """The runs of a plan with all that the study keeps of them.

    Args:
        plan: The study's runs.
        status: What exists of them here.
        kept: What the study's folder holds.
        refused: A run's hash to a sentence, of the runs that could not begin.
    """
    illustrated: set[str] = set()
    runs = []
    for planned, found in zip(plan.runs, status.all(), strict=True):
        run = _collected(planned, found, kept, planned.row not in illustrated)
        if run.state == "missing" and refused and planned.spec.hash in refused:
            run = replace(run, failure=scrubbed(" ".join(refused[planned.spec.hash].split())))
        illustrated |= {run.row} if run.thumbnails else set()
        runs.append(run)
    return tuple(runs)


def rules_now(plan: Plan, status: StatusReader, folder: Path) -> Rules:
    """By which rule a study decides now, and all that it has ever compared.

    Args:
        plan: The study's runs.
        status: What exists of them here.
        folder: The study's folder, with what it holds of earlier results.

    Raises:
        ValueError: `records/rules.json` is damaged.
    """
    here = {run.spec.hash for run, found in zip(plan.runs, status.all(), strict=True) if found.record}
    files = [*(folder / "records").glob("*_*.json"), *(folder / "records" / "retired").glob("*_*.json")]
    before = read_rules(folder) or Rules()
    file = plan.file
    rule = file.rule or (before.settings[-1].rule if before.settings else "fixed")
    margin = default_margin(plan.metric) if file.margin is None else file.margin
    rows = {row: [run for run in plan.runs if run.row == row] for row in plan.rows}
    asked = Asked(
        setting=Setting(rule, margin, file.alpha),
        baseline=file.baseline,
        kinds={row: tuple(sorted({kind_of(run.spec.identity) for run in own})) for row, own in rows.items()},
        seeds={row: tuple(dict.fromkeys(run.seed for run in own)) for row, own in rows.items()},
        controls=tuple(plan.controls),
    )
    dropped = dropped_runs(folder, [run.spec.hash for run in plan.runs])
    return updated(before, asked, dropped, len(here | {hash_of_name(path.stem) for path in files}))


def _collected(planned: PlannedRun, found: RunStatus, kept: Kept, illustrate: bool) -> StudyRun:
    """One run; `illustrate` says whether it is to bring its row's thumbnails."""
    known = None if found.state == "done" else kept.get(planned.spec.hash)
    fresh = known is not None and known.record is not None and known.record.code == planned.spec.code
    # A failure here says nothing against a result from elsewhere, nor does a result of other code against one of today's.
    if known is not None and (fresh or found.state != "stale"):
        state = "done" if fresh else known.state if known.record is None else "stale"
        thumbnails = known.thumbnails if illustrate else {}
        own = {"row": planned.row, "seed": planned.seed, "choice": planned.choice}
        return _repeated(replace(known, **own, state=state, thumbnails=thumbnails), planned, kept)
    name = found.folder.path.name
    run = StudyRun(planned.row, planned.seed, planned.choice, name, found.state, scrubbed(found.failure), found.record)
    if found.record is None:
        return run
    return _repeated(or_aside(run, lambda: _with_files(run, planned, found, kept, illustrate)), planned, kept)


def _repeated(run: StudyRun, planned: PlannedRun, kept: Kept) -> StudyRun:
    """A run with what `--reproduce` found of its record with the code that would train it now."""
    listed, now = kept.listed.get(planned.spec.hash), version_digest(planned.spec.code)
    again = listed.again if listed and run.state == "stale" else {}
    mine = run.record is not None and (again.get("code"), again.get("weights")) == (now, run.record.weights_hash)
    return replace(run, again=again if mine else {})


def _with_files(run: StudyRun, planned: PlannedRun, found: RunStatus, kept: Kept, illustrate: bool) -> StudyRun:
    """A finished run with what its folder holds besides the record.

    Raises:
        ValueError: A file of it is damaged.
    """
    assert found.record is not None
    folder = found.folder.path
    pictures = read_pictures(folder)
    thumbnails: dict[str, bytes] = {}
    if pictures and illustrate:
        known = kept.get(planned.spec.hash)
        unchanged = known is not None and known.record == found.record and known.pictures == pictures
        thumbnails = (known.thumbnails if known and unchanged else {}) or read_thumbnails(folder)
    evidence = found_evidence(found.record, found.folder.evidence_path)
    own = {"curve": read_curve(folder), "pictures": pictures, "knockout": read_knockout(folder, found.record)}
    return replace(run, **own, thumbnails=thumbnails, evidence=evidence)
