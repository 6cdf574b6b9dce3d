"""The progress bar of a training in a terminal: it carries the loss of the last steps and the last epoch's val metric."""

import time
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import RichProgressBar

from necklace.data.datamodule import Batch

# Seconds between two looks at the loss, for which a GPU has to be waited for.
LOOK_S = 0.5


class Bar(RichProgressBar):
    """Lightning's bar with epochs that count from 1, and with what a person looks for.

    Args:
        metric: The val metric to show.
    """

    def __init__(self, metric: str) -> None:
        super().__init__()
        self.metric = metric
        self._shown: dict[str, str] = {}
        self._looked = 0.0

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        """Look at the step's loss, now and then."""
        if time.monotonic() - self._looked >= LOOK_S:
            self._shown["loss"] = f"{float(outputs['loss']):.4g}"
            self._looked = time.monotonic()
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def get_metrics(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, Any]:
        """The figures beside the bar."""
        value = trainer.callback_metrics.get(self.metric)
        return self._shown if value is None else {**self._shown, self.metric: f"{float(value):.4g}"}

    def _get_train_description(self, current_epoch: int) -> str:
        return f"epoch {current_epoch + 1}/{self.trainer.max_epochs}"
