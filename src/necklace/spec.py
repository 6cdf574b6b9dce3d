"""A run before it is trained: made here alone, by the planner of a study, the launcher's processes and `train.py` alike."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from necklace.build import facts_of
from necklace.code_version import code_version
from necklace.config import Composer
from necklace.identity import differences, hash_identity, run_identity, run_label


@dataclass(frozen=True)
class RunSpec:
    """All that decides a run's result, its name and its place.

    Attributes:
        resolved: The config as plain containers.
        choices: Config group to chosen name.
        overrides: The command's overrides.
        identity: All that changes the result, and nothing else.
        code: Module to digest of the code that would train it, see `code_version`.
        said: All that differs from the defaults, as overrides; with the choices it makes the folder's name.
    """

    resolved: dict[str, Any]
    choices: dict[str, str]
    overrides: tuple[str, ...]
    identity: dict[str, Any]
    code: dict[str, str]
    said: tuple[str, ...]

    def adapted(self, settings: Mapping[str, Any], overrides: Sequence[str]) -> "RunSpec":
        """The same run with other settings that do not belong to its identity, such as `rerun` and `logger.wandb.row`.

        Args:
            settings: Dotted key to value.
            overrides: The same as Hydra overrides.
        """
        resolved = self.resolved
        for key, value in settings.items():
            resolved = _with(resolved, key.split("."), value)
        return replace(self, resolved=resolved, overrides=(*self.overrides, *overrides))

    @property
    def config(self) -> DictConfig:
        """The config as Hydra's `instantiate` takes it."""
        return OmegaConf.create(self.resolved)

    @property
    def loggers(self) -> dict[str, dict[str, Any]]:
        """Key of each logger to its options, such as `logger.wandb`; see `loggers_of`."""
        return loggers_of(self.resolved)

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
        return f"{run_label(self.choices, self.said, self.seed)}_{self.hash}"


def loggers_of(resolved: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Key of each logger to its options, such as `logger.wandb`; in configs of earlier code one logger stands at `logger`.

    Args:
        resolved: The config as plain containers.

    Raises:
        ValueError: An option without its logger's name.
    """
    node = resolved.get("logger") or {}
    if "_target_" in node:
        return {"logger": node}
    for name, options in node.items():
        if not isinstance(options, dict):
            having = [f"logger.{other}.{name}" for other, own in node.items() if isinstance(own, dict) and name in own]
            known = " or ".join(having) or f"logger.NAME.{name}, where NAME is the logger's"
            raise ValueError(f"logger.{name}={options}: options follow the name of their logger: {known}")
    return {f"logger.{name}": options for name, options in node.items()}


def run_spec(
    resolved: dict[str, Any], choices: dict[str, str], overrides: Sequence[str], said: Sequence[str] | None = None
) -> RunSpec:
    """The spec of a run; reads its data where this process has not done so yet.

    Args:
        resolved: The config as plain containers.
        choices: Config group to chosen name.
        overrides: The command's overrides.
        said: All that differs from the defaults, see `said_of`; the overrides, where it is not known.

    Raises:
        ValueError: The config has an option that the data does not know, or one out of range.
    """
    identity = run_identity(resolved, facts_of(resolved).digest)
    return RunSpec(
        resolved, choices, tuple(overrides), identity, code_version(resolved), tuple(overrides if said is None else said)
    )


def said_of(
    config: DictConfig, resolved: dict[str, Any], choices: Mapping[str, str], composer: Composer, overrides: Sequence[str]
) -> tuple[str, ...]:
    """All that differs in a composed config from the defaults, as overrides.

    Args:
        config: The config without its `hydra` node.
        resolved: The same as plain containers.
        choices: Config group to chosen name.
        composer: Composes the defaults.
        overrides: What the config was composed with, Hydra's own options included.
    """
    defaults, usual = composer.defaults(overrides)
    raw: Any = OmegaConf.to_container(config, resolve=False)
    return differences(resolved, raw, defaults, choices, usual)


def _with(node: dict[str, Any], path: Sequence[str], value: Any) -> dict[str, Any]:
    """The node with another value at `path`."""
    name, *rest = path
    return {**node, name: _with(node.get(name) or {}, rest, value) if rest else value}
