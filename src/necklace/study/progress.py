"""The progress of a study: the plan in words, and what runs now, read from the runs' folders whatever launcher runs them."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from threading import Event, Lock, Thread

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
    means = seconds_by_row(plan, [at.record for at in found])
    return sum(means[run.row] for run in runs) if means else None


def seconds_by_row(plan: Plan, records: Sequence[Record | None]) -> dict[str, float]:
    """Row to the mean seconds of its finished runs, of a row without any that of all; empty where none has finished.

    Args:
        plan: The study.
        records: Of each of its runs, as far as it has finished.
    """
    walls: dict[str, list[float]] = {}
    for run, record in zip(plan.runs, records, strict=True):
        if record:
            walls.setdefault(run.row, []).append(record.wall_seconds)
    everything = [value for values in walls.values() for value in values]
    if not everything:
        return {}
    return {row: sum(own) / len(own) for row in plan.rows for own in [walls.get(row, everything)]}


def plan_lines(plan: Plan, found: Sequence[RunStatus], rerun: set[str]) -> list[str]:
    """The plan in words: how many runs are in which state, row by row where not all are done, and how long the rest takes."""
    counts = {
        name: sum(at.state == name for at in found) for name in ("done", "stale", "failed", "running", "damaged", "missing")
    }
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
    lines += [f"  damaged: {at.failure}" for at in found if at.state == "damaged"]
    rest = [run for run, at in zip(plan.runs, found, strict=True) if at.state in {"missing", "damaged", *rerun}]
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
def overview(
    status: StatusReader,
    found: Sequence[RunStatus],
    todo: Sequence[PlannedRun],
    console: Console,
    heading: Callable[[], str] | None = None,
) -> Iterator["Watch"]:
    """Show the progress while the body runs: a line for each run that ends, and in a terminal those that train now, live.

    Args:
        status: Of the plan.
        found: What exists of each of its runs.
        todo: The runs that are being launched.
        console: Where to show it.
        heading: How far the study is, in words, where how many runs there will be depends on their results.
    """
    watch = Watch(status, found, todo, console, heading)
    over = Event()

    def report() -> None:
        while not over.wait(POLL_SECONDS):
            watch.tell_ended()

    thread = Thread(target=report, daemon=True)
    live = Live(console=console, refresh_per_second=2, get_renderable=watch.table) if console.is_terminal else nullcontext()
    with live:
        thread.start()
        try:
            yield watch
        finally:
            over.set()
            thread.join()
            watch.tell_ended()


Mark = tuple[int, int, int] | None
"""What tells a file from what it was before, whatever the clocks say; None where there is none."""


class Watch:
    """Follows the runs of a launch by their folders, and tells of each that has ended, in a line of its own."""

    def __init__(
        self,
        status: StatusReader,
        found: Sequence[RunStatus],
        todo: Sequence[PlannedRun],
        console: Console,
        heading: Callable[[], str] | None = None,
    ) -> None:
        self.status, self.plan, self.console, self.heading = status, status.plan, console, heading
        self.started = time.monotonic()
        self.pending = {run.spec.hash: run for run in todo}
        self.total, self.failed = len(todo), 0
        self._telling = Lock()
        self.folders = {run.spec.hash: at.folder for run, at in zip(self.plan.runs, found, strict=True)}
        self.expected = run_seconds(self.plan, found, todo)
        self._before = {path: _mark(path) for run_hash in self.pending for path in self._files(run_hash)}

    def add(self, runs: Sequence[PlannedRun]) -> None:
        """Follow more runs, which are about to be launched."""
        with self._telling:
            self._before |= {path: _mark(path) for run in runs for path in self._files(run.spec.hash)}
            self.pending |= {run.spec.hash: run for run in runs}
            self.total += len(runs)

    def tell_ended(self) -> None:
        """Print a line for each run that has ended since the last call."""
        with self._telling:
            for run_hash, run in list(self.pending.items()):
                if any(self._is_new(path) for path in self._files(run_hash)[:2]):
                    at = self.status.of(run)
                    if at.state in ("done", "failed"):
                        self._tell(run, self._metric(at.record) if at.record else f"FAILED: {at.failure}", at.state == "failed")

    def refused(self, run: PlannedRun, words: str, how: str = "refused") -> None:
        """Print the line of a run that could not begin or whose job was lost, and has left nothing that would say so."""
        with self._telling:
            self._tell(run, f"{how}: {words}", failed=True)

    def note(self, run: PlannedRun, words: str) -> None:
        """Print a sentence about a run."""
        self.console.print(f"{run.row}, seed {run.seed}: {words}", highlight=False, markup=False)

    def table(self) -> Table:
        """The runs that train now, and how much is left."""
        pending = dict(self.pending)
        failed = f", {self.failed} failed" if self.failed else ""
        ended = self.total - len(pending)
        far = f"{ended} of {self.total} runs{failed}{self._left()}" if self.heading is None else f"{self.heading()}{failed}"
        title = Text(f"{self.plan.name}: {far}")
        shown = Table("running", "epoch", "val", title=title)
        for run_hash, run in pending.items():
            folder = self.folders[run_hash]
            if self._is_new(folder.code_path):  # written when a run starts
                epochs, last = self._reached(folder.path)
                shown.add_row(Text(f"{run.row}, seed {run.seed}"), f"{epochs}/{run.spec.resolved['epochs']}", last)
        return shown

    def _reached(self, folder: Path) -> tuple[int, str]:
        """How many epochs a run has behind it, and its last metric on val."""
        try:
            curve = read_curve(folder)
        except (ValueError, OSError):  # damaged before, and not yet written anew
            return 0, ""
        values = curve.get(self.plan.metric.replace("test/", "val/"), [])
        return len(curve.get("epoch", [])), "" if not values or values[-1] is None else f"{values[-1]:.4g}"

    def _tell(self, run: PlannedRun, words: str, failed: bool) -> None:
        if self.pending.pop(run.spec.hash, None) is None:
            return
        self.failed += failed
        ended = self.total - len(self.pending)
        place = f"[{ended}/{self.total}]" if self.heading is None else f"[{ended}]"
        self.console.print(f"{place} {run.row}, seed {run.seed}: {words}{self._left()}", highlight=False, markup=False)

    def _files(self, run_hash: str) -> tuple[Path, Path, Path]:
        """The files that say that a run has ended, and that it has begun."""
        folder = self.folders[run_hash]
        return folder.record_path, folder.failed_path, folder.code_path

    def _is_new(self, path: Path) -> bool:
        """Whether the file was written since; clocks are not asked, since those of two machines differ."""
        mark = _mark(path)
        return mark is not None and mark != self._before[path]

    def _metric(self, record: Record) -> str:
        value = record.metrics.get(self.plan.metric)
        shown = "" if value is None else f"{self.plan.metric} {value:.4g}, "
        return f"{shown}{duration(record.wall_seconds)}"

    def _left(self) -> str:
        """How long the rest takes, by the pace so far; by other runs' times before the first has ended."""
        done, elapsed = self.total - len(self.pending), time.monotonic() - self.started
        if not self.pending or self.heading is not None:
            return ""
        if done:
            return f"; about {duration(elapsed / done * len(self.pending))} left"
        return "" if self.expected is None else f"; at most {duration(self.expected)} left"


def _mark(path: Path) -> Mark:
    """Another process may remove the file at any time."""
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_mtime_ns, stat.st_ino, stat.st_size
