"""Jobs side by side on this machine, each in a process of its own, in as many slots as its GPUs or cores allow.

Environment variables that libraries read while they are imported count as they were when the server was started; all others as
they are when a job starts.
"""

import logging
import math
import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, JobStatus, filter_overrides
from omegaconf import DictConfig, OmegaConf

from necklace.launcher.hydra_jobs import JobLost
from necklace.launcher.job import Job
from necklace.launcher.server import WorkerProcess, stop, wait
from necklace.launcher.slots import Slot, release, slots_of_machine, visible_gpus
from necklace.launcher.worker import Conditions
from necklace.locks import Lock

log = logging.getLogger(__name__)

PLUGIN = "hydra_plugins.necklace_local.LocalLauncher"
# How often to look whether another launcher has left a slot.
LOOK_S = 0.2
# How often to ask for a job that was not known before.
ASK_S = 2.0


@dataclass(frozen=True)
class LocalOptions:
    """Options of `hydra/launcher=local`.

    Attributes:
        slots: Runs at a time. None: on GPUs, as many as there are GPUs for; else as many as there are cores for.
        threads: CPU threads of a slot. None: the cores are shared out evenly among the slots, or if their number is open as
            well, each process of a run gets one.
        script: The script of which a command line trains one run: by it Lightning starts a run's other processes. Made
            absolute.
        lock_dir: Folder of the slots' locks: launchers with the same folder never use a core or a GPU at the same time.
        log_dir: Folder for what the runs print, a file each: `0.log` for the first. None: it goes where the launcher's goes.

    Raises:
        ValueError: A value is out of range.
    """

    slots: int | None
    threads: int | None
    script: str
    lock_dir: str
    log_dir: str | None

    def __post_init__(self) -> None:
        for name, value in (("slots", self.slots), ("threads", self.threads)):
            if value is not None and value < 1:
                raise ValueError(f"hydra.launcher.{name}={value}: must be at least 1, or null")
        object.__setattr__(self, "script", os.path.abspath(self.script))


def launching_overrides(hydra_overrides: Sequence[str]) -> list[str]:
    """Overrides of Hydra's options for a study's runs: this launcher, unless another is asked for."""
    if any(text.startswith("hydra/launcher=") for text in hydra_overrides):
        return list(hydra_overrides)
    # Hydra's own lines would come between those of the overview.
    return ["hydra/hydra_logging=none", "hydra/launcher=local", *hydra_overrides]


def is_local(launcher: DictConfig) -> bool:
    """Whether the node `hydra.launcher` of a composed config chooses this project's launcher."""
    return launcher.get("_target_") == PLUGIN


def job_processes(config: DictConfig) -> tuple[int, bool]:
    """The number of processes of a run, and whether it uses GPUs where the machine has any.

    Args:
        config: The run's config. Its `trainer` may hold Lightning's `accelerator` and `devices` (a number, a list of numbers,
            or all with -1 and auto).
    """
    on_gpu = OmegaConf.select(config, "trainer.accelerator", default="auto") in ("auto", "gpu", "cuda")
    devices = OmegaConf.select(config, "trainer.devices", default=1)
    if str(devices) in ("auto", "-1"):
        return max(1, len(visible_gpus()) if on_gpu else 0), on_gpu
    return max(1, len(devices) if OmegaConf.is_list(devices) else int(devices)), on_gpu


@dataclass
class _Running:
    job: Job
    process: WorkerProcess
    locks: list[Lock]


def run_jobs(
    jobs: Iterable[Job | None],
    options: LocalOptions,
    ended: Callable[[int, JobReturn], None] = lambda index, result: None,
    until: float = math.inf,
) -> dict[int, JobReturn]:
    """Run jobs, in their order as slots become free; a job that fails does not stop the others.

    Args:
        jobs: The jobs; the next one is taken when the one before it has started. None where the next one is not known yet: as
            long as a job runs, it is asked for again every `ASK_S` seconds, and when one has ended.
        options: How to run them.
        ended: Called with a job's index and result as soon as it ends, which may be long before this function returns.
        until: No job starts after this moment of `time.monotonic`.

    Returns:
        A job's index to its result, of the jobs that have started. A process that died gives a failure that says how.

    Raises:
        RuntimeError: The server died.
    """
    for folder in (options.lock_dir, options.log_dir):
        if folder is not None:
            Path(folder).mkdir(parents=True, exist_ok=True)
    results: dict[int, JobReturn] = {}
    running: list[_Running] = []
    queue, none_left = iter(jobs), object()
    asked: Any = next(queue, none_left)
    try:
        while isinstance(asked, Job) or running:
            while isinstance(asked, Job):
                if time.monotonic() >= until:
                    asked = none_left
                elif started := _start(asked, options):
                    running.append(started)
                    asked = next(queue, none_left)
                else:
                    break
            # While a job waits for a slot, another launcher may leave one; while none is known, another may make one known.
            if running or isinstance(asked, Job):
                wait([each.process for each in running], LOOK_S if isinstance(asked, Job) else ASK_S if asked is None else None)
            for each in [each for each in running if each.process.collect()]:
                running.remove(each)
                results[each.job.index] = _finish(each)
                ended(each.job.index, results[each.job.index])
            if asked is None:
                asked = next(queue, none_left)
    finally:
        stop([each.process for each in running])
        for each in running:
            release(each.locks)
    return results


def failed(overrides: Iterable[str], error: Exception) -> JobReturn:
    """The result of a job that failed with an error."""
    result = JobReturn(overrides=list(overrides), status=JobStatus.FAILED)
    result.return_value = error
    return result


def _start(job: Job, options: LocalOptions) -> _Running | None:
    """Start a job in the first slot that is free on this machine, or None if none is."""
    for slot in slots_of_machine(job.processes, job.on_gpu, options.slots, options.threads):
        locks = slot.lock(Path(options.lock_dir))
        if locks is None:
            continue
        log.info(f"\t#{job.index} : {' '.join(filter_overrides(job.overrides))}")
        try:
            return _Running(job, WorkerProcess(job, _conditions(job, slot, options)), locks)
        except BaseException:
            release(locks)
            raise
    return None


def _conditions(job: Job, slot: Slot, options: LocalOptions) -> Conditions:
    environment = dict(os.environ)
    if slot.gpus is not None:
        environment["CUDA_VISIBLE_DEVICES"] = ",".join(slot.gpus)
    log_file = None if options.log_dir is None else os.path.abspath(Path(options.log_dir) / f"{job.index}.log")
    return Conditions(environment, slot.cores, slot.threads, log_file)


def _finish(ended: _Running) -> JobReturn:
    """Close a job that has ended and release its slot; gives its result."""
    how = ended.process.close()
    release(ended.locks)
    which = f"rank 0 of {ended.job.processes}, " if ended.job.processes > 1 else ""
    words = f"{which}the process of the run [{' '.join(ended.job.overrides)}] {how}"
    # By SIGTERM somebody has ended it, such as a batch system; anything else it has done itself, and would do again.
    error = JobLost(words) if how.endswith("SIGTERM") else RuntimeError(words)
    return ended.process.result or failed(ended.job.overrides, error)
