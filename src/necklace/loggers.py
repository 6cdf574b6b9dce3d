"""Loggers of a run. The local record is the truth; these mirror the run where its users look."""

import os
from pathlib import Path
from typing import Any

import wandb
from pytorch_lightning.loggers import CSVLogger, WandbLogger


def wandb_logger(folder: Path, cell: str, config: dict[str, Any], project: str, mode: str | None = None) -> WandbLogger:
    """A W&B run of its own in the run's folder, online where a key is configured and offline elsewhere.

    Args:
        folder: The run's folder; files go to its `wandb/`.
        cell: The run's name.
        config: The resolved config as plain containers.
        project: W&B project.
        mode: `online`, `offline`, or None to choose by whether there is a key. WANDB_MODE in the environment counts as well.

    Raises:
        ValueError: Another mode.
    """
    mode = mode or os.environ.get("WANDB_MODE") or ("online" if has_wandb_key() else "offline")
    if mode not in ("online", "offline"):
        raise ValueError(f"logger.mode={mode}: must be online, offline or null; logger=none leaves W&B out")
    # The run is opened here and not by Lightning, whose `offline=True` would set WANDB_MODE for every later run of the process,
    # and not in the middle of `fit`, where forked workers would lose it.
    experiment = wandb.init(
        project=project,
        name=cell,
        dir=str(folder),
        mode=mode,
        # A run that is still active, such as a failed one's, would otherwise be handed out again and the new config lost.
        reinit="finish_previous",
        config=config,
        settings=wandb.Settings(console="off", silent=True),
    )
    return WandbLogger(experiment=experiment, save_dir=str(folder))


def has_wandb_key() -> bool:
    """Whether an API key is configured (WANDB_API_KEY, settings file or .netrc); asks no server and no person."""
    return wandb.login(prompt=False, verify=False)


def csv_logger(folder: Path, cell: str, config: dict[str, Any]) -> CSVLogger:
    """Lightning's CSV of every logged step, in the run's folder as `csv/metrics.csv`."""
    return CSVLogger(save_dir=str(folder), name="", version="csv")


def finish_wandb(summary: dict[str, float], failed: bool) -> str | None:
    """Close the active W&B run, so that the next run of this process cannot merge into it.

    Args:
        summary: Figures for the run's summary.
        failed: Whether to mark the run as failed.

    Returns:
        One line that says where the run is and how to upload it, or None if no run was active.
    """
    run = wandb.run
    if run is None:
        return None
    run.summary.update(summary)
    folder, url = Path(run.dir).parent, None if run.offline else run.url
    run.finish(exit_code=1 if failed else 0)
    if url is None:
        return f"W&B run (offline): {os.path.relpath(folder)}; upload it with: wandb sync {os.path.relpath(folder)}"
    return f"W&B run: {url}"
