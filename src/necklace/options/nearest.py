"""The real option that a wrong one was probably meant to be."""

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
ABSENT = {
    "patience": "a run trains all its epochs, and val chooses the best one",
    "early_stopping": "a run trains all its epochs, and val chooses the best one",
    "ckpt_path": "the same command goes on from its last checkpoint, and rerun=true starts anew",
    "resume": "the same command goes on from its last checkpoint, and rerun=true starts anew",
    "resume_from_checkpoint": "the same command goes on from its last checkpoint, and rerun=true starts anew",
    "num_workers": "the images are in memory, and no workers read them",
    "workers": "the images are in memory, and no workers read them",
}
LEAST = 0.6
HERE = 0.3  # what it counts that an option is one of the choices taken

CONFIGS = Path(__file__).resolve().parents[1] / "configs"


def advice(key: str, known: Iterable[str], taken: Mapping[str, str]) -> str:
    """What to say behind "nothing reads it": the nearest real option, or why there is none.

    Args:
        key: Such as `focal_level` or `neck.focal_levl`.
        known: Whole dotted paths of the options that are read.
        taken: Config group to the choice taken.
    """
    last = _last(key)
    if last in ABSENT:
        return f": {ABSENT[last]}"
    others = other_choices()
    if key in others:
        group = others[key][0].partition("=")[0]
        return f" with {group}={taken.get(group, 'this choice')}; {', '.join(others[key])} {_have(others[key])} it"
    known = set(known)
    meant = nearest(key, known)
    if meant is None:
        return "; train.py --cfg job shows all options"
    return f"; did you mean {meant}?" if meant in known else f"; did you mean {meant} (of {', '.join(others[meant])})?"


def nearest(key: str, known: Iterable[str]) -> str | None:
    """The option nearest to a key, among those that are read and those of other choices; None if none is near.

    Args:
        key: Such as `focal_level` or `neck.focal_levl`.
        known: Whole dotted paths.
    """
    last, here = _last(key), set(known)
    if ELSEWHERE.get(last) in here - {key} and not any(_last(path) == last for path in here):
        return ELSEWHERE[last]
    best, score = None, 0.0
    of_last, of_key = SequenceMatcher(None, b=last), SequenceMatcher(None, b=key)  # which keep what they know of these
    for path in sorted(here | other_choices().keys()):
        # A key with a slash can only have been meant to choose, one with a dot not. Names such as _target_ are Hydra's own.
        if ("/" in key and "/" not in path) or ("/" in path and "." in key) or _last(path).startswith("_"):
            continue
        own, whole = _ratio(of_last, _last(path)), _ratio(of_key, path)
        # The last name counts most: a key in the wrong place has it right.
        total = 2 * own + whole + HERE * (path in here)
        if max(own, whole) >= LEAST and total > score:
            best, score = path, total
    return best


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
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
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


def _ratio(matcher: SequenceMatcher[str], text: str) -> float:
    matcher.set_seq1(text)
    return matcher.ratio() if matcher.real_quick_ratio() >= 0.4 and matcher.quick_ratio() >= 0.4 else 0.0
