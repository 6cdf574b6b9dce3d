"""A run before it is trained: made here alone, by the planner of a study, the launcher's processes and `train.py` alike."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from necklace.build import facts_of
from necklace.code_version import code_version
from necklace.identity import hash_identity, run_identity, run_label


@dataclass(frozen=True)
class RunSpec:
    """All that decides a run's result, its name and its place.

    Attributes:
        resolved: The config as plain containers.
        choices: Config group to chosen name; with the neck's overrides they make the folder's name.
        overrides: The command's overrides.
        identity: All that changes the result, and nothing else.
        code: Module to digest of the code that would train it, see `code_version`.
    """

    resolved: dict[str, Any]
    choices: dict[str, str]
    overrides: tuple[str, ...]
    identity: dict[str, Any]
    code: dict[str, str]

    def adapted(self, settings: Mapping[str, Any], overrides: Sequence[str]) -> "RunSpec":
        """The same run with other settings that do not belong to its identity, such as `rerun` and `logger.row`.

        Args:
            settings: Dotted key to value.
            overrides: The same as Hydra overrides.
        """
        resolved = dict(self.resolved)
        for key, value in settings.items():
            group, _, option = key.partition(".")
            resolved[group] = {**(resolved[group] or {}), option: value} if option else value
        return replace(self, resolved=resolved, overrides=(*self.overrides, *overrides))

    @property
    def config(self) -> DictConfig:
        """The config as Hydra's `instantiate` takes it."""
        return OmegaConf.create(self.resolved)

    @property
    def seed(self) -> int:
        """The run's seed."""
        return self.resolved["seed"]

    @property
    def root(self) -> Path:
        """The folder of the study's runs."""
        return Path(self.resolved["outputs"]) / self.resolved["study"]

    @cached_property
    def hash(self) -> str:
        """Ten hex digits over the identity."""
        return hash_identity(self.identity)

    @cached_property
    def name(self) -> str:
        """Name of the run's folder: readable, and ending in the hash."""
        return f"{run_label(self.choices, self.overrides, self.seed)}_{self.hash}"


def run_spec(resolved: dict[str, Any], choices: dict[str, str], overrides: Sequence[str]) -> RunSpec:
    """The spec of a run; reads its data where this process has not done so yet.

    Args:
        resolved: The config as plain containers.
        choices: Config group to chosen name.
        overrides: The command's overrides.

    Raises:
        ValueError: The config has an option that the data does not know, or one out of range.
    """
    identity = run_identity(resolved, facts_of(resolved).digest)
    return RunSpec(resolved, choices, tuple(overrides), identity, code_version(resolved))
