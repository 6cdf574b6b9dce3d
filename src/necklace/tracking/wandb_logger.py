"""The W&B logger of a run. The local record is the truth; W&B shows a copy of it and never stops a run.

A run's W&B id is the run's hash. A resumed run starts another W&B file, which `History` begins with the rows so far: the newest
file in a run's folder holds all of its history.
"""

import json
import os
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import wandb
from pytorch_lightning.loggers import WandbLogger

from necklace.data.files import readable
from necklace.identity import hash_of_name, leaves, run_words, shortened, shown
from necklace.record import Record
from necklace.tracking.tracker import AboutRun, Tracker, print_once, run_summary, wandb_options
from necklace.tracking.wandb_run import FINISH_S, arrived, link_beside, offline_line, open_run, wandb_mode

# A checkpoint takes longer to upload than numbers do: seconds.
ARTIFACT_S = 60.0
AXES = ("data", "backbone", "neck", "head")
# Characters that W&B takes for a group, and for a job type or a tag.
MOST_GROUP, MOST_WORDS = 128, 64
TABLE_ROWS = 10_000  # the most that a W&B table shows


class WandbRunLogger(Tracker, WandbLogger):
    """Lightning's W&B logger for a run that is open. If W&B breaks down, that is printed once and W&B is not called again.

    Args:
        run: The W&B run.
        folder: The folder of the run that it shows.
    """

    service = "W&B"

    def __init__(self, run: wandb.Run, folder: Path) -> None:
        super().__init__(experiment=run, save_dir=str(folder))
        # Plots go by epochs; a value that comes without one belongs to the last that came with it.
        self.attempt(lambda: (run.define_metric("epoch"), run.define_metric("*", step_metric="epoch")))

    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Log values, or anything else that W&B takes, such as histograms and images; never raises."""
        self.remember(metrics)
        self.attempt(lambda: super(WandbRunLogger, self).log_metrics(metrics, step))  # pyright: ignore[reportArgumentType]

    def log_histograms(self, histograms: Mapping[str, tuple[np.ndarray, np.ndarray]], epoch: int, step: int) -> None:
        """Log histograms.

        Args:
            histograms: Name to counts [n] and edges [n + 1], in even bins, which W&B draws.
            epoch: The epoch that they belong to.
            step: The optimizer steps so far.
        """
        drawn = {name: wandb.Histogram(np_histogram=histogram) for name, histogram in histograms.items()}
        self.log_metrics({"epoch": epoch, **drawn}, step=step - 1)  # W&B's steps are counted from 0

    def log_rows(self, name: str, columns: Sequence[str], rows: Sequence[Mapping[str, Any]], epoch: int, step: int) -> None:
        """Log rows as a table, without those of single classes where W&B would not show them all.

        Args:
            name: The table's name.
            columns: Names of the columns.
            rows: Each row's column to value; `split` is one of the columns.
            epoch: The epoch that they belong to.
            step: The optimizer steps so far.
        """
        shown = rows if len(rows) <= TABLE_ROWS else [row for row in rows if row["split"] != "class"]
        table = wandb.Table(list(columns), [[row[column] for column in columns] for row in shown])
        self.log_metrics({"epoch": epoch, name: table}, step=step - 1)

    def close(self, record: Record | None, checkpoint: Path | None, pictures: Path) -> str | None:
        """Close the active W&B run, so that the next run of this process cannot merge into it; never raises.

        Args:
            record: The run's record, for the W&B run's summary; None marks the W&B run as failed.
            checkpoint: A file to keep with the W&B run as an artifact, or None.
            pictures: A folder, the PNG files of which are shown with the W&B run, if there are any; images with boxes as well,
                which W&B draws over them.

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
            shown_pictures: dict[str, Any] = {
                f"pictures/{file.stem}": wandb.Image(str(file)) for file in pictures.glob("*.png")
            }
            shown_pictures |= {f"pictures/boxes_{number}": image for number, image in enumerate(boxed_images(pictures))}
            if record and shown_pictures:
                run.log({"epoch": record.epochs, **shown_pictures})
            if record and checkpoint:
                metadata = {"best_epoch": record.best_epoch + 1, **record.metrics}
                artifact = wandb.Artifact(f"best-{run.id}", "model", metadata=metadata)
                artifact.add_file(str(checkpoint), policy="immutable")  # which spares a copy of it in the user's cache
                run.log_artifact(artifact, aliases=["best"])
            run.finish(exit_code=0 if record else 1)
        except TimeoutError:
            return f"W&B run: {url}; it did not take all in time, the rest: wandb sync --include-online {shlex.quote(shown)}"
        except Exception as error:  # as in `attempt`
            return f"W&B stopped working ({type(error).__name__}: {error}); what it had written is in {shown}"
        if url is None:
            return f"W&B run (offline): {shown}; upload it with: wandb sync {shlex.quote(shown)}"
        if not arrived(folder):
            return f"W&B run: {url}; it did not take all, the rest: wandb sync --include-online {shlex.quote(shown)}"
        return f"W&B run: {url}"


def boxed_images(pictures: Path) -> list[wandb.Image]:
    """The images of a run that finds objects, with true and predicted boxes as W&B's overlays, shown and hidden by score.

    Args:
        pictures: The folder of a run's pictures.

    Returns:
        None of them where the run finds no objects, or has no pictures.
    """
    path = pictures / "pictures.json"
    found = json.loads(path.read_text(encoding="utf-8")).get("boxes") if path.exists() else None
    if not found:
        return []
    labels = dict(enumerate(map(readable, found["classes"])))
    images = []
    for each in found["images"]:
        found_boxes = [
            _overlay(box, number, f"{labels[number]} {score:.2f}") | {"scores": {"score": score}}
            for *box, number, score in each["found"]
        ]
        true_boxes = [
            _overlay(box, number, labels[number] + (" (does not count)" if flag else "")) for *box, number, flag in each["true"]
        ]
        layers = {"ground_truth": true_boxes, "predictions": found_boxes}
        overlays = {layer: {"box_data": boxes, "class_labels": labels} for layer, boxes in layers.items()}
        images.append(wandb.Image(str(pictures / each["file"]), boxes=overlays, caption=readable(each["name"])))
    return images


def _overlay(box: Sequence[float], number: int, caption: str) -> dict[str, Any]:
    """A box `[x0, y0, x1, y1]` in pixels of its image, as W&B takes it."""
    position = dict(zip(("minX", "minY", "maxX", "maxY"), box, strict=True))
    return {"position": position, "domain": "pixel", "class_id": number, "box_caption": caption}


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
        project: W&B project.
        mode: `online`, `offline`, or None to choose by whether there is a key. WANDB_MODE in the environment counts as well.
        row: A study's name for all runs that differ from this one only in the seed, W&B's job type. None: the group.
        axes: Config keys of which the values become tags, besides all that differs from the defaults, and the seed.
        artifact: Whether `close` will be given a checkpoint.
        **about: The run; the W&B run's files go to `wandb/` in its folder. Its group is all of it but the seed, in words.

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
    said = ", ".join(run_words(about["choices"], about["overrides"]))
    values = {key: shown(value) for key, value in leaves(config).items()} | dict(about["choices"])
    run = open_run(
        folder,
        hash_of_name(folder.name),
        mode,
        FINISH_S + ARTIFACT_S * artifact,
        program="necklace train",
        project=project_name(project),
        group=shortened(said, MOST_GROUP),
        name=folder.name,
        job_type=shortened(row or said, MOST_WORDS),
        tags=run_tags(values, about["overrides"], AXES if axes is None else axes, config["seed"]),
        config=shown_config(config, about["choices"]),
    )
    if run is None:
        return None
    link_beside(folder, Path(run.dir).parent)
    return WandbRunLogger(run, folder)


def shown_config(config: Mapping[str, Any], choices: Mapping[str, str]) -> dict[str, Any]:
    """A run's config as W&B shows it: chosen names stand where people look for them to group by, their options under `options`.

    Args:
        config: The resolved config as plain containers.
        choices: Config group to chosen name.

    Returns:
        Such as `{"neck": "focal", "seed": 0, "options": {"neck": {"focal_level": 2}}}`.
    """
    return {**config, **choices, "options": {group: config[group] for group in choices if group in config}}


def config_column(key: str, choices: Iterable[str]) -> str:
    """The column of W&B's table of runs that shows a key of a run's config, such as `neck` or `neck.focal_level`."""
    first, _, rest = key.partition(".")
    if key in choices or not rest:
        return f"config:{key}.value"
    return f"config:options.value.{key}" if first in choices else f"config:{first}.value.{rest}"


def project_of(loggers: Mapping[str, dict[str, Any]], study: str) -> str:
    """The W&B project that a study's runs go to; its own name, where they have no such logger."""
    return project_name((wandb_options(loggers) or {}).get("project") or study)


def run_tags(values: Mapping[str, str], said: Sequence[str], axes: Sequence[str], seed: int) -> list[str]:
    """Tags such as `neck=focal`, `focal_level=3`, `optimizer.lr=0.01` and `seed=0`: a run's axes, and all that is particular.

    Args:
        values: Config group to chosen name, and option to its value in words.
        said: All that differs from the defaults, see `necklace.identity.differences`.
        axes: Config keys that have a tag even where they are at their default.
        seed: The run's seed.
    """
    gone = [text for text in said if text.startswith("~")]
    given = {key: value for key, _, value in (text.lstrip("+").partition("=") for text in said if text not in gone)}
    tagged = {key: values[key] for key in axes if key in values} | given | {"seed": str(seed)}
    # W&B refuses an empty tag, one of more than 64 characters, and the same one twice.
    tags = [f"{key.removeprefix('neck.')}={value}" for key, value in tagged.items()]
    return list(dict.fromkeys(shortened(tag, MOST_WORDS) for tag in [*tags, *gone]))


def project_name(study: str) -> str:
    """The study's name in characters that W&B accepts."""
    return re.sub(r"[/\\#?%:]+", "-", study)[:128]
