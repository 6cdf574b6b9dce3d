"""Names that become paths, options and choices."""

import re
from pathlib import Path
from typing import Any

from necklace.guard.text import on_one_line

# An option as a study may name it: no package and no spaces, which Hydra gives meanings of their own.
_OPTION = re.compile(r"(?:\+{0,2}|~)[A-Za-z_]\w*(?:[./][\w-]+)*", re.ASCII)
# A choice from a config group: a file's name, at most in a folder below, and no way out of the folder of configs.
_CHOICE = re.compile(r"\w[\w+-]*(?:/[\w+-]+)*", re.ASCII)


def study_folder(study: object) -> str:
    """The name of a study's folder, where it is one; study=2024 is a number to Hydra.

    Raises:
        ValueError: It is none: it is empty, absolute, hidden, or leads elsewhere.
    """
    name = "" if study is None else str(study)
    parts = re.split(r"[/\\]", name)
    if not name.isprintable() or not all(part.strip() and not part.startswith((".", "~")) for part in parts):
        raise ValueError(f"study={name!r}: must name a folder below outputs, such as runs; not empty, and without . or .. or ~")
    return name


def is_file_name(name: str) -> bool:
    """Whether it names a file of a folder, and nothing outside it."""
    return bool(name.strip()) and name.isprintable() and not name.startswith((".", "~")) and not re.search(r"[/\\]", name)


def check_listed(name: str, row: str, path: Path) -> None:
    """Check what a list of runs calls one of them: its file and its row.

    Raises:
        ValueError: The name is none of a file beside the list, or the row is more than a line of text.
    """
    if not is_file_name(name):
        raise ValueError(f"{path}: runs: {name!r}: must be the name of a run's file in records/")
    if on_one_line(row) != row:
        raise ValueError(f"{path}: runs: {row!r}: must be printable, on one line")


def check_option(key: str, value: Any) -> None:
    """Check an option that a study sets, and a choice that it makes.

    Raises:
        ValueError: The key is none, or the value leads out of the configs.
    """
    if not _OPTION.fullmatch(key):
        raise ValueError(f"{key!r}: must be an option, such as neck.focal_level or data/sizes")
    if "." in key:
        return
    for choice in value if isinstance(value, list) else [value]:
        if isinstance(choice, str) and not _CHOICE.fullmatch(choice):
            raise ValueError(f"{key}={choice!r}: must be the name of a choice, such as focal")
