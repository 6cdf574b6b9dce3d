"""The machine that a benchmark runs on: what it is, and whether it is free."""

import hashlib
import os
import time
from concurrent.futures import ThreadPoolExecutor

import torch

from necklace.allocator import keep_freed_memory
from necklace.run.conditions import device_name, versions

# Wall time over CPU time of a thread that has a core to itself is 1. Beyond this limit it waited for a core, and its caches
# were another's: its times say more of the neighbours than of the code.
BUSY = 1.1
CORES = len(os.sched_getaffinity(0))
_LOOK_S = 0.3
# Looks before a machine counts as busy, and seconds between them: what passes at once does not end a benchmark.
_LOOKS, _PAUSE_S = 3, 1.0
_BLOCK = bytes(2**18)


class TooBusyError(RuntimeError):
    """Other load on the machine keeps times from meaning anything, so nothing is written."""

    def __init__(self, what: str) -> None:
        super().__init__(
            f"the machine is busy (load {_averages()}): {what}, allowed is {BUSY:g}; nothing is written, try again when it is "
            "free"
        )


class Machine:
    """The machine while a benchmark runs on it.

    From then on this process computes on one thread and keeps the memory that it frees.

    Args:
        threads: How many threads the benchmark keeps busy at a time, in all its processes; each needs a core to itself.
        device: Where it computes.

    Raises:
        TooBusyError: The machine is busy.
    """

    def __init__(self, threads: int = 1, device: torch.device | None = None) -> None:
        self._threads, self._device = threads, device or torch.device("cpu")
        self._keeps = keep_freed_memory()
        torch.set_num_threads(1)
        self._before = self._load()

    def facts(self) -> list[str]:
        """What the head of a table says of it, a line each.

        Raises:
            TooBusyError: The machine has become busy meanwhile.
        """
        capability = f", {torch.backends.cpu.get_cpu_capability()}" if self._device.type == "cpu" else ""
        after = self._load()
        return [
            f"machine: {device_name(self._device)}{capability}, {CORES} core{'s' * (CORES != 1)}, {self._words()} at a time",
            f"versions: {', '.join(f'{name} {version}' for name, version in versions().items())}",
            f"allocator: {'freed memory is kept (mallopt)' if self._keeps else 'as the C library has it'}",
            f"load: {self._before} before, {after} after; wall / CPU of {self._words()}, and averages",
        ]

    def _words(self) -> str:
        return "one thread" if self._threads == 1 else f"{self._threads} threads"

    def _load(self) -> str:
        """Whether each thread gets a core, and the system's averages.

        Raises:
            TooBusyError: It does not, in any of a few looks.
        """
        waits = waiting(self._threads)
        for _ in range(_LOOKS - 1):
            if waits <= BUSY:
                break
            time.sleep(_PAUSE_S)
            waits = waiting(self._threads)
        if waits > BUSY:
            raise TooBusyError(f"wall / CPU of {self._words()} is {waits:.2f}")
        return f"{waits:.2f} ({_averages()})"


def waiting(threads: int) -> float:
    """Wall time over CPU time of threads that compute for a moment, all at once; the largest of them."""
    with ThreadPoolExecutor(threads) as pool:
        return max(pool.map(lambda _: _wall_over_cpu(), range(threads)))


def _wall_over_cpu() -> float:
    wall, cpu = time.perf_counter(), time.thread_time()
    while time.perf_counter() - wall < _LOOK_S:
        hashlib.sha256(_BLOCK)  # which needs no lock of Python's, so that threads do not wait for each other
    return (time.perf_counter() - wall) / (time.thread_time() - cpu)


def _averages() -> str:
    return " ".join(f"{value:.2f}" for value in os.getloadavg())
