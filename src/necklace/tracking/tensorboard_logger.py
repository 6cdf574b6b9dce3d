"""The TensorBoard logger of a run: event files in its folder, which a resumed run continues.

A run that was killed may have written steps from beyond its last checkpoint. The resumed run takes these steps again; its event
file says from which step on the earlier ones do not count (`purge_step`), which all of TensorBoard's readers heed.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Unpack

import numpy as np
from omegaconf import OmegaConf
from PIL import Image
from pytorch_lightning.loggers import TensorBoardLogger

from necklace.record import Record
from necklace.tracking.tracker import AboutRun, Tracker, run_summary


class TensorBoardRunLogger(Tracker, TensorBoardLogger):
    """Lightning's TensorBoard logger, in `tensorboard/` of the run's folder.

    Args:
        folder: The run's folder.
        config: The resolved config.
        tags: Name to value, shown above the config.
    """

    service = "TensorBoard"

    def __init__(self, folder: Path, config: dict[str, Any], tags: Mapping[str, str]) -> None:
        super().__init__(save_dir=str(folder), name="", version="tensorboard", default_hp_metric=False)
        self._folder, self._config, self._tags = folder, config, tags
        self._begun = False
        self._written: set[tuple[str, int]] = set()

    @property
    def log_dir(self) -> str:
        """The folder of the event files; Lightning would take a `$` or `~` in its path for a variable or a home."""
        return str(self._folder / "tensorboard")

    @property
    def experiment(self) -> Any:
        """TensorBoard's writer.

        Raises:
            AttributeError: Before `begin`: Lightning asks whether there is one before anybody knows at which step it starts.
        """
        if not self._begun:
            raise AttributeError("experiment: not before begin")
        return super().experiment

    def begin(self, step: int) -> None:
        """Start, or continue what an interrupted run wrote.

        Args:
            step: Optimizer steps that the run has behind it; 0 where it starts anew.
        """

        def start() -> None:
            if any(Path(self.log_dir).glob("events.out.tfevents.*")):
                self._written = _scalars(self.log_dir, step) if step else set()
                self._kwargs["purge_step"] = step
            if not step:
                said = "\n".join([self._folder.name, *(f"{name}: {value}" for name, value in self._tags.items())])
                self.experiment.add_text("run", _preformatted(said), 0)
                self.experiment.add_text("config", _preformatted(OmegaConf.to_yaml(OmegaConf.create(self._config))), 0)
            self.experiment.flush()

        self._begun = True
        self.attempt(start)

    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Log numbers, except those that the event files hold already; never raises."""
        self.remember(metrics)
        new = {name: value for name, value in metrics.items() if (name, step) not in self._written}

        def write() -> None:
            super(TensorBoardRunLogger, self).log_metrics(new, step)
            self.experiment.flush()  # else a killed process loses up to two minutes

        self.attempt(write)

    def log_histograms(self, histograms: Mapping[str, tuple[np.ndarray, np.ndarray]], epoch: int, step: int) -> None:
        """Log histograms; never raises.

        Args:
            histograms: Name to counts [n] and edges [n + 1].
            epoch: Not used here: TensorBoard goes by steps.
            step: The optimizer steps so far.
        """

        def write() -> None:
            for name, (counts, edges) in histograms.items():
                middles = (edges[:-1] + edges[1:]) / 2
                self.experiment.add_histogram_raw(
                    name,
                    min=float(edges[0]),
                    max=float(edges[-1]),
                    num=float(counts.sum()),
                    sum=float((counts * middles).sum()),
                    sum_squares=float((counts * middles**2).sum()),
                    bucket_limits=edges[1:].tolist(),
                    bucket_counts=counts.tolist(),
                    global_step=step - 1,  # Lightning counts a logger's steps from 0
                )
            self.experiment.flush()

        self.attempt(write)

    def save(self) -> None:
        """Nothing: Lightning calls this before `begin`, and config.yaml lies in the run's folder."""

    def finalize(self, status: str) -> None:
        """Nothing: a run's metrics come after its training; `close` ends the file."""

    def close(self, record: Record | None, checkpoint: Path | None, pictures: Path) -> str | None:
        """Log what the record holds, and the pictures, and close the event file; never raises.

        Args:
            record: The run's record, or None if it has failed.
            checkpoint: Not used here: TensorBoard shows no files.
            pictures: A folder with PNG files, if there are any.

        Returns:
            One line that says how to look at it; None where nothing was written.
        """
        if self._experiment is None or self._broken:
            return None

        def write() -> None:
            if record:
                summary = {f"record/{name}": float(value) for name, value in run_summary(record).items()}
                self.log_hyperparams(self._config, summary, record.steps)
                for file in sorted(pictures.glob("*.png")):
                    pixels = np.asarray(Image.open(file).convert("RGB"))
                    self.experiment.add_image(f"pictures/{file.stem}", pixels, record.steps, dataformats="HWC")
            self.experiment.close()

        self.attempt(write)
        return f"TensorBoard: tensorboard --logdir {self._folder.parent}"


def tensorboard_logger(**about: Unpack[AboutRun]) -> TensorBoardRunLogger:
    """TensorBoard's event files of a run.

    Args:
        **about: The run; they go to `tensorboard/` in its folder.
    """
    config = about["config"]
    tags = {**about["choices"], "seed": str(config["seed"]), "study": config["study"]}
    return TensorBoardRunLogger(about["folder"], config, tags)


def _scalars(folder: str, before: int) -> set[tuple[str, int]]:
    """Name and step of all scalars of event files from before a step."""
    from tensorboard.backend.event_processing.event_accumulator import SCALARS, EventAccumulator  # slow, and seldom needed

    events = EventAccumulator(folder, {SCALARS: 0})
    events.Reload()
    return {(name, event.step) for name in events.Tags()[SCALARS] for event in events.Scalars(name) if event.step < before}


def _preformatted(text: str) -> str:
    """Text that Markdown shows as it is."""
    return "".join(f"    {line}\n" for line in text.splitlines())
