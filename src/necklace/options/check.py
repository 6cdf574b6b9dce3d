"""Check all options of a composed config at once, before anything starts."""

import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from necklace.config import given_keys, leaves, resolved
from necklace.options.errors import OptionError
from necklace.options.kinds import shown
from necklace.options.nearest import advice, is_own
from necklace.options.readers import PARTS, Readers, readers_of, references
from necklace.options.signatures import defined
from necklace.options.trainer import trainer_problems
from necklace.options.unread import RULES
from necklace.parts import REFERRED


def check_options(
    config: DictConfig,
    choices: Mapping[str, str],
    given: Sequence[str],
    shared: Sequence[str] = (),
    before_trial: Callable[[], object] = lambda: None,
) -> dict[str, str]:
    """Check that something reads each key of a config, and takes its value.

    An option that exists, but that another option leaves without effect, is an error where it was given: its value says
    something about the run that is not so.

    Args:
        config: The composed config, without its `hydra` node; its interpolations still stand.
        choices: Config group to the choice taken.
        given: Overrides by which the user asked for this very run.
        shared: Overrides that this run shares with others, which may read what this one does not.
        before_trial: Called when nothing is wrong that can be told without torch, before parts are made for a trial.

    Returns:
        Option to the reason why this run does not read it, of those of `shared` that have no effect here.

    Raises:
        OptionError: Keys are unknown or missing, or values are wrong; it names all of them, a line each.
    """
    plain: Any = OmegaConf.to_container(config, resolve=False)
    several = [text for text in (*given, *shared) if _takes_several(text, plain, choices)]
    if several:  # Hydra merges them into one, which would be neither
        raise OptionError("\n".join(f"{text}: must be one choice" for text in several))
    readers, refers = readers_of(plain), references(plain)
    unread = _unread(plain, readers, refers)
    known = [*readers.options, *(path for path, _ in leaves(plain) if path not in unread), *choices]
    problems = [*readers.problems, *_key_problems(unread, known, choices, given)]
    missing = [path for path, value in leaves(plain) if value == "???"]
    problems += [f"{key}: is missing; give it a value with {key}=VALUE" for key in missing]
    if missing:
        raise OptionError("\n".join(problems))
    try:
        values = resolved(config)
    except OmegaConfBaseException as error:
        where = f"{error.full_key}: " if error.full_key else ""
        raise OptionError("\n".join([*problems, where + str(error).splitlines()[0]])) from error
    except ValueError as error:  # the study's name
        raise OptionError("\n".join([*problems, str(error)])) from error
    wrong = _value_problems(values, readers, refers)
    problems += wrong.values()
    if isinstance(values.get("trainer"), dict):
        problems += trainer_problems(values["trainer"], values.get("epochs"), values.get("optimizer"))
    if not problems:
        before_trial()
        problems = _trial_problems(values, plain, choices)
    if problems:
        raise OptionError("\n".join(dict.fromkeys(problems)))
    idle = {**unread, **_without_effect(values)}
    own = _given_of(idle, given)
    if own:
        raise OptionError("\n".join(f"{path}={shown(_at(values, path))}: nothing reads it: {idle[path]}" for path in own))
    return {path: idle[path] for path in _given_of(idle, shared)}


def check_split_options(
    splits: Collection[str], own_val: bool, given: Sequence[str], shared: Sequence[str] = ()
) -> dict[str, str]:
    """The same for options that only some data reads, which is known when it has been read.

    Args:
        splits: The names of the splits that there are.
        own_val: Whether the source has a val split of its own.
        given: As for `check_options`.
        shared: As for `check_options`.

    Returns:
        As `check_options`.

    Raises:
        OptionError: The data does not read one of those given.
    """
    idle = {"data.val_fraction": "the data has a val split of its own"} if own_val else {}
    if "test" not in splits:
        idle |= dict.fromkeys(("data.test_images", "data.eval_sizes"), "the data has no test split")
    if found := _given_of(idle, given):
        raise OptionError("\n".join(f"{path}: nothing reads it: {idle[path]}" for path in found))
    return {path: idle[path] for path in _given_of(idle, shared)}


def _unread(plain: dict[str, Any], readers: Readers, refers: Mapping[str, set[str]]) -> dict[str, str]:
    """Dotted path of each key that nothing reads to a reason; empty where there is none to give."""
    known = readers.options.keys() | readers.refused.keys()
    open_parts = tuple(f"{part}." for part in readers.open)
    paths = [path for path, _ in leaves(plain)]
    read = {path for path in paths if _is_below(path, known) or path.startswith(open_parts)}
    found = set(paths) - read
    while referred := {path for path in found if _is_below(path, {key for one in read for key in refers.get(one, ())})}:
        found -= referred  # what a key that is read refers to is read with it
        read |= referred
    groups = {path.rpartition(".")[0] for path in known} | {*PARTS, "data", "trainer", "callbacks", "data.augment"}
    sizes = "data.sizes has sizes of its own (data/sizes=fixed reads data.size)"
    return {path: sizes if path == "data.size" else "" for path in paths if path in found - groups}


def _key_problems(unread: dict[str, str], known: Sequence[str], choices: Mapping[str, str], given: Sequence[str]) -> list[str]:
    """A sentence for each key that nothing can read; removes it from `unread`."""
    problems = []
    of_data = {f"data.{name}" for name in REFERRED}
    for path in [path for path in unread if path not in of_data or (not unread[path] and _given_of([path], given))]:
        del unread[path]
        if is_own(path, choices):  # which the project's tests hold, and not each run
            continue
        problems.append(f"{path}: nothing reads it{advice(path, known, choices)}")
    return problems


def _value_problems(values: dict[str, Any], readers: Readers, refers: Mapping[str, set[str]]) -> dict[str, str]:
    """Dotted path to a sentence, of each value that is missing or that its reader does not take."""
    problems: dict[str, str] = {}
    for path in readers.required:
        value = _at(values, path)
        if value is _ABSENT:
            parent = path.rpartition(".")[0]
            whole = _at(values, parent) if parent else _ABSENT
            if whole is _ABSENT or isinstance(whole, dict):
                problems[path] = f"{path}: is missing"
            else:
                problems[parent] = f"{parent}={shown(whole)}: must be options, each set by its name, such as {path}=VALUE"
        elif path in (*PARTS, "trainer", "data.augment") and path != "logger" and not _is_part(path, value):
            group = path.replace(".", "/")
            problems[path] = f"{path}={shown(value)}: must be a choice, such as {group}={_EXAMPLES[group]}"
    for path, why in readers.refused.items():
        if _at(values, path) is not _ABSENT:
            problems[path] = f"{path}={shown(_at(values, path))}: not for a config to set: {why}"
    for path, kind in readers.options.items():
        value = _at(values, path)
        if kind is None or value is _ABSENT or kind.accepts(value) or _is_default(value, readers.defaults.get(path, _ABSENT)):
            continue
        if isinstance(value, dict) and "_target_" in value:
            continue  # an object that is made from a part of its own
        (origin,) = refers[path] if len(refers.get(path, ())) == 1 else (path,)
        problems[origin] = f"{origin}={shown(value)}: must be {kind.words}"
    return problems


_EXAMPLES = {
    "data": "glyphs",
    "data/sizes": "fixed",
    "data/source": "{_target_: ...}",
    "backbone": "cifar_resnet",
    "neck": "focal",
    "head": "gap",
    "task": "classification",
    "optimizer": "adamw",
    "schedule": "one_cycle",
    "trainer": "default",
    "data/augment": "{flip: true}",
}


def _trial_problems(values: dict[str, Any], plain: dict[str, Any], choices: Mapping[str, str]) -> list[str]:
    """What the parts that are quickly made say to their options."""
    from necklace.options.trial import UNREAD, trial_problem  # here: what is wrong by itself is said before torch is imported

    problems = []
    for path in ("data.augment", "data.sizes", "backbone", "neck", "head", "optimizer"):
        node = _at(values, path)
        problem = trial_problem(path, json.dumps(node, sort_keys=True))
        if problem and problem.endswith(UNREAD):
            option = problem.removesuffix(UNREAD)
            known = [key for key, _ in leaves(plain) if key != option]
            problems += [] if is_own(option, choices) else [problem + advice(option, known, choices)]
        elif problem:
            option, _, rest = problem.partition("=")
            # Said of the option that the user has, where it only refers to that.
            stated = _at(plain, option)
            refers = isinstance(stated, str) and stated.startswith("${") and stated.endswith("}")
            problems.append(f"{stated[2:-1]}={rest}" if refers else problem)
    return problems


def _without_effect(values: dict[str, Any]) -> dict[str, str]:
    """Dotted path of each option that another leaves without effect to the reason."""
    found = {}
    for path in (*PARTS, "trainer"):
        node = _at(values, path)
        if not isinstance(node, dict):
            continue
        target = str(node.get("_target_", path))
        rule = RULES.get(defined(target) if "." in target else target)
        found |= {f"{path}.{name}": why for name, why in (rule(node) if rule else {}).items() if name in node}
    schedule = values.get("schedule")
    if isinstance(schedule, dict) and defined(str(schedule.get("_target_", "schedule."))) == "necklace.schedules.one_cycle":
        found["optimizer.momentum"] = "schedule=one_cycle moves it from 0.95 to 0.85 and back"
    return found


def _given_of(paths: Iterable[str], overrides: Sequence[str]) -> list[str]:
    keys = given_keys(overrides)
    return [path for path in paths if path in keys]


def _takes_several(override: str, plain: Mapping[str, Any], choices: Mapping[str, str]) -> bool:
    """Whether an override takes several choices of a group that has room for one: Hydra then names no choice."""
    group = override.partition("=")[0]
    return group in _EXAMPLES and group not in choices and _at(plain, group.replace("/", ".")) is not _ABSENT


def _is_part(path: str, value: Any) -> bool:
    return isinstance(value, dict) and (path not in PARTS or "_target_" in value)


class _Absent:
    pass


_ABSENT = _Absent()


def _at(node: Any, path: str) -> Any:
    for name in path.split("."):
        if not isinstance(node, Mapping) or name not in node:
            return _ABSENT
        node = node[name]
    return node


def _is_below(path: str, keys: Collection[str]) -> bool:
    """Whether a path is one of the keys, or lies within the value of one."""
    names = path.split(".")
    return any(".".join(names[:count]) in keys for count in range(len(names), 0, -1))


def _is_default(value: Any, default: Any) -> bool:
    return type(value) is type(default) and value == default
