"""A run's checkpoints: `best.ckpt`, chosen on val, `last.ckpt`, from which an interrupted run continues, and the one before it.

The best epoch is the one with the highest metric on val; of several, the one with the lowest loss on val; of several still, the
first. Where val is small, many epochs have equal metrics, and the first of them has trained least.
"""

import io
import math
import os
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins import TorchCheckpointIO
from pytorch_lightning.callbacks import ModelCheckpoint

from necklace.atomic import write_whole
from necklace.run.stamp import check_own, stamped

LAST, PREVIOUS = "last.ckpt", "previous.ckpt"


def checkpoints(folder: Path, monitor: str) -> list["Kept"]:
    """The callbacks that write them at the end of each epoch, in the order in which Lightning has to call them.

    Lightning's own `save_last` writes only after epochs that were the best so far: whatever came since would be trained again.

    Args:
        folder: Where to.
        monitor: The metric on val that chooses; the larger, the better. Between equal ones `val/loss` does.
    """
    # Not after validation: the epoch's row of the history would be missing.
    common: dict[str, Any] = {"enable_version_counter": False, "save_on_train_epoch_end": True}
    return [Kept(folder, "best", monitor, mode="max", **common), Kept(folder, "last", **common)]


class Kept(ModelCheckpoint):
    """Lets the loss on val decide between equal metrics.

    Knows the best epoch also where the folder has been moved, to another disk or mount, before the run went on. Lightning then
    forgets the best score, and takes the next epoch for the best, however bad it is.

    Attributes:
        best_epoch: The best epoch so far, from 0; None before val was evaluated, and where nothing chooses.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._best_loss = math.inf
        self.best_epoch: int | None = None

    def check_monitor_top_k(self, trainer: pl.Trainer, current: torch.Tensor | None = None) -> bool:
        """Whether the epoch is the best so far; the same on all ranks, which have the same metrics."""
        better = super().check_monitor_top_k(trainer, current)
        if self.monitor is None or current is None:
            return better
        loss = float(trainer.callback_metrics["val/loss"])
        if not better:
            tie = float(current) == float(self.best_k_models[self.kth_best_model_path]) and loss < self._best_loss
            better = trainer.strategy.reduce_boolean_decision(tie)
        if better:
            self._best_loss = math.inf if math.isnan(loss) else loss
            self.best_epoch = trainer.current_epoch
        return better

    def state_dict(self) -> dict[str, Any]:
        """The best epoch and its loss besides Lightning's own state, without the folder: a checkpoint may be passed on."""
        state = super().state_dict() | {"best_loss": self._best_loss, "best_epoch": self.best_epoch, "dirpath": ""}
        named = {name: Path(state[name]).name for name in ("best_model_path", "kth_best_model_path", "last_model_path")}
        kept = {Path(path).name: score for path, score in state["best_k_models"].items()}
        return state | named | {"best_k_models": kept}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up the state of a checkpoint that lies in this folder, wherever it was written."""
        here = str(Path(str(self.dirpath)) / f"{self.filename}.ckpt")
        moved: dict[str, Any] = {"dirpath": self.dirpath}
        for name in ("best_model_path", "kth_best_model_path", "last_model_path"):
            moved[name] = here if state_dict[name] else ""
        moved["best_k_models"] = dict.fromkeys([here], state_dict["best_model_score"]) if state_dict["best_k_models"] else {}
        self._best_loss, self.best_epoch = state_dict["best_loss"], state_dict["best_epoch"]
        super().load_state_dict(state_dict | moved)


class WholeCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint whole or not at all, with its run's hash, and reads no other run's.

    Lightning's own goes by way of the temporary folder, which may be another disk. What `last.ckpt` was becomes
    `previous.ckpt`.

    Args:
        run_hash: The run's.
    """

    def __init__(self, run_hash: str) -> None:
        self.run_hash = run_hash

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write a checkpoint to `path`, whose folder is made if need be."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        content = io.BytesIO()
        torch.save(stamped(checkpoint, self.run_hash), content)
        if path.name == LAST and path.exists():
            os.replace(path, path.with_name(PREVIOUS))
        write_whole(path, content.getvalue())

    def load_checkpoint(self, path: Any, *options: Any, **more: Any) -> dict[str, Any]:
        """Read a checkpoint of this run.

        Raises:
            ForeignCheckpoint: It is another's.
        """
        checkpoint = super().load_checkpoint(path, *options, **more)
        check_own(checkpoint, path, self.run_hash)
        return checkpoint


@dataclass(frozen=True)
class Saved:
    """A whole checkpoint.

    Attributes:
        path: Its file.
        epoch: The epoch, from 0, after which it was written.
        best_epoch: The best epoch so far, of which `best.ckpt` holds the weights; None where val was not evaluated yet.
    """

    path: Path
    epoch: int
    best_epoch: int | None


def read_saved(path: Path, run_hash: str) -> Saved | None:
    """What a checkpoint says of itself; None where it is damaged: empty, cut, or not what was written.

    Args:
        path: Its file.
        run_hash: Of the run that it has to be of.

    Raises:
        ForeignCheckpoint: It is of another run.
        ValueError: It is whole, and no checkpoint of a run.
        OSError: The disk cannot be read.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            if archive.testzip() is not None:  # reads all of it, and compares with the checksums
                return None
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, ValueError):
        return None
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, UnpicklingError, LookupError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(_no_checkpoint(path, error)) from error
    check_own(content if isinstance(content, dict) else {}, path, run_hash)
    try:
        (best,) = [state for state in content["callbacks"].values() if "best_epoch" in state and state["monitor"] is not None]
        return Saved(path, int(content["epoch"]), best["best_epoch"])
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(_no_checkpoint(path, error)) from error


def _no_checkpoint(path: Path, error: Exception) -> str:
    words = str(error).partition("\n")[0]
    return f"{path}: is no checkpoint of a run ({words}); remove it"
