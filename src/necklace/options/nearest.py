"""The real option that a wrong one was probably meant to be."""

import re
from collections.abc import Iterable, Mapping
from difflib import SequenceMatcher
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from necklace.config import leaves

# Names that other programs have for what is called otherwise here, or for what is not there at all.
ELSEWHERE = {
    "max_epochs": "epochs",
    "num_epochs": "epochs",
    "n_epochs": "epochs",
    "learning_rate": "optimizer.lr",
    "wd": "optimizer.weight_decay",
    "bs": "batch_size",
    "gpus": "trainer.devices",
    "num_gpus": "trainer.devices",
    "image_size": "data.size",
    "img_size": "data.size",
    "imgsz": "data.size",
    "pretrained": "backbone.pretrained",
    "gradient_clip": "trainer.gradient_clip_val",
    "fast_dev_run": "trainer.fast_dev_run",
}
_CHOSEN = "a run trains all its epochs, and val chooses the best one"
_RESUMED = "the same command goes on from its last checkpoint, and rerun=true starts anew"
_NO_WORKERS = "the images are in memory, and no workers read them"
# In lower case and without underscores, so that they are known in any spelling.
ABSENT = {
    "patience": _CHOSEN,
    "early": _CHOSEN,
    "earlystop": _CHOSEN,
    "earlystopping": _CHOSEN,
    "earlystoppingpatience": _CHOSEN,
    "ckptpath": _RESUMED,
    "resume": _RESUMED,
    "resumefrom": _RESUMED,
    "resumefromcheckpoint": _RESUMED,
    "numworkers": _NO_WORKERS,
    "workers": _NO_WORKERS,
}
# How alike the last names are, from 0 to 1, from which on a key is that option, misspelt: in the group where it stands, and
# anywhere else, where a name has more rivals.
BESIDE, APART = 0.7, 0.8
HERE = 0.3  # what it counts that an option is one of the choices taken
SIBLING = 0.3  # that it stands in the same group
EXACT = 0.6  # and that it has this very name, so that the key is in the wrong place
MOST = 12  # options of a group that are listed, at most

CONFIGS = Path(__file__).resolve().parents[1] / "configs"


def advice(key: str, known: Iterable[str], taken: Mapping[str, str]) -> str:
    """What to say behind "nothing reads it": the nearest real option, or why there is none.

    Args:
        key: Such as `focal_level` or `neck.focal_levl`.
        known: Whole dotted paths of the options that are read.
        taken: Config group to the choice taken.
    """
    absent = ABSENT.get(_last(key).lower().replace("_", ""))
    if absent:
        return f": {absent}"
    others = other_choices()
    if key in others:
        group = others[key][0].partition("=")[0]
        return f" with {group}={taken.get(group, 'this choice')}; {', '.join(others[key])} {_have(others[key])} it"
    known = set(known)
    meant = nearest(key, known)
    if meant is None:
        return f"{_listed(key, known, taken)}; train.py --cfg job shows all options"
    return f"; did you mean {meant}?" if meant in known else f"; did you mean {meant} (of {', '.join(others[meant])})?"


def nearest(key: str, known: Iterable[str]) -> str | None:
    """The option nearest to a key, among those that are read and those of other choices; None if none is near.

    Args:
        key: Such as `focal_level` or `neck.focal_levl`.
        known: Whole dotted paths.
    """
    return _nearest(key, frozenset(known))


@cache
def _nearest(key: str, here: frozenset[str]) -> str | None:
    last = _last(key)
    if ELSEWHERE.get(last) in here - {key} and not any(_last(path) == last for path in here):
        return ELSEWHERE[last]
    parent = key[: len(key) - len(last)]
    best, score = None, 0.0
    of_last, of_key = SequenceMatcher(None, b=last), SequenceMatcher(None, b=key)  # which keep what they know of these
    for path in sorted((here | other_choices().keys()) - {key}):
        name = _last(path)
        # A key with a slash can only have been meant to choose, one with a dot not. Names such as _target_ are Hydra's own.
        if ("/" in key and "/" not in path) or ("/" in path and "." in key) or name.startswith("_"):
            continue
        sibling = path == parent + name
        own = 1.0 if _joined_otherwise(key, path) else _likeness(of_last, last, name, BESIDE if sibling else APART)
        if not own:
            continue
        # The last name counts most: a key in the wrong place has it right.
        of_key.set_seq1(path)
        total = 2 * own + of_key.ratio() + HERE * (path in here) + SIBLING * sibling + EXACT * (name == last)
        if total > score:
            best, score = path, total
    return best


def _likeness(of_last: SequenceMatcher[str], last: str, name: str, least: float) -> float:
    """How alike two last names are, from 0 to 1; 0 below `least`."""
    if last == name:
        return 1.0
    if len(last) == len(name) and sorted(last) == sorted(name):  # letters were swapped, which weighs much in a short name
        return 0.9
    if len(last) > 3 and (name.startswith(f"{last}_") or name.endswith(f"_{last}")):  # such as `window` of focal_window
        return APART
    of_last.set_seq1(name)
    if of_last.real_quick_ratio() < least or of_last.quick_ratio() < least:
        return 0.0
    return ratio if (ratio := of_last.ratio()) >= least else 0.0


def _joined_otherwise(key: str, path: str) -> bool:
    """Whether a key has the names of an option with something else than dots between them, such as optimizer_lr."""
    return len(key) == len(path) and "." in path and re.split(r"[._/]", key) == re.split(r"[._/]", path)


def _listed(key: str, known: Iterable[str], taken: Mapping[str, str]) -> str:
    """The options in the group of a key, or those of the config itself."""
    parent = key[: len(key) - len(_last(key))]
    beside = sorted(path.removeprefix(parent) for path in known if path.startswith(parent) and "/" not in path)
    names = [name for name in dict.fromkeys(path.partition(".")[0] for path in beside) if not name.startswith("_")]
    if not names:
        group = parent[:-1].replace(".", "/")
        return f"; {group}={taken[group]} has no options" if group in taken else f"; there is no {parent[:-1]}"
    more = f" and {len(names) - MOST} more" if len(names) > MOST else ""
    return f"; {f'the options of {parent[:-1]} are' if parent else 'there are'} {', '.join(names[:MOST])}{more}"


def is_own(path: str, taken: Mapping[str, str]) -> bool:
    """Whether an option stands in the file of a choice that was taken, among this project's configs."""
    return any(taken.get(choice.partition("=")[0]) == choice.partition("=")[2] for choice in other_choices().get(path, ()))


@cache
def other_choices() -> dict[str, list[str]]:
    """Dotted path of each option in this project's configs to the choices that have it, such as `neck=focal`."""
    found: dict[str, list[str]] = {}
    for path in sorted(CONFIGS.rglob("*.yaml")):
        group = path.parent.relative_to(CONFIGS).as_posix()
        if path.name.startswith("_") or group.split("/")[0] in (".", "recipe", "hydra"):
            continue
        text = path.read_text(encoding="utf-8")
        content = yaml.safe_load(text)
        if text.startswith("# @package _global_"):  # as task=detection, which sets options of other groups as well
            content = content[group]
        for name in content.get("defaults", ()) if isinstance(content, dict) else ():  # as focal_block has focal's options
            inherited = path.with_name(f"{name}.yaml")
            content = _merged(inherited, content) if isinstance(name, str) and inherited.is_file() else content
        for option, _ in leaves(content, f"logger.{path.stem}" if group == "logger" else group.replace("/", ".")):
            if _last(option) not in ("_target_", "_partial_") and not option.endswith(".defaults"):
                found.setdefault(option, []).append(f"{group}={path.stem}")
    return found


def _merged(path: Path, content: dict[str, Any]) -> dict[str, Any]:
    return {**yaml.safe_load(path.read_text(encoding="utf-8")), **content}


def _have(names: list[str]) -> str:
    return "has" if len(names) == 1 else "have"


def _last(path: str) -> str:
    return path.rpartition("/")[2].rpartition(".")[2]
