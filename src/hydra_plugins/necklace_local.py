"""Hydra launcher `local`: each cell in a process of its own on this machine, in as many slots as its GPUs or cores allow.

    python train.py -m hydra/launcher=local neck=none,spp,sppf seed=0,1,2
    python train.py -m hydra/launcher=local hydra.launcher.slots=2 hydra.launcher.threads=4 ...

A process that starts cold imports for some eight seconds. Here a server imports once and is forked for each cell. Environment
variables that libraries read while they are imported count as they were when the first launcher of this process was set up; all
others as they are at `launch`.
"""

import logging
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn, JobStatus, configure_log, filter_overrides, setup_globals
from hydra.errors import HydraException
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict

from hydra_plugins._necklace_cell import Order, TaskName, pack
from hydra_plugins._necklace_server import CellProcess, start_server, stop, wait
from necklace.study.compose import Composer

log = logging.getLogger(__name__)

# Overrides that say how to launch, and nothing about a cell.
LAUNCHING = ("hydra.mode", "hydra/launcher", "hydra.launcher", "hydra/sweeper", "hydra.sweeper")
# How often to look whether another launcher has left a slot.
LOOK_S = 0.2


@dataclass
class LocalLauncherConf:
    """Options of `hydra/launcher=local`.

    Attributes:
        slots: Cells at a time. None: on GPUs, as many as there are GPUs for; else as many as there are cores for.
        threads: CPU threads of a slot. None: the cores are shared out evenly among the slots, or if their number is open as
            well, each process of a cell gets one.
        script: The script of which a command line runs one cell: by it Lightning starts a cell's other processes. None: the one
            that is running.
        pool: Folder of the slots' locks: launchers with one pool never use a core or a GPU at the same time.
        log_dir: Folder for what the cells print, a file each: `0.log` for the first. None: it goes where the launcher's goes.
    """

    _target_: str = "hydra_plugins.necklace_local.LocalLauncher"
    slots: int | None = None
    threads: int | None = None
    script: str | None = None
    pool: str = "${outputs}/.slots"
    log_dir: str | None = None


ConfigStore.instance().store(group="hydra/launcher", name="local", node=LocalLauncherConf, provider="necklace")


@dataclass(frozen=True)
class Slot:
    """A fixed share of the machine.

    Attributes:
        cores: Its cores.
        gpus: Its GPUs as CUDA_VISIBLE_DEVICES names them, or None if it is a share of the CPU alone.
        threads: CPU threads for each process in it.
        locks: Names of the files that stand for its cores and GPUs.
    """

    cores: tuple[int, ...]
    gpus: tuple[str, ...] | None
    threads: int
    locks: tuple[str, ...]


@dataclass(frozen=True)
class _Job:
    index: int
    overrides: list[str]
    argv: list[str]
    config: DictConfig


@dataclass
class _Running:
    job: _Job
    cell: CellProcess
    locks: list[FileLock]


class LocalLauncher(Launcher):
    """See `LocalLauncherConf` for the options.

    Attributes:
        ended: Is told of each job as it ends, which may be long before `launch` returns: its index and what became of it.
    """

    def __init__(self, slots: int | None, threads: int | None, script: str | None, pool: str, log_dir: str | None) -> None:
        for name, value in (("slots", slots), ("threads", threads)):
            if value is not None and value < 1:
                raise ValueError(f"hydra.launcher.{name}={value}: must be at least 1, or null")
        self._slots, self._threads = slots, threads
        self._script = os.path.abspath(script or sys.argv[0])
        self._pool = Path(pool)
        self._log_dir = None if log_dir is None else Path(log_dir)
        self.ended: Callable[[int, JobReturn], None] = lambda index, result: None

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Remember what to launch, and start the server: it imports while the caller goes on.

        Raises:
            ValueError: The task function cannot be found from another process.
        """
        self._context, self._config = hydra_context, config
        self._task = TaskName.of(task_function)
        start_server()

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run the jobs, in this order as slots become free; a job that fails does not stop the others.

        Returns:
            What became of each, in the order of the jobs.

        Raises:
            RuntimeError: The server died.
        """
        setup_globals()
        configure_log(self._config.hydra.hydra_logging, self._config.hydra.verbose)
        for folder in (Path(str(self._config.hydra.sweep.dir)), self._pool, self._log_dir):
            if folder is not None:
                folder.mkdir(parents=True, exist_ok=True)
        log.info(f"Launching {len(job_overrides)} jobs on this machine")
        results: dict[int, JobReturn] = {}
        jobs = self._jobs(job_overrides, initial_job_idx, results)
        running: list[_Running] = []
        try:
            job = next(jobs, None)
            while job or running:
                while job and (started := self._start(job)):
                    running.append(started)
                    job = next(jobs, None)
                wait([each.cell for each in running], LOOK_S if job else None)
                for ended in [each for each in running if each.cell.collect()]:
                    running.remove(ended)
                    results[ended.job.index] = self._finish(ended)
                    self.ended(ended.job.index, results[ended.job.index])
        finally:
            stop([each.cell for each in running])
            for each in running:
                _release(each.locks)
        return [results[index] for index in sorted(results)]

    def _jobs(self, job_overrides: Sequence[Sequence[str]], first: int, results: dict[int, JobReturn]) -> Iterator[_Job]:
        """Compose each job when its turn comes; one that cannot be composed goes to the results instead."""
        master = self._config
        composer = Composer(self._context.config_loader, master.hydra.job.config_name)
        # A cell is a single run, whatever it was launched by: the processes that Lightning starts by its command line must not
        # go through the whole multirun themselves.
        kept = [text for text in master.hydra.overrides.hydra if not text.lstrip("+~").startswith(LAUNCHING)]
        for index, own in enumerate(job_overrides, first):
            overrides = [*kept, "hydra.mode=RUN", *own]
            try:
                config = composer.compose(overrides)
            except HydraException as error:
                results[index] = _failure(list(own), None, error)
                continue
            OmegaConf.copy_cache(from_config=master, to_config=config)  # one ${now:} for all cells
            with open_dict(config):
                config.hydra.job.id = str(index)
                config.hydra.job.num = index
            yield _Job(index, list(own), [self._script, *_config_flags(config), *overrides], config)

    def _start(self, job: _Job) -> _Running | None:
        """Start a job in the first slot that is free on this machine, or None if none is."""
        for slot in self._layout(job.config):
            locks = self._lock(slot)
            if locks is None:
                continue
            log.info(f"\t#{job.index} : {' '.join(filter_overrides(job.overrides))}")
            try:
                return _Running(job, CellProcess(self._order(job, slot)), locks)
            except BaseException:
                _release(locks)
                raise
        return None

    def _order(self, job: _Job, slot: Slot) -> Order:
        """What the server is to do for a job."""
        environment = dict(os.environ)
        if slot.gpus is not None:
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(slot.gpus)
        return Order(
            task=self._task,
            job=pack(job.config, self._context),
            overrides=job.overrides,
            argv=job.argv,
            environment=environment,
            cores=slot.cores,
            threads=slot.threads,
            log=None if self._log_dir is None else str(self._log_dir.absolute() / f"{job.index}.log"),
        )

    def _finish(self, ended: _Running) -> JobReturn:
        """Let go of a job that has ended, and say what became of it."""
        how = ended.cell.close()
        _release(ended.locks)
        words = f"the process of the cell [{' '.join(ended.job.overrides)}] {how}"
        return ended.cell.result or _failure(ended.job.overrides, ended.job.config, RuntimeError(words))

    def _lock(self, slot: Slot) -> list[FileLock] | None:
        """Take a slot, from other launchers as well as from this one's own jobs, or None if a part of it is taken."""
        locks = []
        for name in slot.locks:
            lock = FileLock(self._pool / name, thread_local=False)
            try:
                lock.acquire(blocking=False)
            except Timeout:
                _release(locks)
                return None
            locks.append(lock)
        return locks

    def _layout(self, config: DictConfig) -> list[Slot]:
        """The machine, shared out for cells with the processes of this one."""
        cores = sorted(os.sched_getaffinity(0))
        on_gpu = OmegaConf.select(config, "trainer.accelerator", default="auto") in ("auto", "gpu", "cuda")
        gpus = visible_gpus() if on_gpu else []
        devices = _device_count(OmegaConf.select(config, "trainer.devices", default=1), len(gpus))
        if gpus:
            count = self._slots or max(1, len(gpus) // devices)
            threads = self._threads or max(1, len(cores) // count)
        else:
            threads = self._threads or (max(1, len(cores) // self._slots) if self._slots else devices)
            count = self._slots or max(1, len(cores) // threads)
        slots = []
        for index in range(count):
            own_cores, own_gpus = _seats(len(cores), index, threads), _seats(len(gpus), index, devices)
            slots.append(
                Slot(
                    cores=tuple(cores[position] for position, _ in own_cores),
                    gpus=tuple(gpus[position] for position, _ in own_gpus) if gpus else None,
                    threads=max(1, threads // devices),
                    locks=(
                        *(_lock_name("gpu", gpus[position], layer) for position, layer in own_gpus),
                        *(_lock_name("core", cores[position], layer) for position, layer in own_cores),
                    ),
                )
            )
        return slots


def visible_gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them; asks the driver without touching them."""
    import torch

    named = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    return [named[index] if index < len(named) and named[index] else str(index) for index in range(torch.cuda.device_count())]


def _device_count(devices: Any, gpus: int) -> int:
    """Processes of a cell, from Lightning's `devices`: a number, a list of them, or all with -1 and auto."""
    if str(devices) in ("auto", "-1"):
        return max(1, gpus)
    return max(1, len(devices) if OmegaConf.is_list(devices) else int(devices))


def _seats(count: int, slot: int, size: int) -> list[tuple[int, int]]:
    """Positions of a slot's share among `count` cores or GPUs; more slots than there is room for come to lie in layers."""
    seats: dict[int, int] = {}
    for place in range(slot * size, slot * size + size) if count else ():
        layer, position = divmod(place, count)
        seats.setdefault(position, layer)
    return list(seats.items())


def _lock_name(kind: str, name: object, layer: int) -> str:
    return f"{kind}-{name}".replace("/", "-") + (f"-layer-{layer}" if layer else "") + ".lock"


def _release(locks: list[FileLock]) -> None:
    for lock in locks:
        lock.release()


def _failure(overrides: list[str], config: DictConfig | None, error: Exception) -> JobReturn:
    result = JobReturn(overrides=overrides, cfg=config, status=JobStatus.FAILED)
    result.return_value = error
    return result


def _config_flags(config: DictConfig) -> list[str]:
    """Hydra's flags that lead a script to the same configs, wherever the launcher was told to take them from."""
    flags = {"main": "--config-path", "command-line": "--config-dir"}
    sources = [source for source in config.hydra.runtime.config_sources if source.provider in flags and source.path]
    paths = [("pkg://" if source.schema == "pkg" else "") + source.path for source in sources]
    named = [f"{flags[source.provider]}={path}" for source, path in zip(sources, paths, strict=True)]
    return [*named, f"--config-name={config.hydra.job.config_name}"]
