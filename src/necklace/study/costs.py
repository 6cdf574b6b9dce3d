"""What the rows of a study cost on this machine: latency, training speed and memory, measured side by side at the end.

The rows take turns within one process, so that what else the machine does meets all of them; a figure is the median of rounds.
"""

import multiprocessing
import os
import resource
import signal
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from hydra_plugins._necklace_server import without_main
from necklace.run import device_name
from necklace.study.untrained import DataFacts, built, facts_of, resolved

# After `LEAST` rounds, slow models end it early: no other round begins after so many seconds for each row.
ROUNDS, LEAST, ROW_SECONDS, FORWARDS = 14, 3, 0.5, 10

Row = tuple[Any, DataFacts]
"""A row's config as plain containers, and what its model has to know of the data."""


def measure_costs(configs: Mapping[str, DictConfig], pool: Path) -> dict[str, dict[str, Any]]:
    """Measure each row in processes of their own, so that this one's memory and threads do not count.

    Args:
        configs: Row to the composed config of one of its cells, without Hydra's own part.
        pool: Folder of the launcher's locks: no cell of any study that shares it runs meanwhile.

    Returns:
        Row to `latency_ms` (a forward pass of one image), `train_images_per_s` (forward, backward and optimiser step at the
        config's batch size), `peak_memory_mib` (of a process that takes such steps; on a GPU, of its tensors),
        `device` and `threads`.

    Raises:
        RuntimeError: A process died.
    """
    plain = {row: (OmegaConf.to_container(config), facts_of(resolved(config))) for row, config in configs.items()}
    cores = sorted(os.sched_getaffinity(0))
    pool.mkdir(parents=True, exist_ok=True)
    with ExitStack() as alone:
        for core in cores:
            alone.enter_context(FileLock(pool / f"core-{core}.lock"))
        # From the launcher's warm server, where it runs: a fresh process, but not one that imports everything again.
        return _answered(multiprocessing.get_context("forkserver"), _measure, plain, cores)


def _answered(context: Any, function: Callable[..., Any], *arguments: Any) -> Any:
    """The function's result from a process of its own."""
    mine, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_answer, args=(theirs, function, arguments))
    with without_main():
        process.start()
    theirs.close()
    try:
        return mine.recv()
    except EOFError:
        process.join()
        raise RuntimeError(f"the process that measures costs ended with exit code {process.exitcode}") from None
    finally:
        process.join()
        mine.close()


def _answer(pipe: Any, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C is the parent's to explain
    pipe.send(function(*arguments))
    pipe.close()


def _measure(plain: dict[str, Row], cores: list[int]) -> dict[str, dict[str, Any]]:
    os.sched_setaffinity(0, cores)
    torch.set_num_threads(1)  # with more, forked processes would wait for threads that did not come along
    memory = {row: _answered(multiprocessing.get_context("fork"), _peak_memory, own, len(cores)) for row, own in plain.items()}
    torch.set_num_threads(len(cores))
    return {row: cost | {"peak_memory_mib": memory[row]} for row, cost in _speeds(plain).items()}


class _Subject:
    """A row's model, ready to be measured."""

    def __init__(self, row: Row) -> None:
        config, facts = DictConfig(row[0]), row[1]
        self.device = torch.device("cuda" if torch.cuda.is_available() and config.trainer.accelerator != "cpu" else "cpu")
        model, (height, width) = built(config, facts)
        self.model = model.to(self.device)
        self.optimizer = instantiate(config.optimizer)(self.model.parameters())
        generator = torch.Generator().manual_seed(0)
        images = torch.rand(config.batch_size, 3, height, width, generator=generator)
        self.images = images.to(self.device, memory_format=torch.channels_last)

    def latency_ms(self) -> float:
        self.model.eval()
        times = []
        with torch.inference_mode():
            for _ in range(FORWARDS):
                times.append(self._timed(lambda: self.model(self.images[:1])))
        return 1000 * statistics.median(times)

    def train_images_per_s(self) -> float:
        self.model.train()
        return len(self.images) / self._timed(self.step)

    def step(self) -> None:
        self.optimizer.zero_grad()
        self.model(self.images).logsumexp(1).mean().backward()
        self.optimizer.step()

    def _timed(self, work: Callable[[], object]) -> float:
        self._wait()
        started = time.perf_counter()
        work()
        self._wait()
        return time.perf_counter() - started

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def _go_on() -> None:
    """End this process if nobody waits for its answer any more."""
    parent = multiprocessing.parent_process()
    if parent is not None and not parent.is_alive():
        sys.exit("the process that wanted the costs has ended")


def _speeds(plain: dict[str, Row]) -> dict[str, dict[str, Any]]:
    subjects = {row: _Subject(own) for row, own in plain.items()}
    for subject in subjects.values():  # the first pass of each allocates and chooses algorithms
        subject.latency_ms()
        subject.train_images_per_s()
    latencies: dict[str, list[float]] = {row: [] for row in subjects}
    speeds: dict[str, list[float]] = {row: [] for row in subjects}
    started = time.perf_counter()
    for number in range(ROUNDS):
        if number >= LEAST and time.perf_counter() - started > ROW_SECONDS * len(subjects):
            break
        for row, subject in subjects.items():
            _go_on()
            latencies[row].append(subject.latency_ms())
            speeds[row].append(subject.train_images_per_s())
    return {
        row: {
            "latency_ms": float(f"{statistics.median(latencies[row]):.4g}"),
            "train_images_per_s": float(f"{statistics.median(speeds[row]):.4g}"),
            "device": device_name(subject.device),
            "threads": torch.get_num_threads(),
        }
        for row, subject in subjects.items()
    }


def _peak_memory(row: Row, threads: int) -> float:
    torch.set_num_threads(threads)
    subject = _Subject(row)
    for _ in range(2):  # the first makes room for the optimizer's moments
        subject.step()
    if subject.device.type == "cuda":
        return round(torch.cuda.max_memory_allocated(subject.device) / 2**20, 1)
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10, 1)  # Linux counts in KiB
