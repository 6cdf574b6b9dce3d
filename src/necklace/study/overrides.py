"""The options of a study.yaml as Hydra overrides."""

import itertools
import json
import re
from collections.abc import Mapping
from typing import Any

from necklace.study.varying import VARY, vary_overrides


def override(key: str, value: Any) -> str:
    """A Hydra override that sets `key` to a YAML value."""
    if isinstance(value, list | dict):
        text = re.sub(r'"([\w./-]+)":', r"\1:", json.dumps(value))
        return f"{key}={text}"
    if value is None or isinstance(value, bool):
        return f"{key}={json.dumps(value)}"
    # What is not plainly a word would be read as something else: a number, a boolean, null, a list.
    if isinstance(value, str) and not re.fullmatch(
        r"(?!(?:true|false|null|nan|inf)$)[a-zA-Z_][\w./@:-]*", value, re.ASCII | re.I
    ):
        quoted = value.replace("\\", "\\\\").replace('"', '\\"')
        return f'{key}="{quoted}"'
    return f"{key}={value}"


def row_overrides(options: Mapping[str, Any]) -> tuple[str, ...]:
    """The Hydra overrides of a row's options."""
    own = ((vary_overrides(value) if key == VARY else (override(key, value),)) for key, value in options.items())
    return tuple(itertools.chain.from_iterable(own))
