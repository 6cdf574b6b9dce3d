"""The code that a run trains with, module by module; a record of other code is stale.

A run's version covers the static import closure of `necklace.run.fit` and of the classes that its config names, the user's
own files included. A name that a package re-exports counts as its defining module, so a new file beside it changes nothing.
Code that only reads or shows finished runs is outside the closure. Comments, docstrings and layout do not count; installed
packages count by the versions in the record. How it is read: `source_code.py`.
"""

import hashlib
import json
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from necklace.source_code import PACKAGE, add_module, add_target

ENTRY = f"{PACKAGE}.run.fit"
# Config groups whose classes watch a run and do not train it.
WATCHING = ("logger", "callbacks")
# Folders of a checkout in which no code lies that a run trains with.
_WRITTEN = (":(exclude)experiments", ":(exclude)outputs")


def code_version(config: dict[str, Any]) -> dict[str, str]:
    """The version of the code that a run trains with.

    Args:
        config: The resolved config.

    Returns:
        Module to the first 16 hex digits of a sha256 over its code, by name.
    """
    trained_with = {group: node for group, node in config.items() if group not in WATCHING}
    return _version(tuple(sorted(set(_targets(trained_with)))))


def changed_modules(old: dict[str, str], new: dict[str, str]) -> list[str]:
    """The modules in which two code versions differ, in order."""
    return sorted(name for name in old.keys() | new.keys() if old.get(name) != new.get(name))


def version_digest(version: dict[str, str]) -> str:
    """One digest over a code version, for files that only have to tell two versions apart."""
    return hashlib.sha256(json.dumps(version, sort_keys=True).encode()).hexdigest()[:16]


@cache
def _version(targets: tuple[str, ...]) -> dict[str, str]:
    found: dict[str, str] = {}
    add_module(ENTRY, found)
    for target in targets:
        add_target(target, found)
    return dict(sorted(found.items()))


def _targets(node: Any) -> Iterator[str]:
    """All `_target_`s of a config."""
    if isinstance(node, dict):
        if isinstance(node.get("_target_"), str):
            yield node["_target_"]
        for value in node.values():
            yield from _targets(value)
    elif isinstance(node, list):
        for value in node:
            yield from _targets(value)


@cache
def git_state() -> dict[str, Any] | None:
    """Commit of the code, its day and dirty flag, or None where it is not from a checkout; asked once, when code is loaded.

    What studies and runs write does not make it dirty: a study writes its rules before its first run begins.
    """
    try:
        _git("ls-files", "--error-unmatch", str(Path(__file__).resolve()))  # or it is installed within another's checkout
        sha, day = _git("show", "-s", "--format=%H %cs", "HEAD").split()
        return {"sha": sha, "dirty": bool(_git("status", "--porcelain", "--", ".", *_WRITTEN).strip()), "date": day}
    except (OSError, subprocess.CalledProcessError):
        return None


@cache
def day_of(sha: str) -> str | None:
    """The day of a commit of this checkout, such as `2026-11-27`; None where it is not known here."""
    try:
        return _git("show", "-s", "--format=%cs", "--end-of-options", f"{sha}^{{commit}}").strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def _git(*command: str) -> str:
    root = Path(__file__).resolve().parents[2]
    return subprocess.run(["git", "-C", str(root), *command], capture_output=True, text=True, check=True).stdout
