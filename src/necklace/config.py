"""From overrides to configs, and all else that needs Hydra's private API.

`Composer` does Hydra's whole composition once for each choice of config groups, and puts single values onto a copy of it.
Hydra takes 80 to 110 ms for a run of this project, nearly all of it for reading and merging the groups' files, which the runs
of a study share. Copies are changed by Hydra's own functions, in the order of the command line, so that a config composed here
equals the one that `python train.py` composes. The tests compare the two, with the oldest and the newest supported Hydra.
"""

import os
import pickle
from collections.abc import Sequence
from typing import Any

from hydra._internal.callbacks import Callbacks
from hydra._internal.config_loader_impl import ConfigLoaderImpl, get_overrides_dirname
from hydra.conf import HydraConf
from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, RunMode, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict

# What Hydra imports only when it starts a job; its older versions have no such module.
HYDRA_LAZY = ("hydra._internal.logging_config",)


class Composer:
    """Composes single runs of one config, each equal to what Hydra makes of the same overrides.

    Config files are read when a choice of groups first occurs: later edits do not reach this composer's configs.

    Args:
        config_loader: Hydra's, such as `GlobalHydra.instance().config_loader()`.
        config_name: The primary config, such as `train`.
    """

    def __init__(self, config_loader: ConfigLoader, config_name: str) -> None:
        assert isinstance(config_loader, ConfigLoaderImpl), "Hydra has only one config loader"
        self._loader = config_loader
        self._config_name = config_name
        self._parser = OverridesParser.create(config_loader=config_loader)
        self._parsed: dict[str, Override] = {}
        self._groups: dict[tuple[tuple[str, ...], str], bool] = {}
        # As bytes: to load them is twice as fast as to copy a config, and nothing can change them.
        self._bases: dict[tuple[str, ...], bytes] = {}

    def compose(self, overrides: Sequence[str]) -> DictConfig:
        """The config of one run, with its `hydra` node.

        Args:
            overrides: As on the command line of a single run, such as `["neck=focal", "neck.focal_level=3", "seed=1"]`.

        Raises:
            hydra.errors.HydraException: As Hydra raises it: a group, choice or key does not exist, a value has a wrong type, an
                override sweeps over several values or is not an override.
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
        """Whether it chooses from a config group, and so changes which files are read; all else changes their content."""
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


def choices_of(hydra: DictConfig | HydraConf) -> dict[str, str]:
    """Config group to the choice that a config was composed from, by its `hydra` node; without Hydra's own groups."""
    return {group: str(choice) for group, choice in hydra.runtime.choices.items() if "hydra" not in group}


def resolved(config: DictConfig) -> dict[str, Any]:
    """A config as plain containers, with its interpolations filled in."""
    config.study = str(config.study)  # study=2024 is a number to Hydra
    plain = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    assert isinstance(plain, dict)
    return plain  # pyright: ignore[reportReturnType]


def config_flags(config: DictConfig) -> list[str]:
    """The flags that lead a script with Hydra's decorator to the same config files, wherever this config's come from.

    Args:
        config: A composed config with its `hydra` node.

    Returns:
        Such as `["--config-path=/home/me/configs", "--config-name=train"]`. Folders from `hydra.searchpath` are not among them.
    """
    flags = {"main": "--config-path", "command-line": "--config-dir"}
    sources = [source for source in config.hydra.runtime.config_sources if source.provider in flags and source.path]
    paths = [("pkg://" if source.schema == "pkg" else "") + source.path for source in sources]
    named = [f"{flags[source.provider]}={path}" for source, path in zip(sources, paths, strict=True)]
    return [*named, f"--config-name={config.hydra.job.config_name}"]


def hydra_launcher(
    config_loader: ConfigLoader,
    overrides: Sequence[str],
    job_name: str,
    output_dir: str,
    task_function: TaskFunction,
    config_name: str = "train",
) -> Launcher:
    """The launcher that a multirun with these overrides has, set up to launch.

    Args:
        config_loader: Hydra's, such as `GlobalHydra.instance().config_loader()`.
        overrides: Shared by all jobs; the launcher and its options among them.
        job_name: For Hydra's `hydra.job.name`.
        output_dir: For Hydra's `hydra.runtime.output_dir`.
        task_function: What each job calls with its config.
        config_name: The primary config.

    Raises:
        hydra.errors.HydraException: As Hydra raises it: an override or an option of the launcher is refused.
    """
    config = config_loader.load_configuration(config_name, list(overrides), RunMode.MULTIRUN)
    with open_dict(config.hydra):
        config.hydra.job.name = job_name
        config.hydra.runtime.output_dir = output_dir
    context = HydraContext(config_loader=config_loader, callbacks=Callbacks(config))
    return Plugins.instance().instantiate_launcher(hydra_context=context, task_function=task_function, config=config)


def hydra_state() -> dict[Any, Any]:
    """Hydra's objects of which a process has one each, for `restore_hydra_state` in another process.

    Its plugins are left out, as are OmegaConf's resolvers: those of a script need not pickle.
    """
    return Singleton.get_state()["instances"]


def restore_hydra_state(state: dict[Any, Any]) -> None:
    """Take over what `hydra_state` gave in another process."""
    Singleton._instances.update(state)


def error_of(returned: JobReturn) -> BaseException | None:
    """The error of a job that has failed, None for any other; `JobReturn.return_value` would raise it."""
    return returned._return_value if returned.status == JobStatus.FAILED else None
