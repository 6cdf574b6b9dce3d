"""Hydra launcher `slurm`: each run is a job of SLURM, by way of submitit; options are in `configs/hydra/launcher/slurm.yaml`.

    python ablate.py NAME hydra/launcher=slurm hydra.launcher.partition=PARTITION

Hydra executes this module again whenever it looks for plugins, so what must have one identity is in `necklace.launcher`.
"""

from collections.abc import Sequence
from typing import Any

from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf


class SlurmLauncher(Launcher):
    """Hands Hydra's jobs to `necklace.launcher.slurm`.

    Args:
        **options: Those of the config.
    """

    def __init__(self, **options: Any) -> None:
        self._options = {
            name: OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
            for name, value in options.items()
        }

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Remember what to launch."""
        self._context, self._task, self._config = hydra_context, task_function, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run the jobs; gives their results in the order of the jobs."""
        from necklace.launcher.slurm import SlurmCall, launch_jobs  # here: Hydra imports this module for every command

        call = SlurmCall(self._context, self._task, self._config)
        return launch_jobs(call, job_overrides, initial_job_idx, self._options)
