"""Jobs of SLURM, by way of submitit: queued, followed until each has ended, and told how each ended.

A job is looked for in SLURM's queue (`squeue`), so nothing waits for one that has vanished, and no accounting (`sacct`) is
needed. Whoever waits may leave: the same launch, made again, takes up those of its jobs that are still in the queue.
"""

import hashlib
import json
import logging
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, filter_overrides, run_job, setup_globals
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict

from necklace.atomic import write_whole
from necklace.launcher.hydra_jobs import JobLost
from necklace.launcher.local import failed

log = logging.getLogger(__name__)

# Options that submitit has for every kind of executor; the others are SLURM's.
SHARED = ("timeout_min", "cpus_per_task", "gpus_per_node", "tasks_per_node", "mem_gb", "nodes", "name", "stderr_to_stdout")
# How often results are looked for, and how often the queue is.
RESULT_S, QUEUE_S = 1.0, 5.0
# A job that has left the queue may take so long to show its result on a network file system.
SHOWN_S = 15.0
JOBS = "jobs.json"


@dataclass
class SlurmCall:
    """What submitit calls in a job, for one run; pickled as it is.

    Attributes:
        context: Hydra's own objects.
        task: What each run calls with its config.
        config: The composed config of the multirun.
    """

    context: HydraContext
    task: TaskFunction
    config: DictConfig

    def __call__(self, overrides: Sequence[str], number: int, state: dict[Any, Any]) -> JobReturn:
        """Compose the run, and carry it out."""
        import submitit

        # Sites warn by either; submitit answers this one, and has the job queued again.
        signal.signal(signal.SIGUSR1, signal.getsignal(signal.SIGUSR2))
        Singleton.set_state(state)
        setup_globals()
        config = self.context.config_loader.load_sweep_config(self.config, list(overrides))
        with open_dict(config.hydra.job):
            config.hydra.job.id = submitit.JobEnvironment().job_id
            config.hydra.job.num = number
        return run_job(self.task, config, "hydra.sweep.dir", "hydra.sweep.subdir", self.context)

    def checkpoint(self, *arguments: Any) -> Any:
        """What is queued again when the time is up or the job has to make room: the same, since a run resumes by itself."""
        import submitit

        return submitit.helpers.DelayedSubmission(self, *arguments)


class Call(Protocol):
    """What submitit calls in a job.

    Attributes:
        task: What makes it this call and no other, by its `repr`.
    """

    @property
    def task(self) -> Any:
        """See above."""

    def __call__(self, overrides: Sequence[str], number: int, state: Any) -> JobReturn:
        """Do it."""
        ...


def launch_jobs(
    call: Call,
    job_overrides: Sequence[Sequence[str]],
    first: int,
    options: Mapping[str, Any],
) -> list[JobReturn]:
    """Queue jobs, but those that are in the queue already, and wait for all of them.

    Args:
        call: What each job calls.
        job_overrides: Of each job.
        first: Index of the first job.
        options: Those of the config `hydra/launcher/slurm`.

    Returns:
        The jobs' results, in their order; of a job that vanished, was cancelled or was killed, a failure with JobLost.

    Raises:
        ModuleNotFoundError: submitit is not installed.
        RuntimeError: SLURM is not there, or refuses the jobs.
    """
    try:
        import submitit
        from submitit.core.utils import JobPaths
    except ModuleNotFoundError:
        raise ModuleNotFoundError("hydra/launcher=slurm: submitit is not installed; pip install 'necklace[slurm]'") from None
    given = dict(options)
    folder = given.pop("submitit_folder")
    executor = submitit.AutoExecutor(folder=folder, cluster="slurm", slurm_max_num_timeout=given.pop("max_num_timeout"))
    executor.update_parameters(**{name if name in SHARED else f"slurm_{name}": value for name, value in given.items()})
    place = JobPaths.get_first_id_independent_folder(folder)
    keys = [_key(call.task, overrides) for overrides in job_overrides]
    tasks = list(range(int(given.get("tasks_per_node") or 1) * int(given.get("nodes") or 1)))
    jobs: dict[int, Any] = {}
    for index, job_id in _still_queued(place, keys).items():
        jobs[index] = submitit.SlurmJob(folder=folder, job_id=job_id, tasks=tasks)
    new = [index for index in range(len(keys)) if index not in jobs]
    if jobs:
        log.info(f"{len(jobs)} jobs are in SLURM's queue already: {', '.join(job.job_id for job in jobs.values())}")
    if new:
        state = Singleton.get_state()
        columns = [list(job_overrides[index]) for index in new], [first + index for index in new], [state] * len(new)
        jobs |= dict(zip(new, executor.map_array(call, *columns), strict=True))
        write_whole(place / JOBS, json.dumps(_known(place) | {keys[index]: jobs[index].job_id for index in new}, indent=1))
    for index in new:
        log.info(f"\tjob {jobs[index].job_id} : {' '.join(filter_overrides(job_overrides[index]))}")
    log.info("Ctrl-C leaves the jobs in the queue; the same command takes them up again")
    results = wait_for(jobs, {index: list(job_overrides[index]) for index in jobs})
    return [results[index] for index in range(len(keys))]


def wait_for(jobs: Mapping[int, Any], overrides: Mapping[int, Sequence[str]]) -> dict[int, JobReturn]:
    """Wait for submitit's jobs until each has left a result, or has left the queue without one.

    Args:
        jobs: Position to job.
        overrides: Position to the run's overrides.
    """
    results: dict[int, JobReturn] = {}
    gone: dict[int, float] = {}
    looked = float("-inf")
    while len(results) < len(jobs):
        now = time.monotonic()
        if now - looked >= QUEUE_S:
            looked, queue = now, queued()
            if queue is not None:
                out = [index for index, job in jobs.items() if job.job_id not in queue]
                gone = {index: gone.get(index, now) for index in out}
        for index, job in jobs.items():
            lost = index in gone and time.monotonic() - gone[index] >= SHOWN_S
            if index not in results and (lost or _has_result(job)):
                results[index] = _result(job, list(overrides[index]))
        if len(results) < len(jobs):
            time.sleep(RESULT_S)
    return results


def queued() -> dict[str, str] | None:
    """This user's jobs in SLURM's queue, id to state such as PENDING; None where SLURM does not answer.

    Raises:
        FileNotFoundError: There is no squeue.
    """
    command = ["squeue", "--noheader", "--array", f"--user={os.getuid()}", "--format=%i %T"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    except subprocess.TimeoutExpired:
        return None
    if done.returncode:
        return None
    return dict((line.split() + [""])[:2] for line in done.stdout.splitlines() if line.strip())


def queue_line(root: Path) -> str | None:
    """What is in SLURM's queue of a study whose runs are below `root`, in a line; None where nothing is or could be."""
    known = _known(root / ".submitit")
    try:
        queue = (queued() if known else None) or {}
    except FileNotFoundError:
        return None
    here = [f"{job_id} {queue[job_id].lower()}" for job_id in known.values() if job_id in queue]
    return f"in SLURM's queue: {', '.join(here)}" if here else None


def _still_queued(place: Path, keys: Sequence[str]) -> dict[int, str]:
    """Position to job id, of the jobs that an earlier launch has queued and that are still in the queue."""
    known = _known(place)
    queue = (queued() if known else None) or {}
    return {index: known[key] for index, key in enumerate(keys) if known.get(key) in queue}


def _known(place: Path) -> dict[str, str]:
    path = place / JOBS
    return json.loads(path.read_text()) if path.exists() else {}


def _key(task: object, overrides: Sequence[str]) -> str:
    """What makes a job this one and no other: what it calls, with the code that was planned, and its overrides."""
    return hashlib.sha256(json.dumps([repr(task), list(overrides)]).encode()).hexdigest()[:16]


def _has_result(job: Any) -> bool:
    return all(job.task(number).paths.result_pickle.exists() for number in range(job.num_tasks))


def _result(job: Any, overrides: list[str]) -> JobReturn:
    """The result of a job that has ended; the first task's, where it has several."""
    first = job.task(0)
    if not first.paths.result_pickle.exists():
        lines = [line for line in (first.stderr() or "").splitlines() if line.strip()]
        last = f"; the last that it said: {lines[-1].strip()}" if lines else ""
        words = f"job {job.job_id} left SLURM's queue without a result: cancelled, killed or vanished"
        return failed(overrides, JobLost(f"{words}{last} ({first.paths.stderr})"))
    try:
        return first.result()
    except Exception as error:
        return failed(overrides, RuntimeError(str(error)))
