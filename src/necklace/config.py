"""From overrides to configs. Hydra's private API is used here and in the files that a test of this one names.

`Composer` does Hydra's whole composition once for each choice of config groups, and puts single values onto a copy of it.
Hydra takes 80 to 110 ms for a run of this project, nearly all of it for reading and merging the groups' files, which the runs
of a study share. Copies are changed by Hydra's own functions, in the order of the command line, so that a config composed here
equals the one that `python train.py` composes. The tests compare the two, with the oldest and the newest supported Hydra.
"""

import os
import pickle
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl, get_overrides_dirname
from hydra._internal.config_repository import IConfigRepository
from hydra._internal.defaults_list import create_defaults_list
from hydra.conf import HydraConf
from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import ConfigCompositionException, HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from necklace.guard.config_files import check_hydra_node, checked_files
from necklace.guard.interpolations import check_growth, check_resolved
from necklace.guard.names import study_folder
from necklace.guard.private import check_no_secret

# What Hydra imports only when it starts a job; its older versions have no such module.
HYDRA_LAZY = ("hydra._internal.logging_config",)

_by_composer = ContextVar("by_composer", default=False)


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
        self._repositories: dict[tuple[str, ...], IConfigRepository] = {}
        self._made: dict[tuple[str, ...], dict[str, str]] = {}
        self._prepared: dict[tuple[str, ...], DictConfig] = {}
        # As bytes: to load them is twice as fast as to copy a config, and nothing can change them.
        self._bases: dict[tuple[str, ...], bytes] = {}

    def prepare(self, overrides: Sequence[str]) -> None:
        """Compose a config that the next `compose` of the same overrides hands out: to find mistakes early, at no cost.

        Raises:
            hydra.errors.HydraException: As `compose` does.
        """
        self._prepared[tuple(overrides)] = self._compose(overrides)

    def compose(self, overrides: Sequence[str]) -> DictConfig:
        """The config of one run, with its `hydra` node.

        Args:
            overrides: As on the command line of a single run, such as `["neck=focal", "neck.focal_level=3", "seed=1"]`.

        Raises:
            hydra.errors.HydraException: As Hydra raises it: a group, choice or key does not exist, a value has a wrong type, an
                override sweeps over several values or is not an override.
        """
        return self._prepared.pop(tuple(overrides), None) or self._compose(overrides)

    def _compose(self, overrides: Sequence[str]) -> DictConfig:
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

    def defaults(self, overrides: Sequence[str]) -> tuple[dict[str, Any], dict[str, str]]:
        """What a run with these overrides has to be compared with, to say what is particular about it.

        Args:
            overrides: As `compose` takes them.

        Returns:
            The config of its choices of groups alone, as plain containers before interpolation; and config group to the choice
            that is made where nobody makes one.
        """
        parsed = [self._parse(text) for text in overrides]
        for_hydra = tuple(str(each.input_line) for each in parsed if each.is_hydra_override())
        chosen = [each for each in parsed if each.is_hydra_override() or self._is_group(each, for_hydra)]
        base = self._base(tuple(str(each.input_line) for each in chosen))
        outer = tuple(str(each.input_line) for each in chosen if each.is_hydra_override() or "/" not in each.key_or_group)
        inner = {group: choice for group, choice in self._choices_made(outer).items() if "/" in group}
        plain: Any = OmegaConf.to_container(base, resolve=False)
        del plain["hydra"]
        return plain, {group: made for group, made in self._choices_made(for_hydra).items() if "/" not in group} | inner

    def _choices_made(self, overrides: tuple[str, ...]) -> dict[str, str]:
        """Config group to the choice that is made with these overrides; reads no file but those that name others."""
        if overrides not in self._made:
            for_hydra = tuple(text for text in overrides if self._parse(text).is_hydra_override())
            parsed = [self._parse(text) for text in overrides]
            repository = self._repository(for_hydra)
            with checked_files():
                made = create_defaults_list(repository, self._config_name, parsed, prepend_hydra=True, skip_missing=False)
            self._made[overrides] = _project_choices(made.overrides.known_choices)
        return self._made[overrides]

    def split(self, overrides: Sequence[str]) -> tuple[list[Override], list[Override], list[Override]]:
        """Overrides of Hydra's own options, those that choose from a group, and those that set a value.

        Raises:
            hydra.errors.HydraException: One is not an override.
        """
        parsed = [self._parse(text) for text in overrides]
        for_hydra = [override for override in parsed if override.is_hydra_override()]
        path = tuple(str(override.input_line) for override in for_hydra)
        rest = [override for override in parsed if not override.is_hydra_override()]
        chooses = [self._is_group(override, path) for override in rest]
        choices = [override for override, chosen in zip(rest, chooses, strict=True) if chosen]
        return for_hydra, choices, [override for override, chosen in zip(rest, chooses, strict=True) if not chosen]

    def choices(self, group: str, for_hydra: Sequence[str]) -> list[str]:
        """The choices of a config group, in order."""
        names = self._repository(tuple(for_hydra)).get_group_options(group)
        return sorted(name for name in names if not name.startswith("_"))

    @staticmethod
    def apply(override: Override, config: DictConfig) -> None:
        """Put one value onto a config, as `compose` does.

        Raises:
            hydra.errors.HydraException: As Hydra raises it.
        """
        ConfigLoaderImpl._apply_overrides_to_config([override], config)

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
            self._groups[key] = self._repository(for_hydra).group_exists(override.key_or_group)
        return self._groups[key]

    def _repository(self, for_hydra: tuple[str, ...]) -> IConfigRepository:
        """The config files, where the overrides of Hydra's own options look for them; each is read once."""
        if for_hydra not in self._repositories:
            _, found = self._loader._parse_overrides_and_create_caching_repo(self._config_name, list(for_hydra))
            self._repositories[for_hydra] = found
        return self._repositories[for_hydra]

    def _base(self, overrides: tuple[str, ...]) -> DictConfig:
        if overrides not in self._bases:
            token = _by_composer.set(True)
            try:
                with checked_files():
                    base = self._loader.load_configuration(self._config_name, list(overrides), RunMode.RUN)
                check_hydra_node(base.hydra, overrides)
            finally:
                _by_composer.reset(token)
            self._bases[overrides] = pickle.dumps(base)
        base = pickle.loads(self._bases[overrides])
        assert OmegaConf.is_dict(base)
        return base


@contextmanager
def loading(
    check: Callable[[DictConfig], object], explain: Callable[[Composer, Sequence[str], Exception], str]
) -> Iterator[None]:
    """Have all configs that Hydra itself composes inside this context checked, and its errors put into other words.

    `hydra.main` and its sweepers compose configs where no other code comes between.

    Args:
        check: Is given each config of a single run, with its `hydra` node; raises where it is wrong.
        explain: Is given the overrides and the error where Hydra refuses them; what it returns takes the error's place.
    """
    original = ConfigLoaderImpl.load_configuration
    words: dict[tuple[str, ...], str] = {}  # Hydra composes a command twice: to find its mode, and with this as an override

    def load(
        self: ConfigLoaderImpl, config_name: str | None, overrides: list[str], run_mode: RunMode, **options: Any
    ) -> DictConfig:
        if _by_composer.get():  # which composes parts of what is checked as a whole
            return original(self, config_name, overrides, run_mode, **options)
        try:
            if run_mode == RunMode.MULTIRUN:
                config = _load_multirun(lambda some: original(self, config_name, some, run_mode, **options), overrides)
                check_hydra_node(config.hydra, overrides)
                return config
            config = original(self, config_name, overrides, run_mode, **options)
            check_hydra_node(config.hydra, overrides)
        except (HydraException, ValueError) as error:  # a value error where null is chosen
            refused = *(text for text in overrides if text != "hydra.mode=RUN"), repr(error)
            if refused not in words:
                words[refused] = explain(Composer(self, str(config_name)), overrides, error)
            raise ConfigCompositionException(words[refused]) from error
        check(config)
        return config

    changed: Any = ConfigLoaderImpl
    changed.load_configuration = load
    try:
        with checked_files():
            yield
    finally:
        changed.load_configuration = original


def _load_multirun(load: Callable[[list[str]], DictConfig], overrides: list[str]) -> DictConfig:
    """The config of a multirun, which Hydra composes from the default choices of the groups that are swept over.

    An option of such a group, as in `-m neck=focal,focal_block neck.focal_level=1`, may not be there. It is left to the runs.
    """
    parsed = OverridesParser.create().parse_overrides(overrides)
    swept = tuple(f"{one.key_or_group.replace('/', '.')}." for one in parsed if one.is_sweep_override())
    if not swept:
        return load(overrides)
    pairs = list(zip(overrides, parsed, strict=True))
    config = load([text for text, one in pairs if not one.key_or_group.startswith(swept)])
    config.hydra.overrides.task = [text for text, one in pairs if not one.is_hydra_override()]
    return config


def given_keys(overrides: Sequence[str]) -> set[str]:
    """Dotted keys that overrides set; of a mapping, all keys within it."""
    return {key for text in overrides for key in _given_keys(text)}


@cache
def _given_keys(text: str) -> tuple[str, ...]:
    key, _, value = text.lstrip("+~").partition("=")
    if not value.lstrip().startswith("{"):
        return (key,)
    content = OverridesParser.create().parse_overrides([text])[0].value()
    return tuple(path for path, _ in leaves(content, key))


def leaves(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted path to value, of all values that are no mappings, or empty ones."""
    if isinstance(node, Mapping) and (node or not path):
        for key, value in node.items():
            yield from leaves(value, f"{path}.{key}" if path else str(key))
    else:
        yield path, node


def cause_of(error: BaseException) -> BaseException:
    """What a constructor raised, without what Hydra's `instantiate` has wrapped around it."""
    while error.__cause__ is not None and type(error).__module__.startswith("hydra"):
        error = error.__cause__
    return error


def choices_of(hydra: DictConfig | HydraConf) -> dict[str, str]:
    """Config group to the choice that a config was composed from, by its `hydra` node; without Hydra's own groups."""
    return _project_choices(hydra.runtime.choices)


def _project_choices(choices: Mapping[str, Any]) -> dict[str, str]:
    return {group: str(choice) for group, choice in choices.items() if "hydra" not in group}


def resolved(config: DictConfig) -> dict[str, Any]:
    """A config as plain containers, with its interpolations filled in.

    Raises:
        ValueError: The study's name leads out of the folder of outputs; a value is a secret, or refers to something once more;
            or what is filled in is too large.
    """
    check_growth(OmegaConf.to_container(config, resolve=False))
    config.study = study_folder(config.study)
    plain = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    assert isinstance(plain, dict)
    check_no_secret(plain)
    check_resolved(plain)
    return plain  # pyright: ignore[reportReturnType]
