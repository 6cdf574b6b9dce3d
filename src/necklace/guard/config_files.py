"""Config files of a folder that a command names are read as plain YAML before Hydra reads them.

Such a folder is trusted for the classes that its files define, and may ask the environment (`${oc.env:DATA}`), as configs do.
It is still not to exhaust this machine by a few lines, nor to have Hydra itself call what neither it nor the folder defines.
"""

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra._internal.sources_registry import SourcesRegistry
from hydra.core.plugins import Plugins
from hydra.plugins.config_source import ConfigSource
from omegaconf import DictConfig, OmegaConf

from necklace.guard.plain_yaml import read_plain_yaml
from necklace.guard.targets import lies_in, named_folders

OWN = (Path(__file__).parents[1] / "configs").resolve()
# Launchers, sweepers, samplers and callbacks: classes at their places, and no way through these modules to something else.
_HYDRAS = re.compile(
    r"hydra\._internal\.core_plugins\.\w+\.\w+|hydra\.experimental\.callbacks\.\w+"
    r"|hydra_plugins\.\w+(\.\w+)?\.[A-Z]\w*|optuna\.samplers\.[A-Z]\w*|hydra_plugins\.hydra_optuna_sweeper\.\w+\.\w+",
    re.ASCII,
)
_LOGGING = re.compile(r"logging(\.handlers)?\.[A-Z]\w*|colorlog\.[A-Z]\w*|rich\.logging\.RichHandler", re.ASCII)
_STREAMS = ("ext://sys.stdout", "ext://sys.stderr")


@contextmanager
def checked_files() -> Iterator[None]:
    """Within it, Hydra reads a config file from outside this project only if it is plain YAML of an ordinary size.

    Raises:
        ValueError: It has aliases, or more values than a config has; raised where Hydra reads it.
    """
    Plugins.instance()  # which looks for the sources of configs, and executes their modules anew: this is the class that reads
    source: Any = SourcesRegistry.instance().resolve("file")
    original = source.load_config
    if getattr(original, "checks", False):
        yield
        return

    def load(self: ConfigSource, config_path: str) -> Any:
        path = Path(os.path.realpath(os.path.join(self.path, self._normalize_file_name(config_path))))
        if path.is_file() and not path.is_relative_to(OWN):
            try:
                read_plain_yaml(path)
            except ValueError as error:
                raise ValueError(f"{path}: {error}; a config refers to other options with ${{...}}") from None
        return original(self, config_path)

    load.checks = True  # pyright: ignore[reportFunctionMemberAccess]
    source.load_config = load
    try:
        yield
    finally:
        source.load_config = original


def check_hydra_node(hydra: DictConfig, given: Sequence[str]) -> None:
    """Check what Hydra itself would call for a config: plugins and callbacks, and what its logging is made of.

    Args:
        hydra: The config's `hydra` node.
        given: The command's overrides; what these name is the user's own word.

    Raises:
        ValueError: It would call something else.
    """
    named = {word for text in given for word in re.findall(r"[\w.:/()]+", text)}
    folders = named_folders(hydra)
    plain: Any = OmegaConf.to_container(hydra, resolve=False)
    for place in ("launcher", "sweeper", "callbacks", "job_logging", "hydra_logging"):
        for path, key, value in _settings(plain.get(place), f"hydra.{place}"):
            if not isinstance(value, str) or value in named:
                continue
            allowed = (
                _HYDRAS.fullmatch(value) or any(lies_in(value, folder) for folder in folders)
                if key == "_target_"
                else _LOGGING.fullmatch(value)
                if key in ("()", "class") and place.endswith("logging")
                else value in _STREAMS
                if value.startswith(("ext://", "cfg://"))
                else True
            )
            if not allowed:
                raise ValueError(
                    f"{path}={value!r}: must be a part of Hydra or of this project; a file is not to choose others"
                )


def _settings(node: Any, path: str) -> Iterator[tuple[str, str, Any]]:
    """Path, last key and value of all values below a node."""
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in items:
        yield f"{path}.{key}", str(key), value
        yield from _settings(value, f"{path}.{key}")
