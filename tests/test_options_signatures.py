"""What the source says of a class's arguments is what the imported class says."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from necklace.options.kinds import kind_of
from necklace.options.signatures import EMPTY, Argument, arguments, imported_arguments, told_arguments
from tests.conftest import CONFIGS


def targets(node: Any) -> set[str]:
    if isinstance(node, dict):
        own = {node["_target_"]} if isinstance(node.get("_target_"), str) else set()
        return own.union(*map(targets, node.values()))
    return set()


ALL = set().union(*(targets(yaml.safe_load(path.read_text())) for path in CONFIGS.rglob("*.yaml") if "hydra" not in path.parts))
NAMED = sorted(ALL)
OTHERS = ["pytorch_lightning.Trainer", "torch.optim.Adam", "torch.optim.RMSprop", "torch.optim.NAdam"]
OTHERS += [f"necklace.data.{name}" for name in ("splits.read_splits", "datamodule.DataModule", "augment.Augmentation")]


def words(argument: Argument) -> tuple[Any, ...]:
    hint = argument.hint()
    kind = None if hint is EMPTY else kind_of(hint)
    default = argument.default
    # typing.Union[int, float] is the same object as an earlier [float, int], so the order is anybody's.
    allowed = sorted(kind.words.replace(" or ", ", ").split(", ")) if kind else None
    return argument.name, argument.kind, type(default), default, allowed


@pytest.mark.parametrize("target", [*NAMED, *OTHERS])
def test_source_and_import_agree(target: str) -> None:
    told, imported = told_arguments(target), imported_arguments(target)
    assert told is not None, "the source does not tell, so that an answer to a wrong option has to import torch"
    assert imported is not None
    assert list(map(words, told)) == list(map(words, imported))


def test_all_of_the_configs_are_told_without_importing_torch() -> None:
    code = (
        "import sys\n"
        "from necklace.options.kinds import kind_of\n"
        "from necklace.options.readers import _data_options, arguments_of\n"
        "from necklace.options.trainer import trainer_kinds\n"
        f"for target in {NAMED!r}: arguments_of(target, {{'schedules': 'schedule', 'optim': 'optimizer'}}"
        ".get(target.split('.')[1], target.split('.')[1].rstrip('s')))\n"
        "trainer_kinds(), _data_options()\n"
        "print({'torch', 'pytorch_lightning', 'PIL', 'wandb'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


OWN = """
from dataclasses import dataclass
from functools import wraps

def doubled(function):
    @wraps(function)
    def inner(*arguments, **options):
        return function(*arguments, **options)
    return inner

def changed(function):
    return lambda other: function(other)

class Meta(type):
    def __call__(cls, other: int = 3):
        return super().__call__()

class Base:
    def __init__(self, channels: int, depth: "int | None" = None) -> None: ...

class Derived(Base): ...
class Made(metaclass=Meta): ...
class New:
    def __new__(cls, channels: int): return super().__new__(cls)

class Wrapped:
    @doubled
    def __init__(self, channels: int, *, flag: bool = False) -> None: ...

class Changed:
    @changed
    def __init__(self, channels: int) -> None: ...

SIDE = 3
@dataclass
class Record:
    size: int = SIDE
    names: tuple[str, ...] = ()

def function(one, two: float = -1.0, *three: int, four: str = "x", **five: str) -> None: ...
"""


@pytest.mark.parametrize("name", ["Derived", "Made", "New", "Wrapped", "Changed", "Record", "function", "Base"])
def test_what_source_cannot_tell_is_imported(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the user's own files all; here they are read, to see what would be said of like classes in this package."""
    module = f"own_{name.lower()}"
    (tmp_path / f"{module}.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr("necklace.options.signatures.READ", (module,))
    target = f"{module}.{name}"
    told, imported = told_arguments(target), imported_arguments(target)
    assert imported is not None
    assert (told is None) == (name in ("Made", "New", "Changed"))
    assert list(map(words, arguments(target) or ())) == list(map(words, imported))


def test_a_name_that_is_not_there_is_not_told() -> None:
    assert told_arguments("necklace.necks.SPPX") is None
    assert told_arguments("SPP") is None
    with pytest.raises(Exception, match="SPPX"):
        arguments("necklace.necks.SPPX")
    assert arguments("builtins.object") in (None, ())
