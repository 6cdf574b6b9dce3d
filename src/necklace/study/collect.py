"""The runs of a plan as the study keeps them: from outputs/, else from records/, else from records/retired/."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from necklace.guard.private import scrubbed
from necklace.identity import check_identity, hash_of_name
from necklace.study.excerpts import read_curve, read_pictures, read_thumbnails
from necklace.study.plan import Plan, PlannedRun
from necklace.study.status import RunStatus, StatusReader
from necklace.study.store import StudyInfo, StudyRun, found_evidence, read_info, read_retired, retired_runs, with_record


class Kept:
    """Results that a study's folder holds, each read when it is asked for.

    They stand for runs that are not in outputs/ here, such as those of a colleague's machine.

    Attributes:
        info: What the study was when they were written, or None where there are none.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.info: StudyInfo | None = None
        self._listed: dict[str, StudyRun] = {}
        if (folder / "records" / "study.json").exists():
            self.info, runs = read_info(folder)
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
        """A result with its record, or None."""
        if run_hash not in self._read and run_hash in self:
            listed = self._listed.get(run_hash)
            run = with_record(listed, self.folder) if listed else read_retired(self._retired[run_hash])
            if record := run.record:
                where = str(self.folder / "records" / run.name)
                check_identity(record.config, record.identity, record.data["digest"], record.hash, where)
            self._read[run_hash] = run
        return self._read.get(run_hash)


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


def _collected(planned: PlannedRun, found: RunStatus, kept: Kept, illustrate: bool) -> StudyRun:
    """One run; `illustrate` says whether it is to bring its row's thumbnails."""
    # A failure here says nothing against a result from elsewhere.
    if found.state in ("missing", "running", "failed") and (known := kept.get(planned.spec.hash)):
        assert known.record is not None
        state = "done" if known.record.code == planned.spec.code else "stale"
        thumbnails = known.thumbnails if illustrate else {}
        return replace(known, row=planned.row, choice=planned.choice, state=state, thumbnails=thumbnails)
    folder = found.folder.path
    run = StudyRun(planned.row, planned.seed, planned.choice, folder.name, found.state, scrubbed(found.failure), found.record)
    if not found.record:
        return run
    pictures = read_pictures(folder)
    thumbnails: dict[str, bytes] = {}
    if pictures and illustrate:
        known = kept.get(planned.spec.hash)
        unchanged = known is not None and known.record == found.record and known.pictures == pictures
        thumbnails = (known.thumbnails if known and unchanged else {}) or read_thumbnails(folder)
    evidence = found_evidence(found.record, found.folder.evidence_path)
    return replace(run, curve=read_curve(folder), pictures=pictures, thumbnails=thumbnails, evidence=evidence)
