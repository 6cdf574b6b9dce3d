"""What must not leave this machine in a record, a config, W&B or a table: secrets, and where the user's home is."""

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from necklace.guard.interpolations import texts

# Names of environment variables that hold secrets, by a word in them.
_SECRET = re.compile(r"KEY|TOKEN|SECRET|PASSW|PASSPHRASE|CREDENTIAL", re.IGNORECASE)
SHORTEST = 8  # shorter values, such as `true`, occur by chance


def secrets() -> Iterator[tuple[str, str]]:
    """Name and value of each environment variable that looks like a secret; a file's path is none."""
    for name, value in os.environ.items():
        if _SECRET.search(name) and len(value) >= SHORTEST and not (value.startswith(("/", "~")) and os.path.exists(value)):
            yield name, value


def check_no_secret(config: Any) -> None:
    """Check that a config holds no secret of this process's environment, whole or as a part of a longer text.

    Raises:
        ValueError: It does; the message names option and variable, and not the value.
    """
    found = list(secrets())
    if not found:
        return
    for path, text in texts(_as_texts(config)):
        for name, value in found:
            if text == value or (value in text and not _is_word(value)):
                place = path.replace(value, "***")
                raise ValueError(
                    f"{place}: holds the value of the environment variable {name}, which looks like a secret; a config is"
                    " kept in records and shown by loggers, so a secret does not belong in it"
                )


def scrubbed(node: Any) -> Any:
    """Texts as they may be kept: secrets as `***`, and the user's home as `~`; in mappings and lists, of values alone."""
    return without_secrets(without_home(node))


def without_secrets(node: Any) -> Any:
    """Texts in which the values of secrets are `***`."""
    found = sorted((value for _, value in secrets() if not _is_word(value)), key=len, reverse=True)

    def scrub(text: str) -> str:
        for value in found:
            text = text.replace(value, "***")
        return text

    return _mapped(node, scrub) if found else node


def without_home(node: Any) -> Any:
    """A config, or any texts, in which paths below the user's home begin with `~`."""
    given = os.path.expanduser("~").rstrip("/")
    homes = [place for place in dict.fromkeys((given, os.path.realpath(given))) if place not in ("", "~", "/")]
    if not homes:
        return node
    pattern = re.compile(rf"(?<![\w.~-])(?:{'|'.join(map(re.escape, homes))})(?![\w.-])")
    return _mapped(node, lambda text: pattern.sub("~", text))


def with_home(node: Any) -> Any:
    """A config in which values that are paths below `~` are whole paths again."""
    return _mapped(node, lambda text: os.path.expanduser(text) if text == "~" or text.startswith("~/") else text)


def without_any_home(node: Any) -> Any:
    """The same as `without_home` for whoever's home, by the usual names of such folders."""
    pattern = re.compile(r"(?<![\w.~-])(?:/home/[^/\s]+|/Users/[^/\s]+|/root)(?![\w.-])")
    return _mapped(without_home(node), lambda text: pattern.sub("~", text))


def _mapped(node: Any, change: Callable[[str], str]) -> Any:
    if isinstance(node, dict):
        return {key: _mapped(value, change) for key, value in node.items()}
    if isinstance(node, list | tuple):
        return type(node)(_mapped(value, change) for value in node)
    if isinstance(node, Path):
        return Path(change(str(node)))
    return change(node) if isinstance(node, str) else node


def _as_texts(node: Any) -> Any:
    """The node with its numbers as texts: a password may be one."""
    if isinstance(node, dict):
        return {key: _as_texts(value) for key, value in node.items()}
    if isinstance(node, list | tuple):
        return [_as_texts(value) for value in node]
    return str(node) if isinstance(node, int | float) and not isinstance(node, bool) else node


def _is_word(value: str) -> bool:
    """Whether it is a plain word, such as a class's name, which a config may hold by chance within another text."""
    return value.isascii() and value.isalpha() and len(value) < 2 * SHORTEST
