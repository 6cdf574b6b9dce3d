"""The cost of a study's rows on this machine: latency, training speed and memory, measured side by side at the end.

The rows take turns within one process, so that what else the machine does meets all of them; a figure is the median of rounds.
"""

import multiprocessing
import os
import resource
import signal
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from hydra.core.utils import JobReturn, JobStatus
from hydra.utils import instantiate
from omegaconf import OmegaConf

from necklace.atomic import HOST
from necklace.build import DataFacts, built, facts_of
from necklace.code_version import version_digest
from necklace.heads import Dense
from necklace.launcher.hydra_jobs import JobLost, error_of
from necklace.launcher.local import failed
from necklace.launcher.server import without_main
from necklace.launcher.slots import lock_name
from necklace.launcher.slurm import launch_jobs
from necklace.locks import locked
from necklace.precision import autocast
from necklace.run.conditions import device_name
from necklace.study import elsewhere
from necklace.study.costs import read_costs, write_costs
from necklace.study.plan import Plan, PlannedRun
from necklace.study.store import StudyRun

# After `LEAST` rounds, slow models end it early: no other round begins after so many seconds for each row.
ROUNDS, LEAST, ROW_SECONDS, FORWARDS = 14, 3, 0.5, 10

Row = tuple[dict[str, Any], DataFacts]
"""A row's resolved config, and what its model needs to know of the data."""


def row_costs(
    plan: Plan, runs: Sequence[StudyRun], folder: Path, measure: bool, note: Callable[[str], object] = print
) -> dict[str, dict[str, Any]]:
    """The costs of a study's rows: those in its folder if they are of these runs, or of today's code; else measured now.

    Where the study's runs are jobs of SLURM, they are measured in a job of their own, with what a run is given.

    Args:
        plan: The study.
        runs: Its runs; rows without a finished one have no costs.
        folder: The study's folder.
        measure: Whether to measure what is not known.
        note: Is told that they are measured, and where a job that was to measure them did not; the next call tries again.
    """
    done = {run.record.hash for run in runs if run.record}
    first = {run.row: run for run in reversed(plan.runs) if run.spec.hash in done}
    rows = {row: first[row] for row in plan.rows if row in first}
    marks = {row: _mark(run) for row, run in rows.items()}
    # A stale run stays in the table, and with it what was measured when it was trained.
    valid = {(row, mark["hash"], mark["code"]) for row, mark in marks.items()}
    valid |= {(run.row, run.record.hash, version_digest(run.record.code)) for run in runs if run.record}

    def known() -> dict[str, dict[str, Any]]:
        return {row: cost for row, cost in read_costs(folder).items() if (row, cost["hash"], cost["code"]) in valid}

    if not measure or known().keys() == rows.keys():
        return known()
    with locked(plan.lock_dir / f"{HOST}-costs.lock"):  # of two commands, the second finds what the first has measured
        if known().keys() == rows.keys():
            return known()
        configs = {row: run.spec.resolved for row, run in rows.items()}
        note(f"measuring latency, training speed and memory of {len(rows)} row{'s' * (len(rows) != 1)}")
        if elsewhere.is_slurm(plan):
            returned = _in_a_job(plan, configs, marks)
            if (error := error_of(returned)) is not None:
                note(f"costs were not measured: {str(error).strip().splitlines()[-1] if str(error).strip() else error!r}")
                return known()
            measured: dict[str, dict[str, Any]] = returned.return_value  # pyright: ignore[reportAssignmentType]
        else:
            measured = measure_costs(configs, plan.lock_dir)
        costs = {row: cost | marks[row] for row, cost in measured.items()}
        write_costs(costs, folder)
    return costs


@dataclass(frozen=True)
class CostsJob:
    """What a job of SLURM calls that measures costs.

    Attributes:
        task: What makes it this measurement and no other: each row's run and code.
        configs: Row to the resolved config of one of its runs.
        lock_dir: As `measure_costs` takes it.
    """

    task: str
    configs: Mapping[str, dict[str, Any]]
    lock_dir: Path

    def __call__(self, overrides: Sequence[str], number: int, state: object) -> JobReturn:
        """Measure."""
        measured = measure_costs(self.configs, self.lock_dir)
        return JobReturn(overrides=list(overrides), status=JobStatus.COMPLETED, _return_value=measured)

    def checkpoint(self, *arguments: Any) -> Any:
        """What is queued again when the time is up or the job has to make room: the same, from the beginning."""
        import submitit

        return submitit.helpers.DelayedSubmission(self, *arguments)


def _in_a_job(plan: Plan, configs: Mapping[str, dict[str, Any]], marks: Mapping[str, dict[str, str]]) -> JobReturn:
    options = elsewhere.launcher_options(plan) | {"nodes": 1, "tasks_per_node": 1}
    try:
        (returned,) = launch_jobs(CostsJob(repr(marks), configs, plan.lock_dir), [["costs"]], 0, options)
    except Exception as error:  # whatever SLURM or submitit refuse; the runs are done, and their table is not to be lost
        return failed(["costs"], JobLost(f"{type(error).__name__}: {error}"))
    return returned


def _mark(run: PlannedRun) -> dict[str, str]:
    return {"hash": run.spec.hash, "code": version_digest(run.spec.code)}


def measure_costs(configs: Mapping[str, dict[str, Any]], lock_dir: Path) -> dict[str, dict[str, Any]]:
    """Measure each row in processes of their own, so that this one's memory and threads do not count.

    Args:
        configs: Row to the resolved config of one of its runs.
        lock_dir: Folder of the launcher's locks: no run of any study that shares it trains meanwhile.

    Returns:
        Row to `latency_ms` (a forward pass of one image) and `train_images_per_s` (forward, backward and optimiser step at the
        config's batch size), both in the config's precision, `peak_memory_mib` (of a process that takes such steps; on a GPU,
        of its tensors), `device` and `threads`.

    Raises:
        RuntimeError: A process died.
    """
    rows = {row: (config, facts_of(config)) for row, config in configs.items()}
    cores = sorted(os.sched_getaffinity(0))
    if given := int(os.environ.get("SLURM_CPUS_PER_TASK") or 0):  # a job may see cores of its node that are not its own
        cores = cores[:given]
    lock_dir.mkdir(parents=True, exist_ok=True)
    with ExitStack() as alone:
        for core in cores:
            alone.enter_context(locked(lock_dir / lock_name("core", core)))
        # From the launcher's warm server, where it runs: a fresh process, but not one that imports everything again.
        return _answered(multiprocessing.get_context("forkserver"), _measure, rows, cores)


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
    except BaseException:
        process.kill()
        raise
    finally:
        process.join()
        mine.close()


def _answer(pipe: Any, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)  # to explain them is the parent's
    pipe.send(function(*arguments))
    pipe.close()


def _measure(rows: dict[str, Row], cores: list[int]) -> dict[str, dict[str, Any]]:
    os.sched_setaffinity(0, cores)
    torch.set_num_threads(1)  # with more, forked processes would wait for threads that did not come along
    memory = {row: _answered(multiprocessing.get_context("fork"), _peak_memory, own, len(cores)) for row, own in rows.items()}
    torch.set_num_threads(len(cores))
    return {row: cost | {"peak_memory_mib": memory[row]} for row, cost in _speeds(rows).items()}


class _Subject:
    """The model of a row, ready to be measured."""

    def __init__(self, row: Row) -> None:
        config, facts = OmegaConf.create(row[0]), row[1]
        self.device = torch.device("cuda" if torch.cuda.is_available() and config.trainer.accelerator != "cpu" else "cpu")
        model, (height, width) = built(row[0], facts)
        self.model = model.to(self.device)
        self.precision = config.trainer.get("precision")
        self.optimizer = instantiate(config.optimizer)(self.model.parameters())
        generator = torch.Generator().manual_seed(0)
        images = torch.rand(config.batch_size, 3, height, width, generator=generator)
        self.images = images.to(self.device, memory_format=torch.channels_last)

    def latency_ms(self) -> float:
        self.model.eval()
        times = []
        with torch.inference_mode():
            for _ in range(FORWARDS):
                times.append(self._timed(self.look))
        return 1000 * statistics.median(times)

    def train_images_per_s(self) -> float:
        self.model.train()
        return len(self.images) / self._timed(self.step)

    def look(self) -> None:
        with autocast(self.precision, self.device):
            self.model(self.images[:1])

    def step(self) -> None:
        self.optimizer.zero_grad()
        with autocast(self.precision, self.device):
            outputs = self.model(self.images)
        if isinstance(outputs, Dense):
            (outputs.scores.float().logsumexp(2).mean() + outputs.boxes.float().mean()).backward()
        else:
            outputs.float().logsumexp(1).mean().backward()
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


def _end_unless_wanted() -> None:
    """End this process if nobody waits for its answer any more."""
    parent = multiprocessing.parent_process()
    if parent is not None and not parent.is_alive():
        sys.exit("the process that wanted the costs has ended")


def _speeds(rows: dict[str, Row]) -> dict[str, dict[str, Any]]:
    subjects = {row: _Subject(own) for row, own in rows.items()}
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
            _end_unless_wanted()
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
