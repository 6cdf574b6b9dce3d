"""YAML as plain values, read without trust: no tags that make objects, no aliases, no key twice, and no more than there is.

A few lines of aliases expand to gigabytes, and a deep nesting exhausts the stack.
"""

import re
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

MAX_BYTES = 1 << 18  # YAML is slow to parse: this much may take seconds; a study has 2 KiB, a thousand classes have 20 KiB
MAX_NODES = 20_000
MAX_DEPTH = 50
MAX_DIGITS = 100


class PlainLoader(yaml.SafeLoader):
    """YAML's safe loader with limits."""

    most = MAX_BYTES  # nodes; without aliases there cannot be more than bytes

    def __init__(self, stream: Any) -> None:
        super().__init__(stream)
        self._nodes = self._depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        """A node and all below it, which are counted."""
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("an alias (*name), which is not allowed here")
        self._nodes += 1
        self._depth += 1
        if self._nodes > self.most:
            raise yaml.YAMLError(f"more than {self.most} values")
        if self._depth > MAX_DEPTH:
            raise yaml.YAMLError("nested too deeply")
        node = super().compose_node(parent, index)
        self._depth -= 1
        if isinstance(node, yaml.ScalarNode) and node.tag.endswith((":int", ":float")) and len(node.value) > MAX_DIGITS:
            raise yaml.YAMLError(f"a number of {len(node.value)} digits")  # 1:1:1:... takes minutes to add up
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """A mapping, of which no key is there twice."""
        found = super().construct_mapping(node, deep)
        if len(found) != len(node.value):
            raise yaml.YAMLError("a key that is there twice")
        return found


class ConfigLoader(PlainLoader):
    """The same for configs: 1e-3 is a number and 2024-01-01 a text, as they are to OmegaConf."""

    most = MAX_NODES


ConfigLoader.yaml_implicit_resolvers = {
    start: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith(":timestamp")]
    for start, resolvers in PlainLoader.yaml_implicit_resolvers.items()
}
ConfigLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9][0-9_]*(?:\.[0-9_]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def parsed_yaml(data: bytes | str, loader: type[PlainLoader] = ConfigLoader) -> Any:
    """The content of a YAML file as plain values.

    Raises:
        ValueError: It is none, or more than a file of its kind is; the message has the reason, without the file's name.
    """
    if len(data) > MAX_BYTES:
        raise ValueError(f"larger than {MAX_BYTES >> 10} KiB")
    try:
        return yaml.load(data.decode("utf-8-sig") if isinstance(data, bytes) else data, loader)
    except RecursionError:
        raise ValueError("malformed YAML: nested too deeply") from None
    except (yaml.YAMLError, ValueError, TypeError, OverflowError) as error:  # TypeError: a key that is a list
        raise ValueError(f"malformed YAML: {' '.join(str(error).split())[:200]}") from None


def read_plain_yaml(path: Path, loader: type[PlainLoader] = ConfigLoader) -> Any:
    """The same of a file, of which no more is read than it may have.

    Raises:
        OSError: It cannot be read.
        ValueError: As `parsed_yaml`.
    """
    with path.open("rb") as file:
        return parsed_yaml(file.read(MAX_BYTES + 1), loader)
