"""A study in W&B: what its cells' runs are told, its table as a run of its own, and the upload of what is offline."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import wandb
from rich.console import Console

from necklace.loggers import project_name
from necklace.record import write_whole
from necklace.study.plan import Plan, override
from necklace.study.states import CellState
from necklace.study.table import Layout
from necklace.wandb_runs import FINISH_S, UPLOADING, arrived, offline_line, open_run, run_files, wandb_mode

TABLE = ".table"
ENDED = ("done", "stale", "failed")
# What a killed process leaves: the header of a run's file, or a part of it.
EMPTY_BYTES = 7
# Seconds that an upload may take: to start with, and for each run.
SYNC_S, SYNC_RUN_S = 30.0, 20.0


def wandb_overrides(plan: Plan, console: Console) -> dict[str, list[str]]:
    """What each cell's run is told about its study: its row, the axes, and that the server need not be tried.

    Args:
        plan: The study.
        console: Where to say why the runs are offline, if they are against the wish.

    Returns:
        Cell's hash to overrides; none where the study's logger is another.
    """
    found = mirrored(plan)
    if found is None:
        return {}
    _, why = found
    if why:
        console.print(offline_line(why), markup=False)
    shared = [override("logger.axes", list(plan.axes)), *(["logger.mode=offline"] if why else [])]
    return {cell.cell_hash: [override("logger.row", cell.row), *shared] for cell in plan.cells}


def mirrored(plan: Plan) -> tuple[str, str | None] | None:
    """How this study's runs go to W&B, asked once for all cells.

    Returns:
        The mode, and where it is offline against the wish, why; or None where its logger is another, or W&B is disabled.
    """
    if not plan.logger or plan.logger.get("_target_") != "necklace.loggers.wandb_logger":
        return None
    mode, why = wandb_mode(plan.logger["mode"])
    return None if mode == "disabled" else (mode, why)


def write_table(table: Layout, plan: Plan, mode: str) -> str | None:
    """Put a study's table into a W&B run of its own, in place of an earlier one that differs.

    Args:
        table: The study's table.
        plan: The study; the run's folder is `.table` beside the cells'.
        mode: `online` or `offline`.

    Returns:
        A line that says where it is, or None where it is there already or W&B does not start.
    """
    folder = plan.root / TABLE
    content = folder / "content"
    if content.exists() and content.read_text(encoding="utf-8") == str(table):
        return None
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    project = project_name(plan.study.name)
    about = {"project": project, "group": project, "name": "table", "job_type": "table", "tags": ["table"]}
    run = open_run(folder, "table", mode, FINISH_S, **about, config={"question": plan.study.question})
    if run is None:
        return None
    file = Path(run.dir).parent
    url = None if run.offline else run.url
    columns = {name: _numbers(column) for name, column in _columns(table)}
    try:
        run.log({"table": wandb.Table(list(columns), [list(row) for row in zip(*columns.values(), strict=True)])})
        run.finish()
    except Exception as error:  # W&B raises what its own process and its libraries raise
        return f"W&B did not take the study's table ({type(error).__name__}: {error})"
    write_whole(content, str(table))
    if url:
        arrived(file)
    return f"the study's table in W&B: {url or os.path.relpath(file)}"


def _columns(table: Layout) -> list[tuple[str, list[str]]]:
    """Headers and texts; a header that comes twice is named after the column that it stands behind."""
    named: list[tuple[str, list[str]]] = []
    for index, header in enumerate(table.headers):
        name = f"{named[-1][0]} {header}" if table.headers.count(header) > 1 else header
        named.append((name, [row[index] for row in table.rows]))
    return named


def _numbers(column: Sequence[str]) -> list[float | str | None]:
    """A column's texts as numbers where all are, so that W&B can sort and plot it; an empty text is no value."""
    values: list[float | str | None] = []
    for text in column:
        try:
            values.append(float(text.replace(",", "")) if text else None)
        except ValueError:
            return [text or None for text in column]
    return values


def unsynced(folder: Path) -> Path | None:
    """The newest W&B run file of a folder if it has still to be uploaded; earlier ones hold less of the same history."""
    newest = next((file for file in reversed(run_files(folder)) if file.stat().st_size > EMPTY_BYTES), None)
    if newest is None or newest.with_suffix(".wandb.synced").exists():
        return None
    offline = newest.parent.name.startswith("offline-")
    return newest if offline or (newest.parent / UPLOADING).exists() else None


def sync(plan: Plan, found: Sequence[CellState]) -> tuple[list[str], bool]:
    """Upload what of a study is not in W&B yet, in bounded time.

    Args:
        plan: The study.
        found: What there is of its cells; those that have not ended are left for later.

    Returns:
        What to tell, and whether all that has ended is uploaded.
    """
    unfinished = sum(at.state not in ENDED for at in found)
    folders = [at.folder for at in found if at.folder and at.state in ENDED]
    files = [file for folder in [*folders, plan.root / TABLE] if (file := unsynced(folder))]
    later = [f"{unfinished} cells have not ended: their runs come with a later --wandb-sync"] if unfinished else []
    if not files:
        without = sum(not run_files(folder) for folder in folders)
        return [f"nothing to upload{f'; {without} cells have no W&B run' if without else ''}", *later], True
    mode, why = wandb_mode(None)
    if mode != "online":
        reason = why or "no API key is configured: wandb login, or WANDB_API_KEY"
        if os.environ.get("WANDB_MODE"):
            reason = f"WANDB_MODE={os.environ['WANDB_MODE']} forbids it"
        return [f"{len(files)} runs are to be uploaded, but not now: {reason}"], False
    printed = _wandb_sync(files)
    left = [file for file in files if not file.with_suffix(".wandb.synced").exists()]
    lines = [f"{len(files) - len(left)} of {len(files)} runs uploaded", *later]
    if left:
        lines += [f"left: {os.path.relpath(file.parent)}" for file in left] + printed[-3:]
    return lines, not left


def _wandb_sync(files: Iterable[Path]) -> list[str]:
    """Run `wandb sync` and give its lines; it and what it started are ended when their time is up."""
    paths = [str(file) for file in files]
    limit = SYNC_S + SYNC_RUN_S * len(paths)
    # W&B's own process looks after its parent and ends with it, but its group is ended all the same.
    process = subprocess.Popen(
        [sys.executable, "-m", "wandb", "sync", "--include-online", *paths],
        stdin=subprocess.DEVNULL,  # nobody is to be asked for a key
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        output, _ = process.communicate()
        output += f"wandb sync was ended after {limit:.0f} s\n"
    except BaseException:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        raise
    return output.splitlines()
