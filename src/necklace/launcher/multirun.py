"""A multirun of Hydra's through this machine's launcher: each combination of overrides is composed when its turn comes."""

import logging
import pickle
from collections.abc import Callable, Iterator, Sequence
from inspect import unwrap
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, configure_log, run_job, setup_globals
from hydra.errors import HydraException
from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf, open_dict

from necklace.config import Composer
from necklace.launcher.hydra_jobs import config_flags, hydra_state, restore_hydra_state
from necklace.launcher.job import FunctionName, Job, pack_call
from necklace.launcher.local import LocalOptions, failed, job_processes, run_jobs
from necklace.launcher.preload import PRELOAD_WANDB
from necklace.launcher.server import start_server

log = logging.getLogger(__name__)

# Overrides that say how to launch, and nothing about a run.
LAUNCHING = ("hydra.mode", "hydra/launcher", "hydra.launcher", "hydra/sweeper", "hydra.sweeper")


class Multirun:
    """Runs what Hydra's sweepers ask for. To make one starts the server, which imports while the caller continues.

    Args:
        options: How to run the jobs.
        context: Hydra's own objects.
        task: What each run calls with its config.
        config: The composed config of the multirun.

    Raises:
        ValueError: The task cannot be found from another process.
    """

    def __init__(self, options: LocalOptions, context: HydraContext, task: Callable[..., Any], config: DictConfig) -> None:
        self._options, self._context, self._config = options, context, config
        self._task = FunctionName.of(unwrap(task))
        # Of several loggers Hydra names no choice, but each stands in the config under its name.
        loggers = {config.hydra.runtime.choices.get("logger"), *(config.get("logger") or {})}
        start_server(PRELOAD_WANDB if "wandb" in loggers else ())

    def launch(self, job_overrides: Sequence[Sequence[str]], first: int) -> list[JobReturn]:
        """Run the jobs, in this order as slots become free; a job that fails does not stop the others.

        Args:
            job_overrides: Of each job.
            first: Index of the first job.

        Returns:
            The jobs' results, in the order of the jobs.

        Raises:
            RuntimeError: The server died.
        """
        setup_globals()
        configure_log(self._config.hydra.hydra_logging, self._config.hydra.verbose)
        Path(str(self._config.hydra.sweep.dir)).mkdir(parents=True, exist_ok=True)
        log.info(f"Launching {len(job_overrides)} jobs on this machine")
        refused: dict[int, JobReturn] = {}
        configs: dict[int, DictConfig] = {}

        def add_config(index: int, result: JobReturn) -> None:
            config = configs.pop(index)
            result.cfg = config if result.cfg is None else result.cfg

        results = run_jobs(self._jobs(job_overrides, first, configs, refused), self._options, add_config) | refused
        return [results[index] for index in sorted(results)]

    def _jobs(
        self,
        job_overrides: Sequence[Sequence[str]],
        first: int,
        configs: dict[int, DictConfig],
        refused: dict[int, JobReturn],
    ) -> Iterator[Job]:
        """Compose each job when its turn comes; one that cannot be composed is refused."""
        multirun = self._config
        composer = Composer(self._context.config_loader, multirun.hydra.job.config_name)
        # A job is a single run, whatever it was launched by: the processes that Lightning starts by its command line must not
        # go through the whole multirun themselves.
        kept = [text for text in multirun.hydra.overrides.hydra if not text.lstrip("+~").startswith(LAUNCHING)]
        for index, own in enumerate(job_overrides, first):
            overrides = [*kept, "hydra.mode=RUN", *own]
            try:
                config = composer.compose(overrides)
            except HydraException as error:
                refused[index] = failed(own, error)
                continue
            OmegaConf.copy_cache(from_config=multirun, to_config=config)  # one ${now:} for all jobs
            with open_dict(config):
                config.hydra.job.id = str(index)
                config.hydra.job.num = index
            configs[index] = config
            processes, on_gpu = job_processes(config)
            argv = [self._options.script, *config_flags(config), *overrides]
            yield Job(index, list(own), argv, processes, on_gpu, pack_task(self._task, config, self._context))


def pack_task(task: FunctionName, config: DictConfig, context: HydraContext) -> bytes:
    """A job's call of Hydra's task function.

    Args:
        task: The task function, without Hydra's decorator.
        config: The composed config of the run, with its `hydra` node.
        context: Hydra's own objects.
    """
    # Bytes of their own: to unpickle them may take the module that the task is in.
    return pack_call(run_task, task, pickle.dumps((config, context, hydra_state())))


def run_task(task: FunctionName, packed: bytes) -> JobReturn:
    """Carry out a call of `pack_task` as Hydra does it; a failed task gives a result that says so."""
    function = unwrap(task.load())
    config, context, state = pickle.loads(packed)
    restore_hydra_state(state)
    setup_globals()
    return run_job(function, config, "hydra.sweep.dir", "hydra.sweep.subdir", context)
