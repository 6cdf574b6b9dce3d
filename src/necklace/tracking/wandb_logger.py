"""The W&B logger of a run. The local record is the truth; W&B shows a copy of it and never stops a run.

A run's W&B id is the run's hash. A resumed run starts another W&B file, which `History` begins with the rows so far: the newest
file in a run's folder holds all of its history.
"""

import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict, Unpack

import numpy as np
import wandb
from pytorch_lightning.loggers import WandbLogger

from necklace.record import Record
from necklace.tracking.wandb_run import FINISH_S, arrived, offline_line, open_run, print_once, wandb_mode

# A checkpoint takes longer to upload than numbers do: seconds.
ARTIFACT_S = 60.0
AXES = ("data", "backbone", "neck", "head")
TABLE_ROWS = 10_000  # the most that a W&B table shows


class AboutRun(TypedDict):
    """Arguments that every logger of a run is given, by name.

    Attributes:
        folder: The run's folder.
        config: The resolved config as plain containers.
        choices: Config group to chosen name.
        overrides: The command's overrides.
    """

    folder: Path
    config: dict[str, Any]
    choices: Mapping[str, str]
    overrides: Sequence[str]


class WandbRunLogger(WandbLogger):
    """Lightning's W&B logger for a run that is open. If W&B breaks down, that is printed once and W&B is not called again.

    Args:
        run: The W&B run.
        folder: The folder of the run that it shows.

    Attributes:
        scalars: Epoch to the numbers that were logged with it; `History` takes them from here.
    """

    def __init__(self, run: wandb.Run, folder: Path) -> None:
        super().__init__(experiment=run, save_dir=str(folder))
        self.scalars: dict[int, dict[str, float]] = {}
        self._broken = False
        # Plots go by epochs; a value that comes without one belongs to the last that came with it.
        self._attempt(lambda: (run.define_metric("epoch"), run.define_metric("*", step_metric="epoch")))

    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Log values, or anything else that W&B takes, such as histograms and images; never raises."""
        if "epoch" in metrics:
            numbers = {name: float(value) for name, value in metrics.items() if isinstance(value, int | float)}
            self.scalars.setdefault(int(metrics["epoch"]), {}).update(numbers)
        self._attempt(lambda: super(WandbRunLogger, self).log_metrics(metrics, step))  # pyright: ignore[reportArgumentType]

    def log_gates(
        self,
        columns: Sequence[str],
        rows: Sequence[Mapping[str, Any]],
        histograms: Mapping[tuple[str, str], tuple[np.ndarray, np.ndarray]],
        epoch: int,
        step: int,
    ) -> None:
        """Log a pass over val: a few scalars for each focal layer, a histogram for each gate, and the rows as a table.

        Args:
            columns: Names of the columns.
            rows: The rows of the pass, each column to value.
            histograms: Layer and context to counts [n] and edges [n + 1] of the gate, in even bins, which W&B draws.
            epoch: The epoch of the pass.
            step: The optimizer steps so far.
        """
        logged: dict[str, Any] = {"epoch": epoch}
        for row in rows:
            if row["split"] != "all":
                continue
            layer, context = f"gates/{row['layer']}", f"gates/{row['layer']}/{row['context']}"
            scalars = {f"{context}/{name}": row[name] for name in ("mass", "contribution_share")}
            scalars[f"{layer}/entropy"] = row["entropy"]
            logged |= {name: value for name, value in scalars.items() if value is not None}
            histogram = histograms.get((row["layer"], row["context"]))
            if histogram is not None:
                logged[f"{context}/gate"] = wandb.Histogram(np_histogram=histogram)
        shown = rows if len(rows) <= TABLE_ROWS else [row for row in rows if row["split"] != "class"]
        logged["gates/table"] = wandb.Table(list(columns), [[row[name] for name in columns] for row in shown])
        self.log_metrics(logged, step=step - 1)  # W&B's steps are counted from 0

    def close(self, record: Record | None, checkpoint: Path | None, pictures: Path) -> str | None:
        """Close the active W&B run, so that the next run of this process cannot merge into it; never raises.

        Args:
            record: The run's record, for the W&B run's summary; None marks the W&B run as failed.
            checkpoint: A file to keep with the W&B run as an artifact, or None.
            pictures: A folder, the PNG files of which are shown with the W&B run, if there are any.

        Returns:
            One line that says where the W&B run is and how to upload it, or None if none was active.
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
                metadata = {"best_epoch": record.best_epoch, **record.metrics}
                artifact = wandb.Artifact(f"best-{run.id}", "model", metadata=metadata)
                artifact.add_file(str(checkpoint), policy="immutable")  # which spares a copy of it in the user's cache
                run.log_artifact(artifact, aliases=["best"])
            run.finish(exit_code=0 if record else 1)
        except TimeoutError:
            return f"W&B run: {url}; it did not take all in time, the rest: wandb sync --include-online {shown}"
        except Exception as error:  # as in `_attempt`
            return f"W&B stopped working ({type(error).__name__}: {error}); what it had written is in {shown}"
        if url is None:
            return f"W&B run (offline): {shown}; upload it with: wandb sync {shown}"
        if not arrived(folder):
            return f"W&B run: {url}; it did not take all, the rest: wandb sync --include-online {shown}"
        return f"W&B run: {url}"

    def _attempt(self, action: Callable[[], object]) -> None:
        """Let W&B do something, unless it has broken down."""
        if self._broken:
            return
        try:
            action()
        except Exception as error:  # whatever W&B's own process died of: the training is worth more than its copy
            self._broken = True
            print_once(f"W&B stopped working ({type(error).__name__}: {error}); the run continues without it")


def wandb_logger(
    project: str,
    mode: str | None = None,
    row: str | None = None,
    axes: Sequence[str] | None = None,
    artifact: bool = False,
    **about: Unpack[AboutRun],
) -> WandbRunLogger | None:
    """A W&B run of its own in the run's folder: online where a key is configured and the server answers, else offline.

    Args:
        project: W&B project, and the run's group in it.
        mode: `online`, `offline`, or None to choose by whether there is a key. WANDB_MODE in the environment counts as well.
        row: Name of all runs that differ from this one only in the seed, W&B's job type. None: the folder's, without the seed.
        axes: Config keys of which the values become tags, besides the neck's options and the seed.
        artifact: Whether `close` will be given a checkpoint.
        **about: The run; the W&B run's files go to `wandb/` in its folder.

    Returns:
        The logger, or None where WANDB_MODE is `disabled`, or W&B does not even start offline, which is printed.

    Raises:
        ValueError: Another mode.
    """
    mode, why = wandb_mode(mode)
    if mode == "disabled":
        return None
    if why:
        print_once(offline_line(why))
    folder, config = about["folder"], about["config"]
    label, _, run_hash = folder.name.rpartition("_")
    run = open_run(
        folder,
        run_hash,
        mode,
        FINISH_S + ARTIFACT_S * artifact,
        project=project_name(project),
        group=project_name(project),
        name=folder.name,
        job_type=(row or re.sub(r"_s\d+$", "", label))[:64],
        tags=run_tags(about["choices"], about["overrides"], AXES if axes is None else axes, config["seed"]),
        config=config,
    )
    return None if run is None else WandbRunLogger(run, folder)


def run_summary(record: Record) -> dict[str, Any]:
    """The metrics of a record, its gates' main statistics, and its cost, by their names in W&B."""
    gates = {
        f"gates/{layer}/{context}/{name}": statistics[name]
        for layer, contexts in (record.gates or {"layers": {}})["layers"].items()
        for context, statistics in contexts.items()
        for name in ("mass", "contribution_share")
        if statistics[name] is not None
    }
    return {
        **gates,
        **record.metrics,
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
    """The study's name in characters that W&B accepts."""
    return re.sub(r"[/\\#?%:]+", "-", study)[:128]
