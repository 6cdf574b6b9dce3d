"""`${...}` in what comes from elsewhere: it may refer to other options, and ask this machine for nothing.

OmegaConf's resolvers, such as `${oc.env:HOME}`, read the environment, decode and call. This project has none of its own.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

# The innermost ones; a backslash before one, or a colon in it, and it is more than a reference.
_REFERENCE = re.compile(r"(?<!\\)\$\{\.*\w[\w.-]*\}", re.ASCII)


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
