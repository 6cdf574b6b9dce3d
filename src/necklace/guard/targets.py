"""Which classes a file from elsewhere may name: a run or study of somebody else must not decide what code runs here.

Hydra's `instantiate` calls whatever a `_target_` names, with any arguments. So each `_target_` of a config is looked at before
the first is called, or its module imported: at its place, it must be a part of this project made for that place, or torch's or
timm's. Paths through this project's modules to something else, such as `necklace.atomic.os.system`, are none of these.
"""

import re
import sys
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from functools import cache, reduce
from importlib import import_module
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import find_spec
from pathlib import Path
from types import FunctionType
from typing import Any

from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from necklace.guard.interpolations import check_growth, check_resolved
from necklace.guard.private import check_no_secret

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
    "optimizer": ("torch.optim", "timm.optim"),
    "schedule": ("necklace.schedules", "torch.optim.lr_scheduler"),
    "logger": ("necklace.tracking", "necklace.loggers", "pytorch_lightning.loggers", "lightning.pytorch.loggers"),
}

Folders = str | Path | Sequence[str | Path] | None
"""Folders whose Python files may run."""


def check_targets(config: dict[str, Any], trust: Folders = None) -> None:
    """Check all `_target_`s of a finished run's config; nothing is built, and no file outside this project is imported.

    Args:
        config: The resolved config, of which nothing refers to anything else.
        trust: The folder whose Python files may run as well: they are imported if all targets are this project's or theirs.

    Raises:
        FileNotFoundError: `trust` is no folder.
        ValueError: A `_target_` is neither this project's nor a class in a file of `trust`, or a text holds `${...}`.
    """
    check_resolved(config)
    folders = _folders(trust)
    foreign = [(place, target) for place, target in _targets(config, "") if not is_part(place, target)]
    for place, target in foreign:
        if not any(lies_in(target, folder) for folder in folders):
            raise ValueError(
                f"{place}._target_={target!r}: not a class of this project that belongs there, so its code is not run;"
                f" if it is yours, name the folder of its file{_example(target)} with trust=DIR (--trust DIR)"
            )
    _check_defined(foreign, folders, training=False)


def check_training_targets(config: dict[str, Any], trust: Folders = None, named: Collection[str] = ()) -> None:
    """The same for a config that is to be trained, of which optimizer, schedule and loggers are called as well.

    Args:
        config: The config as plain containers; where its values are not filled in, what they refer to has to be in it.
        trust: Folders whose Python files may run: those that the command names.
        named: Targets that the command itself names, which is the user's own word.

    Raises:
        ValueError: A `_target_` is none of these.
    """
    folders = _folders(trust)
    foreign = [
        (place, target)
        for place, target in _targets(config, "")
        if not (isinstance(target, str) and target in named) and not _is_called_ours(place, target)
    ]
    for place, target in foreign:
        if not any(lies_in(target, folder) for folder in folders):
            raise ValueError(
                f"{place}._target_={target!r}: not a class of this project that belongs there, nor of a folder that this"
                f" command names; if it is yours, name the folder of its file{_example(target)} with --config-dir DIR,"
                f" with ablate also with --trust DIR, or the class itself: {place}._target_={target}"
            )
    _check_defined(foreign, folders, training=True)


def check_composed(config: DictConfig, trust: Folders, named: Collection[str]) -> None:
    """`check_training_targets` of a composed config, before anything reads its options; interpolations may still stand.

    Raises:
        ValueError: As there; or a value is a secret of the environment, which what reads the options might name; or the config
            grows beyond all measure.
    """
    check_growth(OmegaConf.to_container(config, resolve=False))
    try:
        plain: Any = OmegaConf.to_container(config, resolve=True)
        check_no_secret(plain)
    except OmegaConfBaseException:  # which whoever reads the options says
        plain = OmegaConf.to_container(config, resolve=False)
    check_training_targets(plain, trust, named)


def _check_defined(foreign: Sequence[tuple[str, Any]], folders: Sequence[Path], training: bool) -> None:
    """Import what lies in the user's folders, and check that it is defined there, or is a part of this project after all."""
    with trusted(folders):
        for place, target in foreign:
            functions = training and place.partition(".")[0] in PASSED_OVER
            named = _imported(place, target)
            known = f"{getattr(named, '__module__', '')}.{getattr(named, '__qualname__', '')}"
            if any(_is_defined_in(named, folder, functions) for folder in folders) or (training and is_part(place, known)):
                continue
            names = ", ".join(map(str, folders))
            raise ValueError(f"{place}._target_={target!r}: not a class that a file in {names} defines, so its code is not run")


def _imported(place: str, target: str) -> Any:
    try:
        return get_object(target)
    except Exception as error:  # whatever that file raises
        words = " ".join(str(error.__cause__ or error).split())
        raise ValueError(f"{place}._target_={target}: cannot be imported: {words}") from error


def _folders(trust: Folders) -> list[Path]:
    given = [] if trust is None else [trust] if isinstance(trust, str | Path) else trust
    for folder in given:
        if not Path(folder).is_dir():
            raise FileNotFoundError(f"trust={folder}: there is no such folder")
    return list(map(Path, given))


def named_folders(hydra: Any) -> list[Path]:
    """The folders of configs that a command names besides this project's, such as with --config-dir.

    Args:
        hydra: The `hydra` node of a composed config.
    """
    own = (Path(__file__).parents[1] / "configs").resolve()
    places = [Path(source.path) for source in hydra.runtime.config_sources if source.schema == "file"]
    return [place for place in dict.fromkeys(places) if place.is_dir() and place.resolve() != own]


def named_targets(overrides: Sequence[str]) -> set[str]:
    """All that overrides of a command may name as a `_target_`."""
    return {name for text in overrides for name in re.findall(r"[\w.]+", text)}


@contextmanager
def trusted(trust: Folders) -> Iterator[None]:
    """Let modules of folders be imported while a run is opened."""
    places = [str(folder.resolve()) for folder in _folders(trust)]
    sys.path[:0] = places
    try:
        yield
    finally:
        for place in places:
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


def is_part(place: str, target: Any) -> bool:
    """Whether a target is a class of this project, or of torch, made for a place in a config; imports nothing else."""
    if not isinstance(target, str) or not re.fullmatch(r"\w+(\.\w+)+", target, re.ASCII):
        return False
    if place in CALLED:
        if not target.startswith(f"{CALLED[place]}."):
            return False
        named = _found(target, CALLED[place])
        is_own = isinstance(named, type) and f"{named.__module__}.".startswith(f"{CALLED[place]}.")
        return is_own and (place != "data.source" or hasattr(named, "split"))
    group = place.partition(".")[0]
    if group in PARTS and target.startswith("torch.nn."):
        from torch import nn  # here, so that what refuses a config need not wait for torch

        named = getattr(nn, target.removeprefix("torch.nn."), None)
        return isinstance(named, type) and issubclass(named, nn.Module)
    # Several loggers are a mapping or a list of them; nothing else has targets within.
    allowed = PASSED_OVER.get(group, ()) if place == group or group == "logger" else ()
    return any(target.startswith(f"{package}.") for package in allowed)


def _is_called_ours(place: str, target: Any) -> bool:
    """Whether a target is this project's, torch's or timm's, where all of them are called."""
    group = place.partition(".")[0]
    if ("data.sizes" if place == "data.sizes" else group, target) in _configured() and (
        place in CALLED or group in PASSED_OVER
    ):
        return True  # without importing it: a mistake elsewhere is told before torch is there
    if not is_part(place, target):
        return False
    if group == "logger":
        return re.fullmatch(r"necklace\.loggers\.\w+_logger", target, re.ASCII) is not None
    if group not in ("optimizer", "schedule"):
        return True
    package = next(package for package in PASSED_OVER[group] if target.startswith(f"{package}."))
    named = _found(target, package)
    module = getattr(named, "__module__", "")
    if package == "necklace.schedules":
        return isinstance(named, FunctionType) and module == "necklace.schedules"
    from torch import optim

    base = optim.Optimizer if group == "optimizer" else optim.lr_scheduler.LRScheduler
    return isinstance(named, type) and issubclass(named, base) and f"{module}.".startswith(f"{package}.")


def _found(target: str, package: str) -> Any:
    """What a target of a package names, or None; modules of that package alone are imported."""
    parts = target.split(".")
    for count in range(len(parts) - 1, package.count("."), -1):
        try:
            return reduce(getattr, parts[count:], import_module(".".join(parts[:count])))
        except (ImportError, AttributeError):  # a class, or nothing, of that name
            continue
    return None


@cache
def _configured() -> frozenset[tuple[str, str]]:
    """Group and target of all that this project's own configs name."""
    folder = Path(__file__).parents[1] / "configs"
    found = set()
    for path in folder.glob("*/**/*.yaml"):
        parts = path.relative_to(folder).parts
        group = "data.sizes" if parts[:2] == ("data", "sizes") else parts[0]
        text = path.read_text(encoding="utf-8")
        found |= {(group, target) for target in re.findall(r"^\s*_target_: (necklace\.[\w.]+|torch\.optim\.\w+)$", text, re.M)}
    return frozenset(found)


def lies_in(target: Any, trust: Path) -> bool:
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


def _is_defined_in(named: Any, trust: Path, functions: bool) -> bool:
    """Whether something is a class (or function) of a file in the folder, not what such a file has imported."""
    origin = getattr(sys.modules.get(getattr(named, "__module__", "")), "__file__", None)
    is_kind = isinstance(named, type) or (functions and isinstance(named, FunctionType))
    return is_kind and origin is not None and Path(origin).resolve().is_relative_to(trust.resolve())


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
