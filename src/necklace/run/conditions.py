"""The conditions that a run meets: versions, device, rank, and what Lightning may say."""

import logging
import os
import platform
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from lightning_fabric.utilities.rank_zero import rank_zero_only

PACKAGES = ("torch", "torchvision", "pytorch-lightning", "torchmetrics", "timm", "hydra-core", "wandb", "numpy")


@cache
def versions() -> dict[str, str]:
    """Versions of Python and of the packages that results depend on; looked up once a process."""
    return {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}}


def device_name(device: torch.device) -> str:
    """The model of the GPU or the CPU."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines() if cpuinfo.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()


def precision_note(precision: str, device: torch.device) -> str | None:
    """What to know about a precision on a device, or None: bf16 gains only where the processor has instructions for it."""
    if not precision.startswith("bf16") or device.type != "cpu" or not hasattr(torch.cpu, "get_capabilities"):
        return None
    able = torch.cpu.get_capabilities()
    if any(able.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16")):
        return None
    return (
        f"this processor has no instructions for bf16, so trainer.precision={precision} is some four times slower than "
        "trainer.precision=32-true"
    )


def hide_absent_gpus() -> None:
    """Where there is no GPU, let nobody look for one again: torch does in each step of an optimizer, which takes 0.25 ms."""
    if not torch.cuda.is_available():
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


def is_single(trainer: dict[str, Any]) -> bool:
    """Whether a run is one process, by its resolved `trainer` config, whatever the environment says of other processes."""
    devices = trainer.get("devices", 1)
    count = len(devices) if isinstance(devices, list) else devices
    return str(count) == "1" and str(trainer.get("num_nodes") or 1) == "1"


def rank(trainer: dict[str, Any]) -> int:
    """This process's rank, known before there is a trainer.

    A run of one process has rank 0 even inside an allocation of SLURM, whose variables Lightning would take for its own.
    """
    if is_single(trainer):
        setattr(rank_zero_only, "rank", 0)  # noqa: B010, which Lightning sets without declaring it
    return getattr(rank_zero_only, "rank", None) or 0


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """Keep Lightning's advertisements off the screen, and its warnings about what is meant to be so or cannot be helped."""
    logger = logging.getLogger("pytorch_lightning")
    level = logger.level
    logger.setLevel(logging.WARNING)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r".*isinstance\(treespec, LeafSpec\)")  # Lightning's own call
        warnings.filterwarnings("ignore", message=r"The number of training batches .* logging interval")  # epochs are logged
        warnings.filterwarnings("ignore", message=r"It is recommended to use `self.log\(")  # all ranks log the same
        warnings.filterwarnings("ignore", message=r".*could not find the monitored key")  # val may be skipped in an epoch
        warnings.filterwarnings("ignore", message=r"Checkpoint directory .* exists and is not empty")  # a resumed run's
        warnings.filterwarnings("ignore", message=r"The `srun` command is available")  # a login node's, for no run of ours
        try:
            yield
        except SystemExit as end:  # which Lightning makes of Ctrl-C
            if isinstance(end.__context__, KeyboardInterrupt):
                raise KeyboardInterrupt from None
            raise
        finally:
            logger.setLevel(level)
