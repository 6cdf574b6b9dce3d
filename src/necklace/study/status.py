"""Which runs of a plan exist: done, stale, failed, running, damaged or missing."""

from dataclasses import dataclass
from pathlib import Path

from necklace.guard.names import is_file_name
from necklace.identity import hash_of_name
from necklace.record import Record
from necklace.run.folder import RunFolder
from necklace.study.plan import Plan, PlannedRun


@dataclass(frozen=True)
class RunStatus:
    """The state of a planned run.

    Attributes:
        state: `done`, `stale` (done with other code), `failed`, `running`, `damaged` (its record cannot be used), or `missing`.
        folder: Its folder, which exists unless the run is missing.
        record: Its record, if it is done or stale.
        failure: Why it failed, if it failed: the end of its traceback, in one line; or what is wrong with its record.
    """

    state: str
    folder: RunFolder
    record: Record | None = None
    failure: str | None = None


class StatusReader:
    """Looks after the runs of a plan in their folders; a record is read once and again only if its file has changed."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self._folders: dict[str, Path] = {}
        self._records: dict[Path, tuple[tuple[int, int, int], Record | str | None]] = {}

    def narrowed(self, plan: Plan) -> "StatusReader":
        """The same for some of the runs; what has been read is not read again."""
        other = StatusReader(plan)
        other._records = self._records
        return other

    def all(self) -> list[RunStatus]:
        """The state of each run of the plan, in its order."""
        root = self.plan.root
        names = sorted(path.name for path in root.iterdir()) if root.is_dir() else []
        self._folders = {hash_of_name(name): root / name for name in names if not name.startswith(".")}
        return [self._status(run, self._folders.get(run.spec.hash)) for run in self.plan.runs]

    def of(self, run: PlannedRun) -> RunStatus:
        """The state of one run now."""
        return self._status(run, next(iter(sorted(self.plan.root.glob(f"*_{run.spec.hash}"))), None))

    def _status(self, run: PlannedRun, path: Path | None) -> RunStatus:
        folder = RunFolder(path or run.spec.root / run.spec.name)
        record = None if path is None else self._record(folder)
        if isinstance(record, Record) and (record.hash != run.spec.hash or not is_file_name(record.name)):
            record = f"{folder.record_path}: is the record of another run, {record.name}"
        if isinstance(record, Record):
            return RunStatus("done" if record.code == run.spec.code else "stale", folder, record)
        if folder.is_held():
            return RunStatus("running", folder)
        if record is not None:
            return RunStatus("damaged", folder, failure=record)
        if path is not None and (failure := folder.failure()) is not None:
            return RunStatus("failed", folder, failure=failure)
        return RunStatus("missing", folder)

    def _record(self, folder: RunFolder) -> Record | str | None:
        """A run's record, or what is wrong with it; None while there is none."""
        try:
            stat = folder.record_path.stat()
        except FileNotFoundError:
            return None
        mark = stat.st_mtime_ns, stat.st_ino, stat.st_size
        if self._records.get(folder.path, (None, None))[0] != mark:
            try:
                self._records[folder.path] = mark, folder.record()
            except (ValueError, OSError) as error:
                self._records[folder.path] = mark, str(error)
        return self._records[folder.path][1]
