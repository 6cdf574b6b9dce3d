"""`data.yaml` of YOLO's layout: the names of the classes, and where the images of each split are.

It is read as plain YAML: no tags that make objects, no aliases, no key twice.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from necklace.guard.plain_yaml import PlainLoader, read_plain_yaml

MAX_CLASSES = 100_000


@dataclass(frozen=True)
class YoloYaml:
    """What a `data.yaml` says.

    Attributes:
        names: The classes; a class's number is its place.
        path: The folder to which the splits are relative, if it is stated.
        splits: Name of a split as the file has it (`train`, `val`, `valid`, `test`) to folders or lists of images.
    """

    names: tuple[str, ...]
    path: str | None
    splits: dict[str, tuple[str, ...]]


def read_yaml(path: Path) -> YoloYaml:
    """Read a `data.yaml`.

    Raises:
        ValueError: It is none; the message has the reason, without the file's name.
    """
    content = read_plain_yaml(path, PlainLoader)
    if not isinstance(content, dict):
        raise ValueError("not YOLO's data.yaml: must be a mapping with names and train")
    names = _names(content.get("names"))
    count = content.get("nc")
    if count is not None and count != len(names):
        raise ValueError(f"nc={str(count)[:20]}, but there are {len(names)} names")
    base = content.get("path")
    if base is not None and not isinstance(base, str):
        raise ValueError(f"path={str(base)[:80]!r}: must be text")
    splits = {}
    for key in ("train", "val", "valid", "validation", "test"):
        places = content.get(key)
        if places in (None, "", []):
            continue
        several = places if isinstance(places, list) else [places]
        if not all(isinstance(place, str) and place.strip() for place in several):
            raise ValueError(f"{key}={str(places)[:80]!r}: must be a folder or a list of images, or several of them")
        splits[key] = tuple(several)
    if "train" not in splits:
        raise ValueError("no train: must name the folder of the training images, such as train: images/train")
    if len(splits.keys() & {"val", "valid", "validation"}) > 1:
        raise ValueError(f"{' and '.join(key for key in splits if key.startswith('val'))} are both for validation")
    return YoloYaml(names, base, splits)


def _names(names: Any) -> tuple[str, ...]:
    """The names of the classes, from a list or from a mapping of number to name."""
    if isinstance(names, dict):
        wanted = set(range(len(names)))
        keys = {int(key) if isinstance(key, str) and key.isdecimal() else key for key in names}
        if keys != wanted or any(isinstance(key, bool) for key in names):
            raise ValueError(f"names: must be numbered from 0 to {len(names) - 1} without gaps")
        names = [name for _, name in sorted(names.items(), key=lambda item: int(item[0]))]
    if not isinstance(names, list) or not names:
        raise ValueError("no names: must be a list of the classes, or a mapping of their numbers from 0 to them")
    if len(names) > MAX_CLASSES:
        raise ValueError(f"{len(names)} names, more than {MAX_CLASSES}")
    if any(isinstance(name, list | dict | bool) or name is None for name in names):
        raise ValueError("names: each must be text (in quotes where YAML has another meaning for it, such as yes or null)")
    found = [" ".join(str(name).split()) for name in names]
    if "" in found:
        raise ValueError("names: one is empty")
    twice = {name for name in found if found.count(name) > 1} if len(set(found)) < len(found) else set()
    if twice:
        raise ValueError(f"names: {min(twice)!r} is there twice")
    return tuple(found)
