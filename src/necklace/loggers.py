"""Loggers of a run. The local record is the truth; these mirror the run where its users look.

W&B never stops a run (`wandb_runs.py` opens its runs). A run's W&B id is its cell's hash; a run that goes on after a kill
starts another file, which `History` begins with the rows so far: the newest file of a cell holds all of it.
"""

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import wandb
from pytorch_lightning.loggers import CSVLogger, WandbLogger

from necklace.record import Record
from necklace.wandb_runs import FINISH_S, arrived, offline_line, open_run, tell, wandb_mode

# A checkpoint takes longer to upload than numbers do: seconds.
ARTIFACT_S = 60.0
AXES = ("data", "backbone", "neck", "head")


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
        The logger, or None where WANDB_MODE is `disabled`, or W&B does not even start offline, which is told.

    Raises:
        ValueError: Another mode.
    """
    label, _, cell_hash = folder.name.rpartition("_")
    mode, why = wandb_mode(mode)
    if mode == "disabled":
        return None
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
