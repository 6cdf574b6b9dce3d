"""Times that can be compared: ways of doing the same in turn, on one thread, in CPU time, and refused on a busy machine."""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch.nn import functional as F

from necklace.cli import bench_machine
from necklace.cli.bench_machine import TooBusyError

# Rounds that are tried for each one that is wanted.
TRIES = 5

Work = Callable[[], object]


@dataclass
class Times:
    """The rounds of one way.

    Attributes:
        ms: Milliseconds of each round: of CPU time, or of the GPU.
        wall: Milliseconds by the clock.
    """

    ms: list[float] = field(default_factory=list)
    wall: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        """Median of `ms`."""
        return statistics.median(self.ms)

    @property
    def quartiles(self) -> tuple[float, float]:
        """First and third quartile of `ms`."""
        first, _, third = statistics.quantiles(self.ms, n=4, method="inclusive")
        return first, third

    @property
    def waiting(self) -> float:
        """Median of wall time over `ms`."""
        return statistics.median(wall / ms for wall, ms in zip(self.wall, self.ms, strict=True))


def interleaved(ways: Mapping[str, Work], rounds: int, device: torch.device) -> dict[str, Times]:
    """Time every way in each round, in turn and back again, after two rounds to warm up.

    On the CPU, a round in which the process waited for a core is measured anew.

    Args:
        ways: Name to work.
        rounds: Measured rounds, at least 2.
        device: Where the work is done. On a GPU its own time counts, on the CPU that of this process.

    Raises:
        TooBusyError: On the CPU, too few of five times as many rounds had a wall time of at most 1.1 of their CPU time.
    """
    times, waiting = {name: Times() for name in ways}, []
    for number in range(-2, TRIES * rounds):
        names = list(ways) if number % 2 else list(reversed(list(ways)))
        found = {name: _milliseconds(ways[name], device) for name in names}
        waiting.append(sum(wall for _, wall in found.values()) / sum(ms for ms, _ in found.values()))
        if number < 0 or (device.type == "cpu" and waiting[-1] > bench_machine.BUSY):
            continue
        for name, (ms, wall) in found.items():
            times[name].ms.append(ms)
            times[name].wall.append(wall)
        if all(len(own.ms) == rounds for own in times.values()):
            return times
    found = f"a median of {statistics.median(waiting):.2f} in {len(waiting)} rounds of {', '.join(ways)}"
    raise TooBusyError(f"wall / CPU of one thread had {found}")


def best_rates(dtype: torch.dtype, device: torch.device) -> dict[str, float]:
    """GMAC a second of torch.mm and of a 1x1 convolution, whose best is what a neck's speed is compared with."""
    a, b = (torch.randn(1024, 1024, device=device, dtype=dtype) for _ in range(2))
    maps = torch.randn(16, 256, 20, 20, device=device, dtype=dtype).contiguous(memory_format=torch.channels_last)
    weight = torch.randn(512, 256, 1, 1, device=device, dtype=dtype)
    works: dict[str, Work] = {"torch.mm": lambda: a @ b, "1x1 convolution": lambda: F.conv2d(maps, weight)}
    macs = {"torch.mm": 1024**3, "1x1 convolution": 16 * 20 * 20 * 256 * 512}
    with torch.no_grad():
        times = interleaved(works, 10, device)
    return {name: macs[name] / 1e6 / min(times[name].ms) for name in works}


def _milliseconds(work: Work, device: torch.device) -> tuple[float, float]:
    if device.type == "cuda":
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        started = time.perf_counter()
        start.record()
        work()
        end.record()
        end.synchronize()
        return start.elapsed_time(end), 1000 * (time.perf_counter() - started)
    cpu, started = time.process_time(), time.perf_counter()
    work()
    return 1000 * (time.process_time() - cpu), 1000 * (time.perf_counter() - started)
