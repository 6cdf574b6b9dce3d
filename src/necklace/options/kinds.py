"""Kinds of values: what an option may be, as a test and in words.

Most kinds follow from the annotation of the argument that an option becomes, see `kind_of`. Values are those of a resolved
config: numbers, text, booleans, null, lists and mappings.
"""

import math
import types
from collections import abc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin


@dataclass(frozen=True)
class Kind:
    """A kind of values.

    Attributes:
        words: What is allowed, to follow "must be".
        accepts: Whether a value is of the kind.
    """

    words: str
    accepts: Callable[[Any], bool]


def whole(low: int | None = None) -> Kind:
    """Whole numbers, from `low` on if it is given; true is none of them, nor is 2.0."""
    words = "a whole number" + ("" if low is None else f" from {low}")
    return Kind(words, lambda value: _is_whole(value) and (low is None or value >= low))


def number(
    low: float | None = None, high: float | None = None, *, above: float | None = None, below: float | None = None
) -> Kind:
    """Finite numbers: from `low`, up to `high`, above `above`, below `below`."""
    limits = [
        f"{word} {limit:g}"
        for word, limit in (("from", low), ("above", above), ("up to", high), ("below", below))
        if limit is not None
    ]

    def accepts(value: Any) -> bool:
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            return False
        return not (
            (low is not None and value < low)
            or (high is not None and value > high)
            or (above is not None and value <= above)
            or (below is not None and value >= below)
        )

    return Kind(" ".join(["a number", *limits]), accepts)


def one_of(*allowed: Any) -> Kind:
    """One of these values; null is named as YAML has it."""
    return Kind(
        f"{'one of ' * (len(allowed) > 1)}{', '.join(map(shown, allowed))}",
        lambda value: any(value == one and type(value) is type(one) for one in allowed),
    )


def list_of(kind: Kind | None, length: int | None = None, least: int = 0) -> Kind:
    """Lists of values of a kind (None: of any), of a fixed length or with at least some members."""
    each = "values" if kind is None else f"values, each {kind.words}"
    count = f"{length} " if length is not None else "one or more " if least else ""
    return Kind(
        f"a list of {count}{each}",
        lambda value: (
            isinstance(value, list | tuple)
            and (length is None or len(value) == length)
            and len(value) >= least
            and (kind is None or all(map(kind.accepts, value)))
        ),
    )


def either(*kinds: Kind) -> Kind:
    """Values of any of these kinds."""
    words = list(dict.fromkeys(kind.words for kind in kinds))
    text = words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"
    return Kind(text, lambda value: any(kind.accepts(value) for kind in kinds))


FLAG = Kind("true or false", lambda value: isinstance(value, bool))
TEXT = Kind("text (in quotes where it looks like a number)", lambda value: isinstance(value, str))
NAME = Kind(
    "text that is not empty (in quotes where it looks like a number)",
    lambda value: isinstance(value, str) and value.strip() != "",
)
NULL = Kind("null", lambda value: value is None)
MAPPING = Kind("a mapping", lambda value: isinstance(value, dict))

_PLAIN = {bool: FLAG, int: whole(), float: number(), str: TEXT, Path: TEXT, type(None): NULL, None: NULL}
_LISTS = (list, tuple, set, frozenset, abc.Sequence, abc.Iterable, abc.Collection)


def kind_of(annotation: Any) -> Kind | None:
    """The kind of values that an argument with this annotation takes; None where the annotation does not tell.

    Args:
        annotation: Such as `int`, `Sequence[int] | None` or `Literal["a", "b"]`. Classes that no YAML value is an instance of,
            such as `torch.Tensor` in a union, are left out.
    """
    if annotation in _PLAIN:
        return _PLAIN[annotation]
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return kind_of(arguments[0])
    if origin is Literal:
        return one_of(*arguments)
    if origin in (Union, types.UnionType):
        if any(part is Any for part in arguments):
            return None
        kinds = [kind for part in arguments if (kind := kind_of(part))]
        return either(*kinds) if any(kind is not NULL for kind in kinds) else None
    if (origin or annotation) in _LISTS:
        return _list_kind(origin or annotation, arguments)
    if (origin or annotation) in (dict, abc.Mapping, abc.MutableMapping):
        return MAPPING
    return None


def _list_kind(origin: Any, arguments: Sequence[Any]) -> Kind:
    if origin is tuple and arguments and arguments[-1] is not Ellipsis:
        kinds = [kind_of(part) for part in arguments]
        same = kinds[0] if len({kind.words if kind else "" for kind in kinds}) == 1 else None
        return list_of(same, length=len(arguments))
    return list_of(kind_of(arguments[0]) if arguments else None)


def shown(value: Any) -> str:
    """A value as a command line has it, shortened where it is long."""
    if value is None:
        text = "null"
    elif isinstance(value, bool):
        text = str(value).lower()
    elif isinstance(value, list | tuple):
        text = f"[{','.join(map(shown, value))}]"
    elif isinstance(value, dict):
        text = f"{{{','.join(f'{key}:{shown(one)}' for key, one in value.items())}}}"
    elif value == "":
        text = "''"
    else:
        text = str(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
