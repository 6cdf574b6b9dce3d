"""Loggers of a run. The local record is the truth; these mirror the run where its users look.

W&B never stops a run, and what it may cost is bounded: before a process's first online run its server is asked for a sign of
life, every wait has a limit, and where something fails the run stays on disk, ready for `wandb sync`. A run's W&B id is its
cell's hash. W&B writes blocks of 32 KiB, so a killed run's file lacks its last rows; one that goes on therefore starts another
file, with a number after the id, which `History` begins with the rows so far: the newest file of a cell holds all of it.
"""

import os
import re
import ssl
from collections.abc import Mapping, Sequence
from functools import cache
from http.client import HTTPException
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

import wandb
from pytorch_lightning.loggers import CSVLogger, WandbLogger
from rich.console import Console
from wandb.errors import Error as WandbError

from necklace.cell import git_state
from necklace.record import Record

# Seconds. Without limits W&B waits 108 s for a server that does not answer, and at the end of a run as long as it takes.
PROBE_S, INIT_S, FINISH_S = 5.0, 5.0, 5.0
# A checkpoint takes longer to upload than numbers do.
ARTIFACT_S = 60.0
# In the folder of an online run until all of it has been uploaded.
UPLOADING = "uploading"
AXES = ("data", "backbone", "neck", "head")

# What each server was found to be: None if it answers, else why it is left alone from then on.
_found: dict[str, str | None] = {}


class Mirror(WandbLogger):
    """Lightning's W&B logger, but a W&B that breaks down is told once and then left alone.

    Args:
        run: An open run.
        folder: The folder of the run that is mirrored.

    Attributes:
        scalars: Epoch to the numbers that were logged with it; `History` takes them from here.
    """

    def __init__(self, run: wandb.Run, folder: Path) -> None:
        super().__init__(experiment=run, save_dir=str(folder))
        self.broken = False
        self.scalars: dict[int, dict[str, float]] = {}

    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Log values, or anything else that W&B takes, such as histograms and images; never raises."""
        if "epoch" in metrics:
            numbers = {name: float(value) for name, value in metrics.items() if isinstance(value, int | float)}
            self.scalars.setdefault(int(metrics["epoch"]), {}).update(numbers)
        if self.broken:
            return
        try:
            super().log_metrics(metrics, step)  # pyright: ignore[reportArgumentType]
        except Exception as error:  # whatever W&B's own process died of: the training is worth more than its mirror
            self.broken = True
            tell(f"W&B stopped working ({type(error).__name__}: {error}); the run goes on without it")


def wandb_logger(
    folder: Path,
    config: dict[str, Any],
    choices: Mapping[str, str],
    overrides: Sequence[str],
    project: str,
    mode: str | None = None,
    row: str | None = None,
    axes: Sequence[str] | None = None,
    artifact: bool = False,
) -> Mirror | None:
    """A W&B run of its own in the run's folder, online where a key is configured and the server answers, and offline elsewhere.

    Args:
        folder: The run's folder; files go to its `wandb/`.
        config: The resolved config as plain containers.
        choices: Config group to chosen name.
        overrides: The command's overrides.
        project: W&B project, and the run's group in it.
        mode: `online`, `offline`, or None to choose by whether there is a key. WANDB_MODE in the environment counts as well.
        row: Name of all runs that differ from this one in the seed alone, W&B's job type. None: the folder's, without the seed.
        axes: Config keys of which the values become tags, besides the neck's options and the seed.
        artifact: Whether `finish_wandb` will be given a checkpoint.

    Returns:
        The logger, or None where W&B does not even start offline, which is told.

    Raises:
        ValueError: Another mode.
    """
    label, _, cell_hash = folder.name.rpartition("_")
    mode, why = wandb_mode(mode)
    if why:
        tell(offline_line(why))
    run = open_run(
        folder,
        cell_hash,
        mode,
        FINISH_S + ARTIFACT_S * artifact,
        project=project_name(project),
        group=project_name(project),
        name=folder.name,
        job_type=(row or re.sub(r"_s\d+$", "", label))[:64],
        tags=run_tags(choices, overrides, AXES if axes is None else axes, config["seed"]),
        config=config,
    )
    if run is None:
        return None
    # Plots go by epochs; a value that comes without one belongs to the last that came with it.
    run.define_metric("epoch")
    run.define_metric("*", step_metric="epoch")
    return Mirror(run, folder)


def csv_logger(folder: Path, config: dict[str, Any], choices: Mapping[str, str], overrides: Sequence[str]) -> CSVLogger:
    """Lightning's CSV of every logged step, in the run's folder as `csv/metrics.csv`."""
    return CSVLogger(save_dir=str(folder), name="", version="csv")


def open_run(folder: Path, run_id: str, mode: str, finish_s: float, **about: Any) -> wandb.Run | None:
    """Open a W&B run, offline where the server fails.

    Args:
        folder: Its files go to `wandb/` in there.
        run_id: Its id, or the beginning of it where the folder holds runs already.
        mode: `online` or `offline`.
        finish_s: Seconds that its end may wait for the upload.
        about: What else `wandb.init` is to know.

    Returns:
        The run, or None where W&B does not even start offline, which is told.
    """
    git = git_state()
    for attempt in dict.fromkeys((mode, "offline")):
        number = max((run_number(file) for file in run_files(folder)), default=0) + 1
        try:
            run = wandb.init(
                id=run_id if number == 1 else f"{run_id}-{number}",
                dir=str(folder),
                mode=attempt,  # pyright: ignore[reportArgumentType]
                # A run that is still active, such as a failed one's, would otherwise be handed out and the new config lost.
                reinit="finish_previous",
                settings=wandb.Settings(
                    console="off",
                    silent=True,
                    git_commit=git["sha"] if git else None,
                    disable_git=git is None,
                    init_timeout=INIT_S,
                    finish_timeout=finish_s,
                    finish_timeout_raises=True,
                    x_graphql_retry_max=1,
                    x_graphql_retry_wait_max_seconds=1,
                ),
                **about,
            )
        except Exception as error:  # W&B raises what its own process and its libraries raise, not only its own errors
            words = f"{error}".partition("\n")[0] or type(error).__name__
            if attempt == "offline":
                tell(f"W&B does not start ({words}); the run goes on without it")
                return None
            _found[_server()] = words
            tell(offline_line(words))
            continue
        if attempt == "online":
            (Path(run.dir).parent / UPLOADING).touch()
        return run
    return None


def finish_wandb(record: Record | None, checkpoint: Path | None, pictures: Path) -> str | None:
    """Close the active W&B run, so that the next run of this process cannot merge into it; never raises.

    Args:
        record: What the run left behind, for its summary; None marks it as failed.
        checkpoint: A file to keep with the run as an artifact, or None.
        pictures: A folder, the PNG files of which are shown with the run, if there are any.

    Returns:
        One line that says where the run is and how to upload it, or None if no run was active.
    """
    run = wandb.run
    if run is None:
        return None
    folder, url = Path(run.dir).parent, None if run.offline else run.url
    shown = os.path.relpath(folder)
    try:
        if record:
            run.summary.update(run_summary(record))
        shown_pictures = {f"pictures/{file.stem}": wandb.Image(str(file)) for file in sorted(pictures.glob("*.png"))}
        if record and shown_pictures:
            run.log({"epoch": record.epochs - 1, **shown_pictures})
        if record and checkpoint:
            artifact = wandb.Artifact(f"best-{run.id}", "model", metadata={"best_epoch": record.best_epoch, **record.figures})
            artifact.add_file(str(checkpoint), policy="immutable")  # which spares a copy of it in the user's cache
            run.log_artifact(artifact, aliases=["best"])
        run.finish(exit_code=0 if record else 1)
    except TimeoutError:
        return f"W&B run: {url}; it did not take all in time, the rest: wandb sync --include-online {shown}"
    except Exception as error:  # as in `Mirror`
        return f"W&B stopped working ({type(error).__name__}: {error}); what it had written is in {shown}"
    if url is None:
        return f"W&B run (offline): {shown}; upload it with: wandb sync {shown}"
    if not arrived(folder):
        return f"W&B run: {url}; it did not take all, the rest: wandb sync --include-online {shown}"
    return f"W&B run: {url}"


def arrived(folder: Path) -> bool:
    """Whether all of an online run that has ended was uploaded; if so, it is no longer marked as one that was not.

    W&B ends a run without a word where its server refused a part of it for good; only its log has the error.
    """
    log = folder / "logs" / "debug-internal.log"
    whole = not log.exists() or '"level":"ERROR' not in log.read_text(encoding="utf-8", errors="replace")
    if whole:
        (folder / UPLOADING).unlink(missing_ok=True)
    return whole


def run_summary(record: Record) -> dict[str, Any]:
    """The figures of a record, what its gates do, and its cost, by their names in W&B."""
    gates = {
        f"gates/{layer}/{context}/{name}": figures[name]
        for layer, contexts in (record.gates or {"layers": {}})["layers"].items()
        for context, figures in contexts.items()
        for name in ("mass", "contribution_share")
        if figures[name] is not None
    }
    return {
        **gates,
        **record.figures,
        "best_epoch": record.best_epoch,
        "cost/params": record.total("params"),
        "cost/macs": record.total("macs"),
        "cost/neck_params": record.cost["neck"]["params"],
        "cost/neck_macs": record.cost["neck"]["macs"],
        "cost/fit_seconds": record.fit_seconds,
        "cost/images_per_s": record.images_per_s,
    }


def run_tags(choices: Mapping[str, str], overrides: Sequence[str], axes: Sequence[str], seed: int) -> list[str]:
    """Tags such as `neck=focal`, `focal_level=3` and `seed=0`: a run's place on the axes, and its neck's options."""
    pairs = [text.lstrip("+").partition("=") for text in overrides if not text.startswith("~")]
    given = {key: value for key, _, value in pairs}
    values = {**given, **{key: choices[key] for key in axes if key in choices}, "seed": str(seed)}
    keys = dict.fromkeys([*axes, *(key for key in given if key.startswith("neck.")), "seed"])
    # W&B refuses an empty tag and one of more than 64 characters.
    return [f"{key.removeprefix('neck.')}={values[key]}"[:64] for key in keys if key in values]


def project_name(study: str) -> str:
    """The study's name as W&B takes it."""
    return re.sub(r"[/\\#?%:]+", "-", study)[:128]


def run_files(folder: Path) -> list[Path]:
    """The files of the W&B runs in a folder, the newest last."""
    return sorted(folder.glob("wandb/*run-*/run-*.wandb"), key=lambda file: (run_number(file), file))


def run_number(file: Path) -> int:
    """Which run of its cell a file holds: `run-HASH.wandb` the first, `run-HASH-2.wandb` the second."""
    number = file.stem.rpartition("-")[2]
    return int(number) if file.stem.count("-") > 1 and number.isdigit() else 1


def wandb_mode(mode: str | None) -> tuple[str, str | None]:
    """How runs are to be opened; asks the server once a process, and for no longer than `PROBE_S`.

    Args:
        mode: `online`, `offline`, or None to choose by WANDB_MODE and whether there is a key.

    Returns:
        `online` or `offline`, and where it is offline against the wish, why.

    Raises:
        ValueError: Another mode.
    """
    try:
        mode = mode or os.environ.get("WANDB_MODE") or ("online" if has_wandb_key() else "offline")
    except WandbError as error:  # such as a key of the wrong length
        return "offline", f"{error}"
    if mode not in ("online", "offline"):
        raise ValueError(f"logger.mode={mode}: must be online, offline or null; logger=none leaves W&B out")
    if mode == "offline":
        return mode, None
    # W&B's reports on itself go to the same server, and the process waits for them at its end: 10 s to 22 s if it is silent.
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    server = _server()
    if server not in _found:
        _found[server] = _probe(server)
    return ("offline" if _found[server] else "online"), _found[server]


def has_wandb_key() -> bool:
    """Whether an API key is configured (WANDB_API_KEY, settings file or .netrc); asks no server and no person."""
    return wandb.login(prompt=False, verify=False)


def offline_line(why: str) -> str:
    """What to tell where runs are offline against the wish."""
    return f"W&B is left alone ({why}); runs are written to disk, from where wandb sync uploads them"


@cache  # so that it is told once
def tell(line: str) -> None:
    """Print a line, the first time that a process has it to say."""
    Console(soft_wrap=True, highlight=False).print(line, markup=False)


def _server() -> str:
    """The server's address, from WANDB_BASE_URL or W&B's settings."""
    return wandb.setup().settings.base_url


def _probe(server: str) -> str | None:
    """Why a server does not answer, or None if it does."""
    outcome: list[str | None] = [f"{server} has not answered within {PROBE_S:.0f} s"]

    def ask() -> None:
        try:
            urlopen(Request(server, method="HEAD"), timeout=PROBE_S).close()
        except HTTPError as error:
            outcome[0] = f"{server} answers with {error.code}" if error.code >= 500 else None
        except URLError as error:
            # Who is asked for another certificate is there; W&B has its own ways of trusting one.
            outcome[0] = None if isinstance(error.reason, ssl.SSLError) else f"{server}: {error.reason}"
        except (OSError, HTTPException) as error:
            outcome[0] = f"{server}: {error}"
        else:
            outcome[0] = None

    # In a thread, since looking up a name has a time limit of its own, and a long one.
    thread = Thread(target=ask, daemon=True)
    thread.start()
    thread.join(PROBE_S)
    return outcome[0]
