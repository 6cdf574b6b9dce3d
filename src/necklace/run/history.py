"""The learning curve of a run: one row for each epoch, in `history.csv` and, where there is no terminal, on a line."""

import csv
import io
import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Checkpoint
from rich.console import Console

from necklace.atomic import write_whole
from necklace.data.datamodule import Batch


class History(Checkpoint):
    """Keeps the metrics of each epoch; its rows travel in the checkpoint, so a resumed run continues its curve.

    A `Checkpoint`, since Lightning calls those last at the end of an epoch, when the task has logged all its metrics; it has to
    come before the ModelCheckpoint that saves its rows.

    Args:
        path: The CSV file, rewritten whole after each epoch.
        console: Where to print a line for each epoch, or None.
    """

    def __init__(self, path: Path, console: Console | None) -> None:
        self.path, self.console = path, console
        self.rows: list[dict[str, Any]] = []
        self.extras: list[dict[str, float]] = []  # for each row, what a W&B run was given beside it
        self.resumed = 0
        self._started = 0.0
        self._images = torch.zeros((), dtype=torch.int64)

    def state_dict(self) -> dict[str, Any]:
        """The rows so far."""
        return {"rows": self.rows, "extras": self.extras, "resumed": self.resumed}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up the rows of a checkpoint."""
        self.rows, self.extras = list(state_dict["rows"]), list(state_dict["extras"])
        self.resumed = state_dict["resumed"] + 1

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Give loggers, which start anew in a resumed run, the rows so far: they show one history without a step back."""
        for row, extra in zip(self.rows, self.extras, strict=True):
            metrics = extra | {name: value for name, value in row.items() if name not in ("step", "images", "seconds")}
            for logger in trainer.loggers:
                logger.log_metrics(metrics, step=row["step"] - 1)  # Lightning counts a logger's steps from 0

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the epoch's clock and its count of images."""
        self._started = time.perf_counter()
        self._images = torch.zeros((), dtype=torch.int64, device=pl_module.device)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        """Count the step's images, those of all ranks."""
        self._images += batch.total  # a tensor: a GPU is not waited for

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Add the epoch's row; Lightning saves checkpoints after this."""
        metrics = {name: float(value) for name, value in sorted(trainer.callback_metrics.items())}
        seconds = time.perf_counter() - self._started
        row = {
            "epoch": trainer.current_epoch,
            "step": trainer.global_step,
            **metrics,
            "images": int(self._images),
            "seconds": seconds,
        }
        self.rows.append(row)
        # W&B's logger keeps what it was given with each epoch, so that a resumed run can give it again.
        scalars: list[dict[int, dict[str, float]]] = [getattr(logger, "scalars", {}) for logger in trainer.loggers]
        kept = [by_epoch.pop(row["epoch"], {}) for by_epoch in scalars]
        self.extras.append({name: value for given in kept for name, value in given.items() if name not in row})
        if not trainer.is_global_zero:
            return
        table = io.StringIO()
        writer = csv.DictWriter(table, list(dict.fromkeys(name for row in self.rows for name in row)))
        writer.writeheader()
        writer.writerows(self.rows)
        write_whole(self.path, table.getvalue())
        if self.console:
            shown = "  ".join(f"{name} {value:.4g}" for name, value in metrics.items())
            self.console.print(f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}  {shown}  {seconds:.1f} s")
