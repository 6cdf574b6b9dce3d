"""The progress of a study: the plan in words, and what runs now, read from the runs' folders whatever launcher runs them."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from necklace.code_version import changed_modules
from necklace.record import Record
from necklace.study.excerpts import read_curve
from necklace.study.plan import Plan, PlannedRun
from necklace.study.status import RunStatus, StatusReader

POLL_SECONDS = 0.5


def run_seconds(plan: Plan, found: Sequence[RunStatus], runs: Sequence[PlannedRun]) -> float | None:
    """Expected seconds of training these runs one by one, from the finished runs of their row, else of all."""
    walls: dict[str, list[float]] = {}
    for run, at in zip(plan.runs, found, strict=True):
        if at.record:
            walls.setdefault(run.row, []).append(at.record.wall_seconds)
    if not walls:
        return None
    everything = [value for values in walls.values() for value in values]
    means = {row: sum(values) / len(values) for row, values in walls.items()}
    return sum(means.get(run.row, sum(everything) / len(everything)) for run in runs)


def plan_lines(plan: Plan, found: Sequence[RunStatus], rerun: set[str]) -> list[str]:
    """The plan in words: how many runs are in which state, row by row where not all are done, and how long the rest takes."""
    counts = {name: sum(at.state == name for at in found) for name in ("done", "stale", "failed", "running", "missing")}
    states = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
    lines = [f"{plan.name}: {len(plan.runs)} runs in {len(plan.rows)} rows: {states}", *plan.dropped]
    for row in plan.rows:
        own = [(run, at) for run, at in zip(plan.runs, found, strict=True) if run.row == row and at.state != "done"]
        if own:
            by_state: dict[str, list[str]] = {}
            for run, at in own:
                tried = "".join(f" {key}={value}" for key, value in run.choice.items())
                by_state.setdefault(at.state, []).append(f"{run.seed}{tried}")
            lines.append(f"  {row}: " + "; ".join(f"{name}: seed {', '.join(seeds)}" for name, seeds in by_state.items()))
    changed = {name for run, at in zip(plan.runs, found, strict=True) if at.state == "stale" for name in _changed(run, at)}
    lines += [f"  stale, trained with other code: {', '.join(sorted(changed))}"] if changed else []
    lines += [f"  {at.folder.path}: failed: {at.failure}" for at in found if at.state == "failed"]
    rest = [run for run, at in zip(plan.runs, found, strict=True) if at.state in {"missing", *rerun}]
    if rest:
        seconds = run_seconds(plan, found, rest)
        time_left = "no run has finished yet to say how long they take"
        if seconds is not None:
            time_left = f"about {duration(seconds)} one after the other, going by the finished runs"
        lines.append(f"{len(rest)} to run: {time_left}")
    return lines


def _changed(run: PlannedRun, at: RunStatus) -> list[str]:
    """The modules in which the code that trained a run differs from that of the plan, whichever of the two is older."""
    return changed_modules(at.record.code, run.spec.code) if at.record else []


def duration(seconds: float) -> str:
    """Such as `45 s`, `12 min` or `3.5 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


@contextmanager
def overview(status: StatusReader, found: Sequence[RunStatus], todo: Sequence[PlannedRun], console: Console) -> Iterator[None]:
    """Show the progress while the body runs: live in a terminal, else a line for each run that ends.

    Args:
        status: Of the plan.
        found: What exists of each of its runs.
        todo: The runs that are being launched.
        console: Where to show it.
    """
    watch = _Watch(status, found, todo)
    if console.is_terminal:
        with Live(console=console, refresh_per_second=2, get_renderable=watch.table):
            yield
        return
    over = Event()

    def report() -> None:
        while not over.wait(POLL_SECONDS):
            for line in watch.ended():
                console.print(line, highlight=False, markup=False)

    thread = Thread(target=report, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        for line in watch.ended():
            console.print(line, highlight=False, markup=False)


class _Watch:
    """Follows the runs of a launch by their folders."""

    def __init__(self, status: StatusReader, found: Sequence[RunStatus], todo: Sequence[PlannedRun]) -> None:
        self.status, self.plan = status, status.plan
        self.started = time.time()
        self.pending = {run.spec.hash: run for run in todo}
        self.total = len(todo)
        self.folders = {run.spec.hash: at.folder for run, at in zip(self.plan.runs, found, strict=True)}
        self.expected = run_seconds(self.plan, found, todo)

    def ended(self) -> list[str]:
        """A line for each run that has ended since the last call."""
        lines = []
        for run_hash, run in list(self.pending.items()):
            files = [self.folders[run_hash].record_path, self.folders[run_hash].failed_path]
            if not any(_newer(file, self.started) for file in files):
                continue
            at = self.status.of(run)
            if at.state in ("done", "failed"):
                del self.pending[run_hash]
                shown = self._metric(at.record) if at.record else f"FAILED: {at.failure}"
                place = f"[{self.total - len(self.pending)}/{self.total}]"
                lines.append(f"{place} {run.row}, seed {run.seed}: {shown}{self._left()}")
        return lines

    def table(self) -> Table:
        """The runs that train now, and how much is left."""
        self.ended()
        done = self.total - len(self.pending)
        title = Text(f"{self.plan.name}: {done} of {self.total} runs{self._left()}")
        shown = Table("running", "epoch", "val", title=title)
        for run_hash, run in self.pending.items():
            folder = self.folders[run_hash]
            if _newer(folder.code_path, self.started):  # written when a run starts
                curve = read_curve(folder.path)
                values = curve.get(self.plan.metric.replace("test/", "val/"), [])
                last = "" if not values or values[-1] is None else f"{values[-1]:.4g}"
                shown.add_row(Text(f"{run.row}, seed {run.seed}"), str(len(curve.get("epoch", []))), last)
        return shown

    def _metric(self, record: Record) -> str:
        value = record.metrics.get(self.plan.metric)
        shown = "" if value is None else f"{self.plan.metric} {value:.4g}, "
        return f"{shown}{duration(record.wall_seconds)}"

    def _left(self) -> str:
        """How long the rest takes, by the pace so far; by other runs' times before the first has ended."""
        done, elapsed = self.total - len(self.pending), time.time() - self.started
        if not self.pending:
            return ""
        if done:
            return f"; about {duration(elapsed / done * len(self.pending))} left"
        return "" if self.expected is None else f"; at most {duration(self.expected)} left"


def _newer(path: Path, moment: float) -> bool:
    """Whether the file was written since; another process may remove it at any time."""
    try:
        return path.stat().st_mtime >= moment
    except FileNotFoundError:
        return False
