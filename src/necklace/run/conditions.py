"""The conditions that a run meets: versions, device, rank."""

import platform
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
