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
import torch.distributed as dist
from lightning_fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment
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


def started_outside(trainer: dict[str, Any]) -> bool:
    """Whether a launcher such as torchrun or srun, or Lightning in another process, has started each rank of a run.

    Else Lightning starts the other ranks, also within an allocation of SLURM, whose variables it would take for its own.
    """
    return not is_single(trainer) and (dist.is_torchelastic_launched() or _is_step() or "LOCAL_RANK" in os.environ)


def group_size(trainer: dict[str, Any]) -> int:
    """The number of ranks where each was started from outside; 0 where the environment does not say.

    SLURM's address and port become those that torch looks for, MASTER_ADDR and MASTER_PORT.
    """
    if _is_slurm(trainer):
        slurm = SLURMEnvironment(auto_requeue=False)
        os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"] = slurm.main_address, str(slurm.main_port)
        return slurm.world_size()
    return int(os.environ.get("WORLD_SIZE", "0"))


def rank(trainer: dict[str, Any]) -> int:
    """This process's rank, known before there is a trainer.

    A run of one process has rank 0 even inside an allocation of SLURM, and so has the one that is to start the others.
    """
    found = 0
    if started_outside(trainer):
        if dist.is_torchelastic_launched():
            found = int(os.environ["RANK"])
        elif _is_slurm(trainer):
            found = int(os.environ["SLURM_PROCID"])
        else:
            nodes = int(trainer.get("num_nodes") or 1)
            node = int(os.environ.get("NODE_RANK", os.environ.get("GROUP_RANK", "0")))
            found = node * (group_size(trainer) // nodes) + int(os.environ["LOCAL_RANK"])
    setattr(rank_zero_only, "rank", found)  # noqa: B010, which Lightning sets without declaring it
    return found


def cluster(trainer: dict[str, Any]) -> ClusterEnvironment:
    """Lightning's plugin for where a run's processes come from; by itself it would take any job of SLURM for the run's."""
    if is_single(trainer) or not started_outside(trainer):
        return LightningEnvironment()
    if dist.is_torchelastic_launched():
        return TorchElasticEnvironment()
    return SLURMEnvironment(auto_requeue=False) if _is_slurm(trainer) else LightningEnvironment()


def set_threads(processes: int = 1) -> None:
    """Give torch this process's share of the cores, unless OMP_NUM_THREADS says how many threads it may have.

    A task of SLURM has SLURM_CPUS_PER_TASK of them, whatever the machine has. Where nobody says, one process is left to torch.

    Args:
        processes: Number of a run's processes on this machine.
    """
    given = os.environ.get("SLURM_CPUS_PER_TASK", "")
    if "OMP_NUM_THREADS" in os.environ or (processes == 1 and not given.isdecimal()):
        return
    own_task = _is_step() and "LOCAL_RANK" not in os.environ
    cores = int(given) if given.isdecimal() else len(os.sched_getaffinity(0))
    torch.set_num_threads(max(1, cores if own_task and given.isdecimal() else cores // processes))


def _is_slurm(trainer: dict[str, Any]) -> bool:
    """Whether srun has started each rank; within such a task, torchrun or Lightning may have started more."""
    return not is_single(trainer) and _is_step() and not dist.is_torchelastic_launched() and "LOCAL_RANK" not in os.environ


def _is_step() -> bool:
    """Whether this process is one of several tasks of a step of SLURM; a batch script and a shell are none."""
    tasks = os.environ.get("SLURM_STEP_NUM_TASKS", os.environ.get("SLURM_NTASKS", "1"))
    shell = os.environ.get("SLURM_JOB_NAME") in ("bash", "interactive")
    return "SLURM_STEP_ID" in os.environ and tasks.isdecimal() and int(tasks) > 1 and not shell


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """Keep Lightning's advertisements off the screen, and its warnings about what is meant to be so or cannot be helped."""
    levels = {logger: logger.level for logger in map(logging.getLogger, ("pytorch_lightning", "lightning_fabric"))}
    for logger in levels:
        logger.setLevel(logging.WARNING)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r".*isinstance\(treespec, LeafSpec\)")  # Lightning's own call
        warnings.filterwarnings("ignore", message=r"The number of training batches .* logging interval")  # epochs are logged
        warnings.filterwarnings("ignore", message=r"It is recommended to use `self.log\(")  # all ranks log the same
        warnings.filterwarnings("ignore", message=r".*could not find the monitored key")  # val may be skipped in an epoch
        warnings.filterwarnings("ignore", message=r"Checkpoint directory .* exists and is not empty")  # a resumed run's
        warnings.filterwarnings("ignore", message=r"The `srun` command is available")  # a login node's, for no run of ours
        warnings.filterwarnings("ignore", message=r"Grad strides do not match bucket view")  # DDP, of an axis with one entry
        try:
            yield
        except SystemExit as end:  # which Lightning makes of Ctrl-C
            if isinstance(end.__context__, KeyboardInterrupt):
                raise KeyboardInterrupt from None
            raise
        finally:
            for logger, level in levels.items():
                logger.setLevel(level)
