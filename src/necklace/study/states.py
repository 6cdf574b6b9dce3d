"""Which cells of a plan are there: done, stale, failed, running or missing."""

from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from necklace.record import Record, read_record
from necklace.study.plan import Plan, PlannedCell


@dataclass(frozen=True)
class CellState:
    """What there is of a cell.

    Attributes:
        state: `done`, `stale` (done with other code), `failed`, `running`, or `missing`.
        folder: Its folder, if there is one.
        record: What it left behind, if it is done or stale.
        failure: What it failed of, if it failed: the end of its traceback, in one line.
    """

    state: str
    folder: Path | None
    record: Record | None = None
    failure: str | None = None


def states(plan: Plan) -> list[CellState]:
    """What there is of each cell of the plan, in its order.

    Raises:
        ValueError: A record is damaged.
    """
    names = sorted(path.name for path in plan.root.iterdir()) if plan.root.is_dir() else []
    folders = {name.rpartition("_")[2]: plan.root / name for name in names if not name.startswith(".")}
    return [state(cell, folders.get(cell.cell_hash), plan.root) for cell in plan.cells]


def state(cell: PlannedCell, folder: Path | None, root: Path) -> CellState:
    """What there is of one cell."""
    if folder is not None and (folder / "record.json").exists():
        record = read_record(folder / "record.json")
        if record.cell_hash != cell.cell_hash:
            raise ValueError(f"{folder / 'record.json'}: is the record of another cell, {record.cell}")
        return CellState("done" if record.code == cell.code else "stale", folder, record)
    if is_held(root / ".locks" / f"{cell.cell_hash}.lock"):
        return CellState("running", folder)
    if folder is not None and (folder / "FAILED").exists():
        return CellState("failed", folder, failure=read_failure(folder))
    return CellState("missing", folder)


def read_failure(folder: Path) -> str:
    """What stands in a folder's FAILED after the traceback's last frame, in one line: the exception, its words and notes."""
    lines = (folder / "FAILED").read_text(encoding="utf-8", errors="replace").strip().splitlines()
    frames = [number for number, line in enumerate(lines) if line.startswith('  File "')]
    rest = lines[frames[-1] + 1 :] if frames else [line for line in lines if not line.startswith("Traceback")]
    while frames and rest and rest[0].startswith("    "):  # the frame's code and what Python underlines in it
        rest = rest[1:]
    return " ".join(line.strip() for line in rest) or "FAILED is empty"


def is_held(lock: Path) -> bool:
    """Whether a process holds the lock file."""
    if not lock.exists():
        return False
    probe = FileLock(lock)
    try:
        probe.acquire(timeout=0)
    except Timeout:
        return True
    probe.release()
    return False
