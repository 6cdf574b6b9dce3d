"""Who reads which key of a config: the arguments of each `_target_`, the Trainer's, the data's, and the run's own."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from inspect import Parameter
from typing import Any, Unpack, get_args, get_origin

from necklace.config import leaves
from necklace.options.kinds import FLAG, NAME, Kind, either, kind_of, list_of, number, one_of, whole
from necklace.options.signatures import EMPTY, arguments
from necklace.options.trainer import SET_BY_THE_RUN, trainer_kinds
from necklace.parts import GIVEN

# The run's own options, which no class takes.
RUN: dict[str, Kind] = {
    "seed": whole(0),
    "streams.init": either(whole(0), one_of(None)),
    "streams.order": either(whole(0), one_of(None)),
    "streams.augment": either(whole(0), one_of(None)),
    "streams.rounding": whole(0),
    "epochs": whole(1),
    "batch_size": whole(1),
    "mirror": FLAG,
    "shift": whole(0),
    "study": either(NAME, whole()),
    "outputs": NAME,
    "rerun": one_of(True, False, "stale", "failed"),
    "callbacks.gates": whole(0),
    "callbacks.pictures": FLAG,
    "callbacks.knockout": FLAG,
}
# Parts of a config that are made from a `_target_`; all but the logger have to be there.
PARTS = ("backbone", "neck", "head", "task", "optimizer", "schedule", "data.source", "data.sizes", "logger")

# Narrower than the annotation of the argument: of other libraries' classes, and of those that would fail later.
RANGES: dict[str, Kind] = {
    "optimizer.lr": number(above=0),
    "optimizer.weight_decay": number(0),
    "optimizer.momentum": number(0),
    "optimizer.eps": number(0),
    "optimizer.betas": list_of(number(0, below=1), 2),
    "schedule.warmup_share": number(0, 1),
    "schedule.warmup_epochs": number(0),
    "task.bias_lr": number(above=0),
    "task.label_smoothing": number(0, below=1),
    "task.class_weights": either(list_of(number(above=0), least=2), one_of("balanced", None)),
    "backbone.depth": whole(8),
    "backbone.width": whole(1),
    "head.hidden": either(whole(1), one_of(None)),
    "backbone.stages": either(list_of(whole(1), least=1), one_of(None)),
    "head.levels": whole(1),
    "head.width": whole(1),
    "head.depth": whole(1),
    "head.kernel": whole(1),
    "head.bins": list_of(whole(1), least=1),
    "data.val_fraction": number(above=0, below=1),
    "data.train_images": either(whole(1), one_of(None)),
    "data.test_images": either(whole(1), one_of(None)),
    "data.eval_sizes": list_of(whole(1)),
    "data.mean": list_of(number(), 3),
    "data.std": list_of(number(above=0), 3),
    "data.augment.crop_padding": whole(0),
    "data.augment.cutout": whole(0),
    "data.augment.photometric": number(0, 1),
    "data.augment.crop_scale": number(above=0, high=1),
    "data.augment.mosaic": number(0, 1),
}

# What Hydra's instantiate reads beside the arguments.
HYDRA_KEYS = ("_target_", "_partial_", "_recursive_", "_convert_", "_args_")


@dataclass(frozen=True)
class Arguments:
    """The arguments that a `_target_` takes from a config.

    Attributes:
        kinds: Name to the kind of its values, None where that is not known.
        defaults: Name to default, of those that have one.
        given: Names that the run gives itself.
        is_open: Whether it takes others as well.
    """

    kinds: dict[str, Kind | None]
    defaults: dict[str, Any]
    given: frozenset[str]
    is_open: bool


@dataclass
class Readers:
    """All keys that something reads.

    Attributes:
        options: Dotted path to the kind of its values, None where that is not known.
        defaults: Dotted path to the default of the argument that it becomes.
        refused: Dotted path to a reason, of keys that the run sets itself.
        required: Dotted paths that have to be there.
        open: Parts whose class takes any name.
        problems: Sentences about parts that cannot be read at all.
    """

    options: dict[str, Kind | None] = field(default_factory=dict)
    defaults: dict[str, Any] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    required: list[str] = field(default_factory=list)
    open: set[str] = field(default_factory=set)
    problems: list[str] = field(default_factory=list)


def readers_of(config: Mapping[str, Any]) -> Readers:
    """Find out who reads what in a config.

    Args:
        config: The config as plain containers; interpolations may stand as they are.
    """
    found = Readers()
    found.options |= RUN
    found.required += [*RUN, "trainer", "logger", "data.augment"]
    found.options |= {f"trainer.{name}": kind for name, kind in trainer_kinds().items()}
    found.refused |= {f"trainer.{name}": why for name, why in SET_BY_THE_RUN.items()}
    for name, (kind, default) in _data_options().items():
        found.options[f"data.{name}"] = RANGES.get(f"data.{name}", kind)
        found.defaults[f"data.{name}"] = default
    for name in ("batch_size", "seed"):
        found.refused[f"data.{name}"] = f"{name}= sets it"
    for path in PARTS:
        _add_part(found, path, _at(config, path))
    return found


def _add_part(found: Readers, path: str, node: Any) -> None:
    """Add the arguments of the node's `_target_`, and of those within it."""
    if path == "logger" and not node:
        return
    if path == "logger" and isinstance(node, Mapping) and "_target_" not in node:  # several, by their names
        for name, one in node.items():
            _add_part(found, f"logger.{name}", one)
        return
    if not isinstance(node, Mapping) or "_target_" not in node:
        found.required.append(path)
        return
    found.options |= {f"{path}.{name}": None for name in HYDRA_KEYS}
    group = "logger" if path.startswith("logger.") and path.count(".") == 1 else path
    try:
        taken = arguments_of(str(node["_target_"]), group)
    except Exception as error:  # importing a user's module may raise anything
        reason = error.__cause__ or error
        found.problems.append(f"{path}._target_={node['_target_']}: cannot be imported: {' '.join(str(reason).split())}")
        found.open.add(path)
        return
    for name, kind in taken.kinds.items():
        found.options[f"{path}.{name}"] = RANGES.get(f"{path}.{name}", kind)
    found.defaults |= {f"{path}.{name}": value for name, value in taken.defaults.items()}
    found.refused |= {f"{path}.{name}": "the run sets it" for name in taken.given}
    found.required += [f"{path}.{name}" for name in taken.kinds if name not in taken.defaults]
    if taken.is_open:
        found.open.add(path)
    for name, value in node.items():
        if isinstance(value, Mapping) and "_target_" in value:
            found.options.pop(f"{path}.{name}", None)  # a part, of which not every key is read
            _add_part(found, f"{path}.{name}", value)


@cache
def arguments_of(target: str, part: str) -> Arguments:
    """The arguments that a config may give a `_target_`.

    Args:
        target: Its dotted path, which may be one that has moved.
        part: The part of a config that it stands in, such as `neck`: what the run gives such a part is not the config's.

    Raises:
        Exception: Whatever importing it raises.
    """
    taken = arguments(target)
    if taken is None:
        return Arguments({}, {}, frozenset(), True)
    given, by_place = GIVEN.get(part, ((), 0))
    kinds: dict[str, Kind | None] = {}
    defaults: dict[str, Any] = {}
    set_by_run, is_open = set(given), False
    for place, each in enumerate(taken):
        name = each.name
        if each.kind is Parameter.VAR_KEYWORD:
            # `**about: Unpack[AboutRun]`: what the run gives.
            hint = each.hint()
            is_open = get_origin(hint) is not Unpack
            set_by_run |= set() if is_open else set(get_args(hint)[0].__annotations__)
        elif place < by_place or name in given:
            set_by_run.add(name)
        elif each.kind not in (Parameter.VAR_POSITIONAL, Parameter.POSITIONAL_ONLY):
            hint = each.hint()
            kinds[name] = None if hint is EMPTY else kind_of(hint)
            if each.default is not EMPTY:
                defaults[name] = each.default
    return Arguments(kinds, defaults, frozenset(set_by_run), is_open)


@cache
def _data_options() -> dict[str, tuple[Kind | None, Any]]:
    """The options of `data` itself that are no parts, with kind and default."""
    found: dict[str, tuple[Kind | None, Any]] = {}
    given, _ = GIVEN["data"]
    for prefix, target in (("", "splits.read_splits"), ("", "datamodule.DataModule"), ("augment.", "augment.Augmentation")):
        for each in arguments(f"necklace.data.{target}") or ():
            if each.name not in given or prefix:
                found[prefix + each.name] = kind_of(each.hint()), each.default
    return found


def references(config: Mapping[str, Any]) -> dict[str, set[str]]:
    """Dotted path of each value that refers to other keys, to these keys.

    Args:
        config: The config with its interpolations as they stand.
    """
    found = {}
    for path, value in leaves(config):
        if isinstance(value, str) and "${" in value:
            # A name, the argument of oc.select, or what stands before an inner interpolation.
            names = re.findall(r"\$\{(?:oc\.[a-z.]+:\s*)?([\w.@-]*[\w@-])(?=[},]|\.\$\{)", value)
            found[path] = {_absolute(name, path) for name in names}
    return found


def _absolute(name: str, path: str) -> str:
    """A key as an interpolation at `path` names it: one that begins with dots is relative."""
    bare = name.lstrip(".")
    dots = len(name) - len(bare)
    return ".".join([*path.split(".")[:-dots], bare]) if dots else bare


def _at(node: Any, path: str) -> Any:
    for name in path.split("."):
        node = node.get(name) if isinstance(node, Mapping) else None
    return node
