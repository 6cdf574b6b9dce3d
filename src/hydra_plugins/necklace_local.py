"""Hydra launcher `local`: each run in a process of its own on this machine, in as many slots as its GPUs or cores allow.

    python train.py -m hydra/launcher=local neck=none,spp,sppf seed=0,1,2
    python train.py -m hydra/launcher=local hydra.launcher.slots=2 hydra.launcher.threads=4 ...

Hydra executes this module again whenever it looks for plugins, so what must have one identity is in `necklace.launcher`.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass

from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from necklace.launcher.local import PLUGIN, LocalOptions
from necklace.launcher.multirun import Multirun


@dataclass
class LocalLauncherConf:
    """Options of `hydra/launcher=local`, see `necklace.launcher.local.LocalOptions`; without `script` it is the running one."""

    _target_: str = PLUGIN
    slots: int | None = None
    threads: int | None = None
    script: str | None = None
    lock_dir: str = "${outputs}/.slots"
    log_dir: str | None = None


ConfigStore.instance().store(group="hydra/launcher", name="local", node=LocalLauncherConf, provider="necklace")


class LocalLauncher(Launcher):
    """Hands Hydra's jobs to `Multirun`.

    Attributes:
        options: Its options.
    """

    def __init__(self, slots: int | None, threads: int | None, script: str | None, lock_dir: str, log_dir: str | None) -> None:
        self.options = LocalOptions(slots, threads, script or sys.argv[0], lock_dir, log_dir)

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Remember what to launch, and start the server."""
        self._multirun = Multirun(self.options, hydra_context, task_function, config)

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run the jobs; gives their results in the order of the jobs."""
        return self._multirun.launch(job_overrides, initial_job_idx)
