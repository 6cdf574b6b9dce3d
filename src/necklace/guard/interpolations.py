"""`${...}` in what comes from elsewhere: it may refer to other options, ask this machine for nothing, and not grow without end.

OmegaConf's resolvers, such as `${oc.env:HOME}`, read the environment, decode and call. This project has none of its own.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

# The innermost ones; a backslash before one, or a colon in it, and it is more than a reference.
_REFERENCE = re.compile(r"(?<!\\)\$\{\.*\w[\w.-]*\}", re.ASCII)
# The same with list places in brackets, as OmegaConf has them: `${rows[0].neck}`, `${.size}`.
_ANY_REFERENCE = re.compile(r"\$\{(\.*)([\w.\-\[\]'\" ]*)\}")

# Characters and values of a config whose references are filled in; one of a thousand classes has 30,000.
MOST = 1 << 20
_LONGEST_NAME = 200  # characters of a text that may be a part of a reference
_JUMPS = 50  # references that a place may be reached through
_REFERENCES = 1000  # in one text
_DEEPEST = 150  # values within values and references to references


def texts(node: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Dotted path to text, of all texts below a node, keys included."""
    if isinstance(node, Mapping):
        for key, value in node.items():
            place = f"{path}.{key}" if path else str(key)
            if isinstance(key, str):
                yield place, key
            yield from texts(value, place)
    elif isinstance(node, list | tuple):
        for number, value in enumerate(node):
            yield from texts(value, f"{path}.{number}" if path else str(number))
    elif isinstance(node, str):
        yield path, node


def check_references(node: Any) -> None:
    """Check that texts refer to options only: `${data.size}` and no `${oc.env:HOME}`, at any depth.

    Raises:
        ValueError: One asks for something else.
    """
    for path, text in texts(node):
        rest, before = text, ""
        while rest != before:
            before, rest = rest, _REFERENCE.sub("x", rest)
        if "${" in rest:
            raise ValueError(
                f"{path}={text!r}: may refer to another option, such as ${{data.size}}, and to nothing else: what stands in a"
                " file is not to read this machine's environment"
            )


def check_resolved(node: Any) -> None:
    """Check that no text of a resolved config refers to anything: it would be filled in once more when the run is built.

    Raises:
        ValueError: One does.
    """
    for path, text in texts(node):
        if "${" in text:
            raise ValueError(f"{path}={text!r}: must not refer to anything (${{...}}) in a config whose values are filled in")


def check_growth(node: Any) -> None:
    """Check that a config stays of an ordinary size when its references are filled in.

    A few lines that each name the one before them twice would fill all memory.

    Args:
        node: The config as plain containers, of which nothing is filled in.

    Raises:
        ValueError: It would have more than `MOST` characters, or its references lead too deep.
    """
    _Growth(node).of(())


class _Growth:
    """What each value of a config grows to, without growing it: each is looked at once."""

    def __init__(self, root: Any) -> None:
        self._root = root
        self._known: dict[tuple[str, ...], tuple[int, str | None]] = {}
        self._depth = 0

    def of(self, path: tuple[str, ...], jumps: int = 0) -> tuple[int, str | None]:
        """Size of the value at a path, and its text where that is a short one."""
        if path in self._known:
            return self._known[path]
        self._known[path] = 0, ""  # a reference to itself, which OmegaConf refuses
        self._depth += 1
        if self._depth > _DEEPEST:
            raise ValueError(f"{'.'.join(path)}: is reached through more than {_DEEPEST} values and references (${{...}})")
        node = self._at(path, jumps)
        if isinstance(node, str):
            found = self._text(node, path)
        elif isinstance(node, Mapping | list | tuple):
            keys = node.keys() if isinstance(node, Mapping) else range(len(node))
            found = 1 + sum(self.of((*path, str(key)), jumps)[0] + len(str(key)) for key in keys), None
        else:
            found = len(str(node)), str(node)
        if found[0] > MOST:
            place = ".".join(path) or "the config"
            raise ValueError(f"{place}: has more than {MOST} characters when its references (${{...}}) are filled in")
        self._known[path] = found
        self._depth -= 1
        return found

    def _text(self, text: str, path: tuple[str, ...]) -> tuple[int, str | None]:
        """Size and text of a text, its innermost references filled in first."""
        if text.count("${") > _REFERENCES:
            raise ValueError(f"{'.'.join(path)}: has more than {_REFERENCES} references (${{...}})")
        extra = 0
        while match := _ANY_REFERENCE.search(text):
            size, value = self.of(_target(match, path))
            if value is None or len(value) > _LONGEST_NAME:
                extra, value = extra + size, ""
            text = text[: match.start()] + value.replace("${", "") + text[match.end() :]
            if len(text) + extra > MOST:
                break
        return len(text) + extra, text if not extra and len(text) <= _LONGEST_NAME else None

    def _at(self, path: tuple[str, ...], jumps: int) -> Any:
        """The value at a path, parts of which may lead through a reference to a container; None where there is none."""
        node = self._root
        for number, key in enumerate(path):
            if isinstance(node, str) and (match := _ANY_REFERENCE.fullmatch(node)) and jumps < _JUMPS:
                return self._at((*_target(match, path[:number]), *path[number:]), jumps + 1)
            if isinstance(node, Mapping):
                node = next((value for name, value in node.items() if str(name) == key), None)
            elif isinstance(node, list | tuple) and key.isdecimal() and int(key) < len(node):
                node = node[int(key)]
            else:
                return None
        return node


def _target(match: re.Match[str], path: tuple[str, ...]) -> tuple[str, ...]:
    """The path that a reference in the value at `path` names: from the root, or with dots from where it stands."""
    dots, name = match.groups()
    start = path[: max(0, len(path) - len(dots))] if dots else ()
    return (*start, *(part for part in re.split(r"[.\[\]'\" ]+", name) if part))
