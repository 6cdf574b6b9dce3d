"""A study in W&B: the names and tags of its runs, its table and figures as a run of its own, and the upload of offline runs."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import wandb
from rich.console import Console

from necklace.atomic import write_whole
from necklace.identity import shortened
from necklace.results.figure_data import Data, figure_data
from necklace.results.results import Results
from necklace.results.table import TableText
from necklace.study.plan import Plan, row_settings
from necklace.study.status import RunStatus
from necklace.tracking.tracker import is_wandb, wandb_options
from necklace.tracking.wandb_logger import MOST_WORDS, project_of
from necklace.tracking.wandb_run import FINISH_S, arrived, offline_line, open_run, run_files, unsynced, wandb_mode

TABLE = ".table"
DIFFERENCES = ("differences", "controls")
ENDED = ("done", "stale", "failed")
# Seconds that an upload may take: to start with, and for each run.
SYNC_S, SYNC_RUN_S = 30.0, 20.0


def logger_settings(plan: Plan, console: Console) -> dict[str, dict[str, Any]]:
    """Settings of each run's loggers: its row and the axes, and that W&B need not try the server.

    Args:
        plan: The study.
        console: Where to say why the runs are offline, if they were meant to be online.

    Returns:
        Run's hash to dotted key and value.
    """
    _, why = wandb_mode_of(plan) or (None, None)
    offline: dict[str, Any] = {}
    if why:
        console.print(offline_line(why), markup=False)
        offline = {f"{key}.mode": "offline" for key, options in plan.loggers.items() if is_wandb(options)}
    return {run: options | offline for run, options in row_settings(plan).items()}


def wandb_mode_of(plan: Plan) -> tuple[str, str | None] | None:
    """The W&B mode of this study's runs, asked once for all of them.

    Returns:
        The mode, and why it is offline although online was meant; None where W&B is no logger of theirs, or disabled.
    """
    own = wandb_options(plan.loggers)
    if own is None:
        return None
    mode, why = wandb_mode(own["mode"])
    return None if mode == "disabled" else (mode, why)


def table_id(study: str) -> str:
    """The W&B id of the run that holds a study's table: the study's name, in characters that an id may have."""
    return shortened(re.sub(r"[^\w.-]+", "-", study), MOST_WORDS)


def write_table(table: TableText, results: Results, plan: Plan, figures: Path, mode: str) -> str | None:
    """Put a study's table, its differences and its figures into a W&B run of its own, in place of an earlier one that differs.

    Args:
        table: The study's table.
        results: What it was made from.
        plan: The study; the run's folder is `.table` beside the runs'.
        figures: The folder of its figures.
        mode: `online` or `offline`.

    Returns:
        A line that says where it is, or None where it exists already or W&B does not start.
    """
    data = figure_data(results)
    folder, text = plan.root / TABLE, f"{table}{json.dumps(data)}"
    content = folder / "content"
    if content.exists() and content.read_text(encoding="utf-8") == text:
        return None
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    about = {"project": project_of(plan.loggers, plan.name), "group": "table", "job_type": "table", "tags": ["table"]}
    about |= {"name": f"{plan.name}: table", "config": {"study": plan.name, "question": plan.file.question}}
    run = open_run(folder, table_id(plan.name), mode, FINISH_S, program="necklace ablate", **about)
    if run is None:
        return None
    file = Path(run.dir).parent
    url = None if run.offline else run.url
    columns = {name: _numbers(column) for name, column in _columns(table)}
    try:
        logged: dict[str, Any] = {
            "table": wandb.Table(list(columns), [list(row) for row in zip(*columns.values(), strict=True)])
        }
        logged |= {name: _differences(data[name]) for name in DIFFERENCES if name in data}
        drawn = [path for name in data if (path := figures / f"{name}.png").is_file()]
        run.log(logged | {f"figures/{path.stem}": wandb.Image(str(path)) for path in drawn})
        run.finish()
    except Exception as error:  # W&B raises what its own process and its libraries raise
        return f"W&B did not take the study's table ({type(error).__name__}: {error})"
    write_whole(content, text)
    if url:
        arrived(file)
    return f"the study's table in W&B: {url or os.path.relpath(file)}"


def _differences(data: Data) -> wandb.Table:
    """The data of the figure of differences, to the baseline or to the controls, as a table: percentage points."""
    kind = "anytime" if data.get("rule") == "anytime" else "t"
    rows = [
        [
            row["name"],
            row.get("control", data.get("baseline")),
            row["n"],
            row["mean"],
            *(row[kind] or (None, None)),
            row.get("verdict"),
        ]
        for row in data["rows"]
    ]
    return wandb.Table(["row", "to", "n", "difference", f"95 % {kind} from", f"95 % {kind} to", "verdict"], rows)


def _columns(table: TableText) -> list[tuple[str, list[str]]]:
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


def sync(plan: Plan, found: Sequence[RunStatus]) -> tuple[list[str], bool]:
    """Upload the runs of a study that are not in W&B yet, in bounded time.

    Args:
        plan: The study.
        found: What exists of its runs; those that have not ended are left for later.

    Returns:
        Lines to print, and whether all that has ended is uploaded.
    """
    unfinished = sum(at.state not in ENDED for at in found)
    folders = [at.folder.path for at in found if at.state in ENDED]
    files = [file for folder in [*folders, plan.root / TABLE] if (file := unsynced(folder))]
    later = [f"{unfinished} runs have not ended: their runs come with a later --wandb-sync"] if unfinished else []
    if not files:
        without = sum(not run_files(folder) for folder in folders)
        return [f"nothing to upload{f'; {without} runs have no W&B run' if without else ''}", *later], True
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
