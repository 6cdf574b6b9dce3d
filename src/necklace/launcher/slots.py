"""Slots: fixed shares of this machine's cores and GPUs, each for one run at a time."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from necklace.atomic import HOST
from necklace.locks import Lock


@dataclass(frozen=True)
class Slot:
    """A fixed share of the machine.

    Attributes:
        cores: Its cores.
        gpus: Its GPUs as CUDA_VISIBLE_DEVICES names them, or None if it holds no GPUs.
        threads: CPU threads for each process in it.
        locks: Names of the files that stand for its cores and GPUs.
    """

    cores: tuple[int, ...]
    gpus: tuple[str, ...] | None
    threads: int
    locks: tuple[str, ...]

    def lock(self, lock_dir: Path) -> list[Lock] | None:
        """Take the slot, from other launchers as well as from this one's own jobs, or None if a part of it is taken.

        Args:
            lock_dir: Folder of the lock files.
        """
        locks = []
        for name in self.locks:
            lock = Lock(lock_dir / name)
            if not lock.take():
                release(locks)
                return None
            locks.append(lock)
        return locks


def release(locks: Sequence[Lock]) -> None:
    """Release a slot, so that others may take it."""
    for lock in locks:
        lock.release()


def slots_of_machine(processes: int, on_gpu: bool, count: int | None, threads: int | None) -> list[Slot]:
    """Share out the machine among jobs that are all alike.

    Args:
        processes: Processes of a job, one for each device.
        on_gpu: Whether the jobs use GPUs where the machine has any.
        count: Number of slots. None: on GPUs, as many as there are GPUs for; else as many as there are cores for.
        threads: CPU threads of a slot. None: the cores are shared out evenly among the slots, or if their number is open as
            well, each process of a job gets one.
    """
    cores = sorted(os.sched_getaffinity(0))
    gpus = visible_gpus() if on_gpu else []
    if gpus:
        count = count or max(1, len(gpus) // processes)
        threads = threads or max(1, len(cores) // count)
    else:
        threads = threads or (max(1, len(cores) // count) if count else processes)
        count = count or max(1, len(cores) // threads)
    slots = []
    for index in range(count):
        own_cores, own_gpus = _seats(len(cores), index, threads), _seats(len(gpus), index, processes)
        slots.append(
            Slot(
                cores=tuple(cores[position] for position, _ in own_cores),
                gpus=tuple(gpus[position] for position, _ in own_gpus) if gpus else None,
                threads=max(1, threads // processes),
                locks=(
                    *(lock_name("gpu", gpus[position], layer) for position, layer in own_gpus),
                    *(lock_name("core", cores[position], layer) for position, layer in own_cores),
                ),
            )
        )
    return slots


def visible_gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them; asks the driver without touching them."""
    import torch

    named = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    return [named[index] if index < len(named) and named[index] else str(index) for index in range(torch.cuda.device_count())]


def _seats(count: int, slot: int, size: int) -> list[tuple[int, int]]:
    """Positions of a slot's share among `count` cores or GPUs; slots that find no room of their own lie on top, in layers."""
    seats: dict[int, int] = {}
    for place in range(slot * size, slot * size + size) if count else ():
        layer, position = divmod(place, count)
        seats.setdefault(position, layer)
    return list(seats.items())


def lock_name(kind: str, name: object, layer: int = 0) -> str:
    """The name carries the machine's: the folder may be on a disk that others share, whose cores are not these."""
    return f"{HOST}-{kind}-{name}".replace("/", "-") + (f"-layer-{layer}" if layer else "") + ".lock"
