"""Hydra sweeper `optuna`: the published plugin hydra-optuna-sweeper with defaults that fit this project's runs.

python train.py -m hydra/sweeper=optuna 'optimizer.lr=tag(log,interval(1e-4,1e-2))'
"""

import logging
from importlib.util import find_spec
from typing import Any

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn
from hydra.plugins.search_path_plugin import SearchPathPlugin
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

# The options of the plugin; what they mean is in docs/studies.md.
OPTIONS: dict[str, Any] = {
    # Optional, so that an option of a sampler is no error where the extra is missing: the sweeper says what to install.
    "defaults": [{"optional sampler": "tpe"}, "_self_"],
    "_target_": "hydra_plugins.necklace_optuna.Search",
    "sampler": {"seed": 0},  # the same command tries the same values, and what is trained already is not trained again
    "direction": "maximize",  # a run gives a val metric, of which more is better; the plugin would minimise
    "n_trials": 20,
    "n_jobs": 2,
    "max_failure_rate": 1.0,  # a trial that fails, such as one that diverged, does not end the search
    "study_name": "${study}",
    "storage": None,
    "params": None,
    "search_space": None,
    "custom_search_space": None,
}


class SearchOptions(SearchPathPlugin):
    """Puts `OPTIONS` in place of the plugin's own; Hydra calls it when it has found all plugins, and before it composes."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Leave the search path as it is."""
        logging.getLogger("alembic").setLevel(logging.WARNING)  # which optuna imports; it lists its own plugins
        ConfigStore.instance().store(group="hydra/sweeper", name="optuna", node=OPTIONS, provider="necklace")


class Search(Sweeper):
    """Hands a search to the plugin.

    Args:
        **options: The plugin's.

    Raises:
        ModuleNotFoundError: It is not installed.
    """

    def __init__(self, **options: Any) -> None:
        if find_spec("hydra_plugins.hydra_optuna_sweeper") is None or find_spec("optuna") is None:
            raise ModuleNotFoundError("hydra/sweeper=optuna: optuna is not installed; pip install 'necklace[optuna]'")
        from hydra_plugins.hydra_optuna_sweeper.optuna_sweeper import OptunaSweeper

        self._sweeper = OptunaSweeper(**options)

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Remember what to launch."""
        self._sweeper.setup(hydra_context=hydra_context, task_function=task_function, config=config)

    def sweep(self, arguments: list[str]) -> list[list[JobReturn]] | None:
        """Search."""
        return self._sweeper.sweep(arguments)
