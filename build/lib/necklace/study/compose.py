"""Composing many cells: Hydra's whole composition once for each choice of config groups, plain values onto a copy of it.

Hydra takes 80 to 110 ms for a cell of this project, nearly all of it for reading and merging the groups' files, which the cells
of a study share. What is done to a copy is done by Hydra's own functions, in the order of the command line, so that a cell
composed here equals the one that `python train.py` composes; the tests hold the two together.
"""

import os
import pickle
from collections.abc import Sequence

from hydra._internal.config_loader_impl import ConfigLoaderImpl, get_overrides_dirname
from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf


class Composer:
    """Composes single runs of one config, each equal to what Hydra makes of the same overrides.

    Config files are read when a choice of groups first occurs: what is edited later does not reach this composer's cells.

    Args:
        config_loader: Hydra's, such as `GlobalHydra.instance().config_loader()`.
        config_name: The primary config, such as `train`.
    """

    def __init__(self, config_loader: ConfigLoader, config_name: str) -> None:
        assert isinstance(config_loader, ConfigLoaderImpl), "Hydra has but one config loader"
        self._loader = config_loader
        self._config_name = config_name
        self._parser = OverridesParser.create(config_loader=config_loader)
        self._parsed: dict[str, Override] = {}
        self._groups: dict[tuple[tuple[str, ...], str], bool] = {}
        # As bytes: to load them is twice as fast as to copy a config, and nothing can change them.
        self._bases: dict[tuple[str, ...], bytes] = {}

    def compose(self, overrides: Sequence[str]) -> DictConfig:
        """The config of one cell, with its `hydra` node.

        Args:
            overrides: As on the command line of a single run, such as `["neck=focal", "neck.focal_level=3", "seed=1"]`.

        Raises:
            hydra.errors.HydraException: As Hydra has it: a group, choice or key that does not exist, a value of a wrong type,
                a sweep over several values, text that is no override.
        """
        parsed = [self._parse(text) for text in overrides]
        ConfigLoaderImpl.validate_sweep_overrides_legal(parsed, RunMode.RUN, from_shell=True)
        # Where Hydra looks for groups is itself an override, hydra.searchpath.
        for_hydra = tuple(str(override.input_line) for override in parsed if override.is_hydra_override())
        choices, values = [], []
        for override in parsed:
            chooses = override.is_hydra_override() or self._is_group(override, for_hydra)
            (choices if chooses else values).append(override)
        config = self._base(tuple(str(override.input_line) for override in choices))
        ConfigLoaderImpl._apply_overrides_to_config(values, config)
        for_task = [override for override in parsed if not override.is_hydra_override()]
        job = config.hydra.job
        config.hydra.overrides.task = [override.input_line for override in for_task]
        job.override_dirname = get_overrides_dirname(for_task, **job.config.override_dirname)
        config.hydra.runtime.cwd = os.getcwd()
        return config

    def _parse(self, text: str) -> Override:
        if text not in self._parsed:
            self._parsed[text] = self._parser.parse_overrides([text])[0]
        return self._parsed[text]

    def _is_group(self, override: Override, for_hydra: tuple[str, ...]) -> bool:
        """Whether it chooses from a config group: that changes which files are read; all else changes what was read."""
        if isinstance(override.value(), dict):
            return False
        key = (for_hydra, override.key_or_group)
        if key not in self._groups:
            _, repository = self._loader._parse_overrides_and_create_caching_repo(self._config_name, list(for_hydra))
            self._groups[key] = repository.group_exists(override.key_or_group)
        return self._groups[key]

    def _base(self, overrides: tuple[str, ...]) -> DictConfig:
        if overrides not in self._bases:
            base = self._loader.load_configuration(self._config_name, list(overrides), RunMode.RUN)
            self._bases[overrides] = pickle.dumps(base)
        base = pickle.loads(self._bases[overrides])
        assert OmegaConf.is_dict(base)
        return base
