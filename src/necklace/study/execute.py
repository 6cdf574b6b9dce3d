"""Run the cells of a plan that are missing, through one of Hydra's launchers, and show how it goes.

Several of these may work on one study at once: a cell is held by the process that trains it, and whoever finds it held goes on
to the next and comes back.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread
from typing import Any

from hydra._internal.callbacks import Callbacks
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig, open_dict
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from necklace.data.splits import handed_over
from necklace.record import Record, write_whole
from necklace.run import CellBusy, run_composed
from necklace.study.archive import read_curve
from necklace.study.mirror import wandb_overrides
from necklace.study.plan import Plan, PlannedCell, override
from necklace.study.states import CellState, state, states

POLL_SECONDS = 0.5


def cell_task(config: DictConfig) -> None:
    """What a launcher runs for each cell: train it, unless another process does."""
    run_composed(config, alone=False)


def execute(
    plan: Plan, hydra_overrides: Sequence[str], script: Path, retry_failed: bool, rerun_stale: bool, console: Console
) -> None:
    """Run what is missing, each cell at most once in this call; a cell that fails is marked and does not stop the others.

    Args:
        plan: The study's cells; Hydra has to be initialised with the configs.
        hydra_overrides: Such as `hydra/launcher=submitit_slurm`; this project's own launcher is the default.
        script: The file that runs one cell, for launchers that start processes.
        retry_failed: Whether failed cells are run again, from their last checkpoint.
        rerun_stale: Whether cells that other code has trained are trained again.
        console: Where to show the progress.
    """
    wanted = {"missing"} | ({"failed"} if retry_failed else set()) | ({"stale"} if rerun_stale else set())
    launched: set[str] = set()
    waiting = False
    for_wandb: dict[str, list[str]] | None = None
    while True:
        found = states(plan)
        open_cells = [(c, s) for c, s in zip(plan.cells, found, strict=True) if c.cell_hash not in launched]
        todo = [cell for cell, at in open_cells if at.state in wanted]
        if not todo:
            if not any(at.state == "running" for at in found):
                return
            if not waiting:
                console.print("another process is running the rest; waiting for it")
                waiting = True
            time.sleep(POLL_SECONDS)
            continue
        if for_wandb is None:
            for_wandb = wandb_overrides(plan, console)
        again = {"stale": ["rerun=stale"], "failed": ["rerun=failed"], "missing": []}
        jobs = [
            [*cell.overrides, *for_wandb.get(cell.cell_hash, []), *again[at.state]]
            for cell, at in open_cells
            if at.state in wanted
        ]
        launcher = _launcher(plan, hydra_overrides, script)
        # Hydra loads its plugins anew, so their classes cannot be asked for. A process that died is told of at once, whatever
        # becomes of the others.
        if hasattr(launcher, "ended"):
            launcher.ended = lambda index, returned, cells=todo: _mark_failed(plan, cells[index], returned)
        with _overview(plan, found, todo, console), handed_over(plan.images):
            returns = launcher.launch(jobs, initial_job_idx=0)
        for cell, returned in zip(todo, returns, strict=True):
            if _is_busy(returned):
                continue
            launched.add(cell.cell_hash)
            _mark_failed(plan, cell, returned)


def _launcher(plan: Plan, hydra_overrides: Sequence[str], script: Path) -> Any:
    own = []
    if not any(text.startswith("hydra/launcher=") for text in hydra_overrides):
        # Its own lines would come between those of the overview.
        own = [
            "hydra/hydra_logging=none",
            "hydra/launcher=local",
            override("hydra.launcher.script", str(script)),
            override("hydra.launcher.log_dir", str(plan.root / ".logs")),
        ]
    loader = GlobalHydra.instance().config_loader()
    shared = [*plan.cells[0].overrides, *own, *hydra_overrides]
    config = loader.load_configuration("train", shared, RunMode.MULTIRUN)
    with open_dict(config.hydra):
        config.hydra.job.name = "ablate"
        config.hydra.runtime.output_dir = str(plan.root)
    callbacks = Callbacks(config)
    context = HydraContext(config_loader=loader, callbacks=callbacks)
    return Plugins.instance().instantiate_launcher(hydra_context=context, task_function=cell_task, config=config)


def _is_busy(returned: JobReturn) -> bool:
    return returned.status == JobStatus.FAILED and isinstance(returned._return_value, CellBusy)


def _mark_failed(plan: Plan, cell: PlannedCell, returned: JobReturn) -> None:
    """Leave FAILED behind for a cell whose process could not: it died, or the config was refused before the run began."""
    at = state_of(plan, cell)
    if returned.status != JobStatus.FAILED or _is_busy(returned) or at.state in ("done", "stale", "failed", "running"):
        return
    folder = plan.root / cell.label if at.folder is None else at.folder
    folder.mkdir(parents=True, exist_ok=True)
    error = returned._return_value
    write_whole(folder / "FAILED", f"{type(error).__name__}: {error}\n")


def state_of(plan: Plan, cell: PlannedCell) -> CellState:
    """What there is of one cell now."""
    folder = next(iter(sorted(plan.root.glob(f"*_{cell.cell_hash}"))), None)
    return state(cell, folder, plan.root)


def cell_seconds(plan: Plan, found: Sequence[CellState], cells: Sequence[PlannedCell]) -> float | None:
    """Expected seconds of training these cells one by one, from the cells that have been run: of their row, else of all."""
    walls: dict[str, list[float]] = {}
    for cell, at in zip(plan.cells, found, strict=True):
        if at.record:
            walls.setdefault(cell.row, []).append(at.record.wall_seconds)
    if not walls:
        return None
    everything = [value for values in walls.values() for value in values]
    means = {row: sum(values) / len(values) for row, values in walls.items()}
    return sum(means.get(cell.row, sum(everything) / len(everything)) for cell in cells)


def plan_lines(plan: Plan, found: Sequence[CellState], rerun: set[str]) -> list[str]:
    """The plan in words: how many cells are in which state, row by row where not all are done, and how long the rest takes."""
    counts = {name: sum(at.state == name for at in found) for name in ("done", "stale", "failed", "running", "missing")}
    told = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
    lines = [f"{plan.study.name}: {len(plan.cells)} cells in {len(plan.rows)} rows: {told}", *plan.dropped]
    for row in plan.rows:
        own = [(cell, at) for cell, at in zip(plan.cells, found, strict=True) if cell.row == row and at.state != "done"]
        if own:
            by_state: dict[str, list[str]] = {}
            for cell, at in own:
                tried = "".join(f" {key}={value}" for key, value in cell.choice.items())
                by_state.setdefault(at.state, []).append(f"{cell.seed}{tried}")
            lines.append(f"  {row}: " + "; ".join(f"{name}: seed {', '.join(seeds)}" for name, seeds in by_state.items()))
    lines += [f"  {at.folder}: failed: {at.failure}" for at in found if at.state == "failed"]
    rest = [cell for cell, at in zip(plan.cells, found, strict=True) if at.state in {"missing", *rerun}]
    if rest:
        seconds = cell_seconds(plan, found, rest)
        time_left = "no cell has been run yet to tell how long they take"
        if seconds is not None:
            time_left = f"about {duration(seconds)} one after the other, going by the cells already run"
        lines.append(f"{len(rest)} to run: {time_left}")
    return lines


def duration(seconds: float) -> str:
    """Such as `45 s`, `12 min` or `3.5 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


@contextmanager
def _overview(plan: Plan, found: Sequence[CellState], todo: Sequence[PlannedCell], console: Console) -> Iterator[None]:
    """Show the progress from what the cells' folders hold, whatever launcher runs them: live, or a line for each that ends."""
    watch = _Watch(plan, found, todo)
    if console.is_terminal:
        with Live(console=console, refresh_per_second=2, get_renderable=watch.table):
            yield
        return
    over = Event()

    def tell() -> None:
        while not over.wait(POLL_SECONDS):
            for line in watch.ended():
                console.print(line, highlight=False, markup=False)

    thread = Thread(target=tell, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        for line in watch.ended():
            console.print(line, highlight=False, markup=False)


class _Watch:
    """Follows the cells of a launch by their folders."""

    def __init__(self, plan: Plan, found: Sequence[CellState], todo: Sequence[PlannedCell]) -> None:
        self.plan = plan
        self.started = time.time()
        self.pending = {cell.cell_hash: cell for cell in todo}
        self.total = len(todo)
        there = {cell.cell_hash: at.folder for cell, at in zip(plan.cells, found, strict=True)}
        self.folders = {cell.cell_hash: there[cell.cell_hash] or plan.root / cell.label for cell in todo}
        self.expected = cell_seconds(plan, found, todo)

    def ended(self) -> list[str]:
        """A line for each cell that has ended since the last call."""
        lines = []
        for cell in list(self.pending.values()):
            files = [self.folders[cell.cell_hash] / name for name in ("record.json", "FAILED")]
            if not any(_newer(file, self.started) for file in files):
                continue
            at = state_of(self.plan, cell)
            if at.state in ("done", "failed"):
                del self.pending[cell.cell_hash]
                shown = self._figure(at.record) if at.record else f"FAILED: {at.failure}"
                lines.append(
                    f"[{self.total - len(self.pending)}/{self.total}] {cell.row}, seed {cell.seed}: {shown}{self._left()}"
                )
        return lines

    def table(self) -> Table:
        """What runs now, and how much is left."""
        self.ended()
        done = self.total - len(self.pending)
        title = Text(f"{self.plan.study.name}: {done} of {self.total} cells{self._left()}")
        shown = Table("running", "epoch", "val", title=title)
        for cell in self.pending.values():
            folder = self.folders[cell.cell_hash]
            if _newer(folder / "code", self.started):  # written when a run starts
                curve = read_curve(folder)
                values = curve.get(self.plan.study.metric.replace("test/", "val/"), [])
                last = "" if not values or values[-1] is None else f"{values[-1]:.4g}"
                shown.add_row(Text(f"{cell.row}, seed {cell.seed}"), str(len(curve.get("epoch", []))), last)
        return shown

    def _figure(self, record: Record) -> str:
        value = record.figures.get(self.plan.study.metric)
        figure = "" if value is None else f"{self.plan.study.metric} {value:.4g}, "
        return f"{figure}{duration(record.wall_seconds)}"

    def _left(self) -> str:
        """How long the rest takes, by the pace so far; by other cells' times before the first has ended."""
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
