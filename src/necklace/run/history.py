"""The learning curve of a run: one row for each epoch, in `history.csv` and on a line of its own; epochs count from 1."""

import csv
import io
import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Checkpoint
from pytorch_lightning.trainer.states import TrainerFn
from rich.console import Console

from necklace.atomic import write_whole
from necklace.data.datamodule import Batch
from necklace.run.conditions import device_name


class History(Checkpoint):
    """Keeps the metrics of each epoch; its rows travel in the checkpoint, so a resumed run continues its curve.

    A `Checkpoint`, since Lightning calls those last at the end of an epoch, when the task has logged all its metrics; it has to
    come before the ModelCheckpoint that saves its rows. All loggers are given its epochs, so that they count from 1 as well.

    Args:
        path: The CSV file, rewritten whole after each epoch.
        console: Where to print a line for each epoch.
    """

    def __init__(self, path: Path, console: Console) -> None:
        self.path, self.console = path, console
        self.rows: list[dict[str, Any]] = []
        self.extras: list[dict[str, float]] = []  # for each row, what a logger was given beside it
        self.resumed = 0
        self.segments: list[dict[str, Any]] = []  # what trained from which epoch on, where that changed
        self._started = 0.0
        self._images = 0

    def state_dict(self) -> dict[str, Any]:
        """The rows so far."""
        return {"rows": self.rows, "extras": self.extras, "resumed": self.resumed, "segments": self.segments}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up the rows of a checkpoint."""
        self.rows, self.extras = list(state_dict["rows"]), list(state_dict["extras"])
        self.resumed = state_dict["resumed"] + 1
        self.segments = list(state_dict["segments"])

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Tell loggers where the run goes on, and give them the rows so far: they show one history without a step back.

        The file is brought back to them: it may be damaged, and no epoch may be left to write it again.

        Most loggers start anew in a resumed run. One that continues what it wrote before has a method `begin`, is told the
        first step that is still to come, and takes of the rows what it lacks.
        """
        trains = {"world_size": trainer.world_size, "device": device_name(trainer.strategy.root_device)}
        if not self.segments or {name: self.segments[-1][name] for name in trains} != trains:
            self.segments.append({"epoch": trainer.current_epoch + 1, **trains})
        if self.rows and trainer.is_global_zero:
            write_whole(self.path, self._table())
        for logger in trainer.loggers:
            begin = getattr(logger, "begin", None)
            if begin:
                begin(self.rows[-1]["step"] if self.rows else 0)
        for row, extra in zip(self.rows, self.extras, strict=True):
            metrics = extra | {name: value for name, value in row.items() if name not in ("step", "images", "seconds")}
            for logger in trainer.loggers:
                logger.log_metrics(metrics, step=row["step"] - 1)  # Lightning counts a logger's steps from 0

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the epoch's clock and its count of images."""
        self._started = time.perf_counter()
        self._images = 0

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        """Count the step's images, those of all ranks."""
        self._images += batch.total

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Give loggers the epoch with its val metrics; by themselves they would count from 0."""
        if trainer.state.fn == TrainerFn.FITTING:
            pl_module.log("epoch", float(trainer.current_epoch + 1))

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Add the epoch's row; Lightning saves checkpoints after this."""
        epoch = trainer.current_epoch + 1
        pl_module.log("epoch", float(epoch))
        metrics = {name: float(value) for name, value in sorted(trainer.callback_metrics.items()) if name != "epoch"}
        seconds = time.perf_counter() - self._started
        row = {
            "epoch": epoch,
            "step": trainer.global_step,
            **metrics,
            "images": self._images,
            "seconds": seconds,
        }
        self.rows.append(row)
        # Loggers keep what they were given with each epoch, so that a resumed run can give it again.
        scalars: list[dict[int, dict[str, float]]] = [getattr(logger, "scalars", {}) for logger in trainer.loggers]
        kept = [by_epoch.pop(row["epoch"], {}) for by_epoch in scalars]
        self.extras.append({name: value for given in kept for name, value in given.items() if name not in row})
        if not trainer.is_global_zero:
            return
        write_whole(self.path, self._table())
        shown = "  ".join(f"{name} {value:.4g}" for name, value in metrics.items())
        self.console.print(f"epoch {epoch}/{trainer.max_epochs}  {shown}  {seconds:.1f} s")

    def _table(self) -> str:
        """The rows so far, as CSV."""
        table = io.StringIO()
        writer = csv.DictWriter(table, list(dict.fromkeys(name for row in self.rows for name in row)))
        writer.writeheader()
        writer.writerows(self.rows)
        return table.getvalue()
