"""Train a run, unless its record exists: found? held by another process? stale? failed before?"""

import logging
import shlex
import time
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig
from rich.console import Console

from necklace.build import datamodule_of, instantiated
from necklace.code_version import git_state
from necklace.config import choices_of, resolved
from necklace.record import SCHEMA, Record, pack_bits
from necklace.run.conditions import rank, versions
from necklace.run.fit import fit
from necklace.run.folder import RunFolder, check_writable
from necklace.spec import RunSpec, run_spec


class RunFailed(RuntimeError):
    """A run that started and did not finish; its traceback is in `folder`/FAILED."""


class RunFailedBefore(RuntimeError):
    """A run that has failed before, and nobody asked for another try."""


def run_composed(config: DictConfig, interactive: bool = True) -> Record:
    """`run` what Hydra has composed in this process."""
    hydra_config = HydraConfig.get()
    spec = run_spec(resolved(config), choices_of(hydra_config), list(hydra_config.overrides.task))
    return run(spec, interactive)


def run(spec: RunSpec, interactive: bool = True) -> Record:
    """Train and test a run, or return its record if it has one.

    Args:
        spec: The run.
        interactive: Whether a person asks for this one run: it then waits for another process that trains the same run, and
            tries again what has failed. A study continues with its next run instead.

    Returns:
        The record, which is also in the run's folder as `record.json`.

    Raises:
        RunBusy: Another process trains it, and `interactive` is off.
        RunFailedBefore: It has failed before, and neither `interactive` nor rerun=failed asks for another try.
        RunFailed: Training failed; the folder holds FAILED with the traceback.
        ValueError: The config asks for what cannot be.
    """
    started = time.perf_counter()
    git_state()  # now: a commit made while this trains is not what it trains with; nor is an edit
    rerun, trainer = spec.resolved["rerun"], spec.resolved["trainer"]
    if rerun not in (True, False, "stale", "failed"):
        raise ValueError(f"rerun={rerun}: must be true, false, stale (runs that other code has trained) or failed")
    strategy = str(trainer.get("strategy", "auto"))
    if any(kind in strategy for kind in ("spawn", "fork", "notebook")):
        raise ValueError(f"trainer.strategy={strategy}: what its ranks measure does not come back to the record; use ddp")
    folder = RunFolder.of(spec)
    console = Console(soft_wrap=True, highlight=False, quiet=rank(trainer) != 0)
    # Lightning starts the other ranks of a group as this same command; the first holds the run and has made room by then.
    if rank(trainer):
        return _train(spec, folder, console, started)
    check_writable(spec.root)
    with folder.held(console.print if interactive else None):
        record = folder.record()
        stale = record is not None and record.code != spec.code
        if rerun is True or (rerun == "stale" and stale):
            folder.supersede()
        elif record:
            note = " STALE: the code has changed since." if stale else ""
            shown = _shown(record.metrics)
            console.print(f"This run exists: [bold]{folder.path}[/] ({shown}).{note} rerun=true trains it again.")
            return record
        if not interactive and rerun != "failed" and folder.failed_path.exists():
            raise RunFailedBefore(f"{folder.path}: has failed; rerun=failed tries again")
        folder.prepare(spec, console.print)
        return _train(spec, folder, console, started)


def _train(spec: RunSpec, folder: RunFolder, console: Console, started: float) -> Record:
    """Train, and leave the record behind, or FAILED where that raises."""
    console.print(f"[bold]{folder.path}[/]")
    opened: list[Any] = []
    finished: Record | None = None
    is_first = rank(spec.resolved["trainer"]) == 0

    def open_logger() -> Any:
        if not spec.resolved["logger"] or not is_first:
            return False
        about = {"folder": folder.path, "config": spec.resolved, "choices": spec.choices, "overrides": list(spec.overrides)}
        opened.append(instantiated(spec.config.logger, _partial_=True)(**about) or False)
        return opened[0]

    try:
        data = datamodule_of(spec.resolved)
        if data.digest != spec.identity["data"]["digest"]:
            raise ValueError("data: the images have changed since the run was planned")
        with _quiet_lightning():
            fitted = fit(spec, data, folder, open_logger, console)
        record = _record(spec, folder, fitted, time.perf_counter() - started)
        if is_first:
            folder.finish(record)
        finished = record
        console.print(f"best epoch {record.best_epoch + 1}/{record.epochs}: {_shown(record.metrics)}")
        if spec.resolved["callbacks"]["pictures"] and is_first:
            _draw(folder, console)
    except Exception as error:
        folder.mark_failed(traceback.format_exc())
        words = "\n".join([f"{error}", *getattr(error, "__notes__", [])])
        raise RunFailed(f"{words}\nFAILED; the traceback is in {folder.failed_path}") from error
    finally:
        for logger in opened:
            _close(logger, spec, folder, finished, console)
    return record


def _record(spec: RunSpec, folder: RunFolder, fitted: dict[str, Any], wall_seconds: float) -> Record:
    correct = fitted.pop("test_correct")
    return Record(
        schema=SCHEMA,
        name=folder.name,
        hash=spec.hash,
        choices=spec.choices,
        config=spec.resolved,
        identity=spec.identity,
        test_correct=None if correct is None else pack_bits(correct),
        git=git_state(),
        code=spec.code,
        versions=versions(),
        wall_seconds=wall_seconds,
        **fitted,
    )


def _close(logger: Any, spec: RunSpec, folder: RunFolder, record: Record | None, console: Console) -> None:
    """Close a logger that wants to know how the run ended, such as W&B's."""
    close = getattr(logger, "close", None)
    if close is None:
        return
    line = close(record, folder.best if spec.resolved["logger"].get("artifact") else None, folder.pictures)
    if line:
        console.print(line, markup=False)


def _draw(folder: RunFolder, console: Console) -> None:
    """Draw the pictures of the finished run; where that fails, its record stands nevertheless."""
    try:
        from necklace.diagnostics.pictures import draw_run  # here, as few runs ask for it, and matplotlib takes its time

        lines = draw_run(folder.path)
    except Exception as error:
        again = shlex.join(["necklace", "inspect", str(folder.path)])
        lines = [f"pictures: {error}; the run itself is finished, and {again} tries again"]
    for line in lines:
        console.print(line, markup=False)


@contextmanager
def _quiet_lightning() -> Iterator[None]:
    """Keep Lightning's advertisements off the screen, and its warnings about what is meant to be so or cannot be helped."""
    logger = logging.getLogger("pytorch_lightning")
    level = logger.level
    logger.setLevel(logging.WARNING)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r".*isinstance\(treespec, LeafSpec\)")  # Lightning's own call
        warnings.filterwarnings("ignore", message=r"The number of training batches .* logging interval")  # epochs are logged
        warnings.filterwarnings("ignore", message=r".*could not find the monitored key")  # val may be skipped in an epoch
        warnings.filterwarnings("ignore", message=r"Checkpoint directory .* exists and is not empty")  # a resumed run's
        warnings.filterwarnings("ignore", message=r"The `srun` command is available")  # a login node's, for no run of ours
        try:
            yield
        finally:
            logger.setLevel(level)


def _shown(metrics: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in sorted(metrics.items()))
