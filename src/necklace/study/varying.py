"""Which random streams vary with the seed: `seeds: {init: [1, 2, 3]}` of a study.yaml, and `vary: init` of a row.

The seed of a run is what rows are paired by, whatever varies. The streams that stay are given a seed of their own, by the
option `streams` of a run; a rounding that varies takes the run's seed as the number of its draw.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from necklace.seeding import GROUPS

SOURCES = (*GROUPS, "rounding")
ALL = "all"
VARY = "vary"
FROM_ONE = "a rounding that varies is drawn by the seed, which must be from 1 on: 0 moves nothing"
SEEDS_ALLOWED = (
    "a list of distinct whole numbers from 0, or a mapping of some of "
    f"{', '.join(SOURCES)}: to such a list, the same for each that varies, or to one number, at which it stays"
)


@dataclass(frozen=True)
class Seeds:
    """The seeds of a study.

    Attributes:
        values: Distinct, in order.
        overrides: Hydra overrides of every run, for the streams that do not follow the seed; none where all do.
    """

    values: tuple[int, ...]
    overrides: tuple[str, ...]


def seeds_of(given: Any) -> Seeds:
    """The seeds as a study.yaml has them: a list, or a mapping of streams; those that it does not name stay at 0.

    Raises:
        ValueError: They are neither.
    """
    if isinstance(given, list):
        return Seeds(_distinct(given), ())
    if not isinstance(given, Mapping) or not given.keys() <= set(SOURCES):
        raise ValueError(f"must be {SEEDS_ALLOWED}")
    lists = [value for value in given.values() if isinstance(value, list)]
    kept = {name: value for name, value in given.items() if not isinstance(value, list)}
    if not lists or any(value != lists[0] for value in lists) or not all(map(_is_seed, kept.values())):
        raise ValueError(f"must be {SEEDS_ALLOWED}")
    if isinstance(given.get("rounding"), list) and 0 in lists[0]:
        raise ValueError(FROM_ONE)
    return Seeds(_distinct(lists[0]), _overrides({name for name in given if name not in kept}, kept))


def check_streams(seeds: Seeds, rows: Sequence[Mapping[str, Any]], others: Sequence[str]) -> None:
    """Check what a study says of its streams: in one place, and of streams that there are.

    Args:
        seeds: Its seeds.
        rows: Its grids.
        others: The options that it sets or tries in all rows.

    Raises:
        ValueError: It is said twice, or of something else.
    """
    said = {key for keys in (others, *rows) for key in keys if key == VARY or key.lstrip("+~").split(".")[0] == "streams"}
    if VARY in others:
        raise ValueError(f"{VARY}: belongs to a row")
    if said and seeds.overrides:
        raise ValueError(f"{min(said)}: seeds says which streams vary")
    if VARY in said and len(said) > 1:
        raise ValueError(f"{min(said - {VARY})}: {VARY} says which streams vary")
    for grid in rows:
        value = grid.get(VARY, ALL)
        _check_vary(value)
        if "rounding" in str(value) and 0 in seeds.values:
            raise ValueError(f"{VARY}: {value}: seeds: {list(seeds.values)}: {FROM_ONE}")


def _check_vary(value: Any) -> None:
    """Check a row's `vary`, one value or a list of them.

    Raises:
        ValueError: It names something else than streams.
    """
    for each in value if isinstance(value, list) else [value]:
        names = each.split("+") if isinstance(each, str) else []
        if each != ALL and (not names or set(names) - set(SOURCES) or len(set(names)) < len(names)):
            raise ValueError(f"vary: {each}: must be {ALL}, {', '.join(SOURCES)}, or several of these joined by +")


def vary_overrides(value: str) -> tuple[str, ...]:
    """The Hydra overrides of a row of which these streams vary and the others stay at 0, such as `init+order`, or `all`.

    `all` is what a run does by itself: init, order and augment follow the seed, and nothing is rounded otherwise.
    """
    return () if value == ALL else _overrides(set(value.split("+")), {})


def _overrides(varying: set[str], kept: Mapping[str, int]) -> tuple[str, ...]:
    stays = [f"streams.{name}={kept.get(name, 0)}" for name in GROUPS if name not in varying]
    if "rounding" in varying:
        return (*stays, "streams.rounding=${seed}")
    return (*stays, *([f"streams.rounding={kept['rounding']}"] if kept.get("rounding") else []))


def _distinct(values: list[Any]) -> tuple[int, ...]:
    if not values or not all(map(_is_seed, values)) or len(set(values)) < len(values):
        raise ValueError(f"must be {SEEDS_ALLOWED}")
    return tuple(values)


def _is_seed(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
