"""Which runs of a plan exist: done, stale, failed, running or missing."""

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
        state: `done`, `stale` (done with other code), `failed`, `running`, or `missing`.
        folder: Its folder, which exists unless the run is missing.
        record: Its record, if it is done or stale.
        failure: Why it failed, if it failed: the end of its traceback, in one line.
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
        self._records: dict[Path, tuple[tuple[int, int], Record | None]] = {}

    def all(self) -> list[RunStatus]:
        """The state of each run of the plan, in its order.

        Raises:
            ValueError: A record is damaged.
        """
        root = self.plan.root
        names = sorted(path.name for path in root.iterdir()) if root.is_dir() else []
        self._folders = {hash_of_name(name): root / name for name in names if not name.startswith(".")}
        return [self._status(run, self._folders.get(run.spec.hash)) for run in self.plan.runs]

    def of(self, run: PlannedRun) -> RunStatus:
        """The state of one run now."""
        return self._status(run, next(iter(sorted(self.plan.root.glob(f"*_{run.spec.hash}"))), None))

    def _status(self, run: PlannedRun, path: Path | None) -> RunStatus:
        folder = RunFolder(path or run.spec.root / run.spec.name)
        if path is not None and (record := self._record(folder)):
            if record.hash != run.spec.hash or not is_file_name(record.name):
                raise ValueError(f"{folder.record_path}: is the record of another run, {record.name}")
            return RunStatus("done" if record.code == run.spec.code else "stale", folder, record)
        if folder.is_held():
            return RunStatus("running", folder)
        if path is not None and (failure := folder.failure()) is not None:
            return RunStatus("failed", folder, failure=failure)
        return RunStatus("missing", folder)

    def _record(self, folder: RunFolder) -> Record | None:
        try:
            stat = folder.record_path.stat()
        except FileNotFoundError:
            return None
        mark = stat.st_mtime_ns, stat.st_ino
        if self._records.get(folder.path, (None, None))[0] != mark:
            self._records[folder.path] = mark, folder.record()
        return self._records[folder.path][1]
