"""Hydra launcher `ray`: the published plugin hydra-ray-launcher with defaults that fit this project's runs.

python ablate.py NAME hydra/launcher=ray
"""

import os
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.plugins.search_path_plugin import SearchPathPlugin
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

# What ray.init and ray.remote are given; docs/clusters.md says how to join a cluster.
OPTIONS: dict[str, Any] = {
    "_target_": "hydra_plugins.necklace_ray.RayLauncher",
    "ray": {
        "init": {
            "address": None,
            "include_dashboard": False,
            "log_to_driver": False,  # what runs print would come between the lines of the overview
            "logging_level": "warning",
            "object_store_memory": None,  # Ray refuses a size where it joins a cluster
        },
        "remote": {
            "num_cpus": 1,  # threads of a run: Ray sets OMP_NUM_THREADS
            "max_retries": 3,  # a run whose worker dies is begun again, and goes on from its last epoch
        },
    },
}


class RayOptions(SearchPathPlugin):
    """Puts `OPTIONS` in place of the plugin's own; Hydra calls it when it has found all plugins, and before it composes."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Leave the search path as it is."""
        ConfigStore.instance().store(group="hydra/launcher", name="ray", node=OPTIONS, provider="necklace")


class RayLauncher(Launcher):
    """Hands jobs to the plugin.

    Args:
        ray: Options of ray.init and ray.remote.

    Raises:
        ModuleNotFoundError: It is not installed.
    """

    def __init__(self, ray: DictConfig) -> None:
        if find_spec("hydra_plugins.hydra_ray_launcher") is None or find_spec("ray") is None:
            raise ModuleNotFoundError("hydra/launcher=ray: Ray is not installed; pip install 'necklace[ray]'")
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would report to its makers
        # Ray prints its own news of dead workers, `(raylet) ...`, whatever log_to_driver says; FAILED and the
        # overview tell of them. Ray reads this when it is imported.
        os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", r"[\s\S]*")
        published = import_module("hydra_plugins.hydra_ray_launcher.ray_launcher")
        self._launcher: Launcher = published.RayLauncher(ray)

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Remember what to launch."""
        self._launcher.setup(hydra_context=hydra_context, task_function=task_function, config=config)

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run the jobs; gives their results in the order of the jobs."""
        return self._launcher.launch(job_overrides, initial_job_idx)
