"""A user's neck that ends everything at a chosen moment: what the tests of resuming are made with.

The file `kill` in the working directory holds a phase and a number: when the phase is reached for the number-th time, the run
is killed with SIGKILL, and the command with it where `pid` names its process. `fits` gets a line for each training that starts.
"""

import os
import signal
from pathlib import Path

import pytorch_lightning as pl
import torch

import necklace.atomic
import necklace.record
import necklace.run.checkpoints
import necklace.run.folder
import necklace.run.history
from necklace.necks import ConvNeck, FocalModulation


def reached(phase: str) -> None:
    """Count the phase, and end it all if this is the moment."""
    plan = Path("kill")
    wanted, _, number = plan.read_text().rpartition(" ") if plan.exists() else ("", "", "0")
    if phase != wanted:
        return
    with open("reached", "ab") as file:
        file.write(b".")
    if Path("reached").stat().st_size == int(number):
        if Path("pid").exists():
            os.kill(int(Path("pid").read_text()), signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGKILL)


class Deadly(ConvNeck):
    """ConvNeck with a fuse."""

    def __init__(self, channels: int, width: int = 8, raises: bool = False) -> None:
        super().__init__(channels, width)
        self.dropout = torch.nn.Dropout(0.2)
        self.raises = raises

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Transform [B, C, h, w], or not."""
        if self.training:
            reached("step")
            if self.raises:
                raise ValueError("this neck raises")
        return self.dropout(super().forward(x))


class DeadlyFocal(FocalModulation):
    """FocalModulation with a fuse, and gates."""

    def __init__(self, channels: int, focal_level: int = 2) -> None:
        super().__init__(channels, focal_level=focal_level)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Transform [B, C, h, w]."""
        if self.training:
            reached("step")
        return super().forward(x)


class HalfWritten:
    """A file that is killed when half of its content is written."""

    def __init__(self, file, phase: str) -> None:
        self.file, self.phase = file, phase

    def write(self, content: bytes) -> int:
        self.file.write(content[: len(content) // 2])
        self.file.flush()
        reached(self.phase)
        return self.file.write(content[len(content) // 2 :])

    def __getattr__(self, name: str):
        return getattr(self.file, name)

    def __enter__(self):
        self.file.__enter__()
        return self

    def __exit__(self, *error):
        return self.file.__exit__(*error)


def deadly_open(path, mode="r", **options):
    """`open` for necklace.atomic: what is written can end half-way."""
    file = open(path, mode, **options)  # noqa: SIM115
    name = Path(path).name
    if "w" in mode and ".ckpt" in name:
        return HalfWritten(file, "in checkpoint")
    return HalfWritten(file, "in record") if "w" in mode and "record.json" in name else file


def write_whole(path: Path, content: str | bytes) -> None:
    """write_whole with moments before and after it."""
    if path.name == "history.csv":
        reached("history")
    if path.name == "record.json":
        reached("before record")
    original(path, content)
    after = {"best.ckpt": "after best", "last.ckpt": "after last", "record.json": "after record"}.get(path.name)
    if after:
        reached(after)


def fit(self, *arguments, **options):
    """Trainer.fit that leaves a line, in the folder of a study: a process of tests that has imported this runs others too."""
    if Path("experiments/tiny").is_dir():
        with open("fits", "a") as file:
            file.write(f"{Path(self.default_root_dir).parent}\n")  # the run's folder
    return original_fit(self, *arguments, **options)


original, original_fit = necklace.atomic.write_whole, pl.Trainer.fit
necklace.atomic.open = deadly_open  # type: ignore[attr-defined]
for module in (necklace.record, necklace.run.folder, necklace.run.history, necklace.run.checkpoints):
    module.write_whole = write_whole  # type: ignore[assignment]
pl.Trainer.fit = fit  # type: ignore[method-assign]
