"""Which classes a run's files may name: a run that comes from somebody else must not decide what code runs here.

Hydra's `instantiate` calls whatever a `_target_` names, with any arguments. So each `_target_` of a config is looked at before
the first is called: at its place, it must be a class of this project made for that place. Paths through this project's modules
to something else, such as `necklace.atomic.os.system`, are none of these.
"""

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from hydra.utils import get_object

# Place in the config to the package whose classes may stand there. All of these are called when a run is opened with its data.
CALLED = {
    "backbone": "necklace.backbones",
    "neck": "necklace.necks",
    "head": "necklace.heads",
    "task": "necklace.tasks",
    "data.source": "necklace.data",
    "data.sizes": "necklace.data.sizes",
}
PARTS = ("backbone", "neck", "head")  # within their options, layers of torch.nn may stand too
# These train and log; no reader of a finished run calls them.
PASSED_OVER = {
    "optimizer": ("torch.optim",),
    "schedule": ("necklace.schedules", "torch.optim.lr_scheduler"),
    "logger": ("necklace.tracking", "necklace.loggers", "pytorch_lightning.loggers", "lightning.pytorch.loggers"),
}


def check_targets(config: dict[str, Any], trust: str | Path | None = None) -> None:
    """Check all `_target_`s of a run's config; nothing of the run is built, and no file outside this project is imported.

    Args:
        config: The resolved config.
        trust: The folder whose Python files may run as well: they are imported if all targets are this project's or theirs.

    Raises:
        FileNotFoundError: `trust` is no folder.
        ValueError: A `_target_` is neither this project's nor a class in a file of `trust`.
    """
    if trust is not None and not Path(trust).is_dir():
        raise FileNotFoundError(f"trust={trust}: there is no such folder")
    foreign = [(place, target) for place, target in _targets(config, "") if not _is_ours(place, target)]
    for place, target in foreign:
        if trust is None or not _lies_in(target, Path(trust)):
            raise ValueError(
                f"{place}._target_={target!r}: not a class of this project that belongs there, so its code is not run;"
                f" if it is yours, name the folder of its file{_example(target)} with trust=DIR (--trust DIR)"
            )
    with trusted(trust):
        for place, target in foreign:
            if not _is_defined_in(target, Path(str(trust))):
                raise ValueError(f"{place}._target_={target!r}: not a class that a file in trust={trust} defines")


@contextmanager
def trusted(trust: str | Path | None) -> Iterator[None]:
    """Let modules of a folder be imported while a run is opened."""
    if trust is None:
        yield
        return
    place = str(Path(trust).resolve())
    sys.path.insert(0, place)
    try:
        yield
    finally:
        sys.path.remove(place)


def _targets(node: Any, place: str) -> Iterator[tuple[str, Any]]:
    """All `_target_`s below a node, with their places."""
    if isinstance(node, dict):
        if "_target_" in node:
            yield place, node["_target_"]
        for key, value in node.items():
            yield from _targets(value, f"{place}.{key}" if place else str(key))
    elif isinstance(node, list):
        for number, value in enumerate(node):
            yield from _targets(value, f"{place}.{number}" if place else str(number))


def _is_ours(place: str, target: Any) -> bool:
    if not isinstance(target, str) or not re.fullmatch(r"\w+(\.\w+)+", target, re.ASCII):
        return False
    if place in CALLED:
        if not target.startswith(f"{CALLED[place]}."):
            return False
        try:
            named = get_object(target)  # imports nothing but modules of that package
        except Exception:  # a name that is not there, in any of the ways in which an import fails
            return False
        return isinstance(named, type) and f"{named.__module__}.".startswith(f"{CALLED[place]}.")
    group = place.partition(".")[0]
    if group in PARTS and target.startswith("torch.nn."):
        named = getattr(torch.nn, target.removeprefix("torch.nn."), None)
        return isinstance(named, type) and issubclass(named, torch.nn.Module)
    # Several loggers are a mapping or a list of them; nothing else has targets within.
    allowed = PASSED_OVER.get(group, ()) if place == group or group == "logger" else ()
    return any(target.startswith(f"{package}.") for package in allowed)


def _lies_in(target: Any, trust: Path) -> bool:
    """Whether a target's module is a file of the trusted folder, and would be imported from there."""
    top = str(target).partition(".")[0]
    if not isinstance(target, str) or top in ("necklace", "hydra_plugins") or top in sys.stdlib_module_names:
        return False
    spec = PathFinder.find_spec(top, [str(trust.resolve())])
    if spec is None:
        return False
    present = sys.modules.get(top)
    return present is None or _file_of(present.__spec__) == _file_of(spec)


def _file_of(spec: ModuleSpec | None) -> Path | None:
    """The file of a module, or the folder of a package without a file."""
    place = None if spec is None else spec.origin or next(iter(spec.submodule_search_locations or ()), None)
    return None if place is None else Path(place).resolve()


def _is_defined_in(target: str, trust: Path) -> bool:
    """Whether a target is a class of a file in the trusted folder, not something that such a file has imported."""
    try:
        named = get_object(target)
    except Exception as error:  # whatever that file raises
        raise ValueError(f"{target}: cannot be imported, {type(error).__name__}: {error}") from error
    origin = getattr(sys.modules.get(getattr(named, "__module__", "")), "__file__", None)
    return isinstance(named, type) and origin is not None and Path(origin).resolve().is_relative_to(trust.resolve())


def _example(target: Any) -> str:
    """Where Python would find the module of a target, in brackets; found without running it."""
    name = str(target).partition(".")[0]
    try:
        spec = find_spec(name)
    except (ImportError, ValueError):
        return ""
    if spec is None or not str(spec.origin).endswith(".py") or name in (*sys.stdlib_module_names, "necklace"):
        return ""
    place = Path(str(spec.origin))
    return f" ({place.parent.parent if place.name == '__init__.py' else place.parent})"
