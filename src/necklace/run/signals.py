"""Who answers signals while a run trains: whoever did so before, and never Lightning.

Lightning would take SIGTERM as a request to end after the step, and speak to the other ranks from within the handler. In a job
of SLURM it would write a checkpoint of its own in the middle of an epoch, `hpc_ckpt_1.ckpt`, and have the job queued again.

A run continues from the end of an epoch, to the bit; that checkpoint is on disk, whole, so a signal has nothing to save: it
ends the run where it is. What a command says and does then is in `cli/stopping.py`.
"""

import signal
import threading
from types import FrameType
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback

# SIGUSR2 is submitit's, which puts its job back into the queue by itself.
NUMBERS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)


class Signals(Callback):
    """Gives signals back to the handlers they had when it was made; SIGTERM that nobody handles ends the run in good order."""

    def __init__(self) -> None:
        known = {number: signal.getsignal(number) for number in NUMBERS}
        self._handlers: dict[int, Any] = {number: was for number, was in known.items() if was is not None}
        if self._handlers.get(signal.SIGTERM) == signal.SIG_DFL:
            self._handlers[signal.SIGTERM] = _interrupt

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Lightning has set its own by now."""
        self._give_back()

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Lightning has set its own by now."""
        self._give_back()

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Lightning has set its own by now."""
        self._give_back()

    def _give_back(self) -> None:
        if threading.current_thread() is threading.main_thread():
            for number, handler in self._handlers.items():
                signal.signal(number, handler)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
