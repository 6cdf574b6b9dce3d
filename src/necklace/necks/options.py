"""Checks of a neck's options when it is built: each raises a ValueError that names the option, its value and the allowed ones.

Options come from YAML and from the command line, so a number may arrive as a string, a flag as a number and a list as Hydra's
ListConfig. A wrong type is a ValueError as well, so that callers have one kind of error to catch.
"""

from collections.abc import Iterable
from typing import Any


def _whole(value: Any) -> bool:
    # bool is a subclass of int, but `focal_level=true` is a mistake, not level 1.
    return isinstance(value, int) and not isinstance(value, bool)


def integer(name: str, value: Any, minimum: int = 1) -> int:
    """Return `value` as an int >= `minimum`."""
    if not _whole(value) or value < minimum:
        raise ValueError(f"{name}={value!r}: allowed are integers >= {minimum}")
    return int(value)


def number(name: str, value: Any, *, above: float | None = None, at_least: float = 0.0, below: float = float("inf")) -> float:
    """Return `value` as a float in [`at_least`, `below`), or in (`above`, `below`) where `above` is given."""
    good = isinstance(value, int | float) and not isinstance(value, bool)
    # Written so that NaN, for which every comparison is false, is rejected as well.
    good = good and (value > above if above is not None else value >= at_least) and value < below
    if not good:
        allowed = f"numbers > {above:g}" if above is not None else f"numbers >= {at_least:g}"
        raise ValueError(f"{name}={value!r}: allowed are {allowed}" + (f" and < {below:g}" if below < float("inf") else ""))
    return float(value)


def flag(name: str, value: Any) -> bool:
    """Return `value`, which must be true or false."""
    if not isinstance(value, bool):
        raise ValueError(f"{name}={value!r}: allowed are true and false")
    return value


def choice(name: str, value: Any, allowed: tuple[str, ...]) -> str:
    """Return `value`, which must be one of `allowed`."""
    if not isinstance(value, str) or value not in allowed:
        raise ValueError(f"{name}={value!r}: allowed are {', '.join(allowed)}")
    return value


def odd(name: str, value: Any) -> int:
    """Return `value` as an odd int >= 1: an even window has no centre, so the map's size would change."""
    if not _whole(value) or value < 1 or value % 2 == 0:
        raise ValueError(f"{name}={value!r}: allowed are odd integers >= 1")
    return int(value)


def odds(name: str, value: Any) -> tuple[int, ...]:
    """Return `value`, any non-empty iterable of odd ints >= 1 (a list, a tuple, Hydra's ListConfig), as a tuple."""
    items: tuple[Any, ...] = tuple(value) if isinstance(value, Iterable) and not isinstance(value, str) else ()
    if not items or any(not _whole(k) or k < 1 or k % 2 == 0 for k in items):
        raise ValueError(f"{name}={value!r}: allowed are non-empty lists of odd integers >= 1")
    return tuple(int(k) for k in items)


def same_width(channels: int, out_channels: int | None) -> int:
    """Return `channels`; a neck that adds or multiplies its input's projections cannot change the width."""
    if out_channels is not None and integer("out_channels", out_channels) != channels:
        raise ValueError(
            f"out_channels={out_channels!r}: this neck keeps the number of channels, allowed are null and channels ({channels})"
        )
    return channels
