"""Which part of the spread between seeds comes from which source: variance components of rows that vary one stream each.

A row in which only one source varies, the others staying at one value, has the variance of that source at that value
(Bouthillier et al. 2021, arXiv 2103.03098, sections 2 and 3). The sources interact: their variances need not add up to that of
the row in which all vary, and no share is forced to. All intervals take metrics to be normally distributed over seeds: that of
a variance is (n - 1) s^2 over the quantiles of chi-square with n - 1 degrees of freedom, that of the ratio of two variances is
s_1^2 / s_2^2 over the quantiles of F. The two rows of a ratio must share no runs.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from necklace.results.results import Row, metric_by_seed
from necklace.results.stats import Interval, summarise
from necklace.results.streams import WORDS, varying
from necklace.seeding import GROUPS


@dataclass(frozen=True)
class Component:
    """The spread that a source of noise makes by itself.

    Attributes:
        row: Name of the row.
        streams: What varies in it, see `varying_streams`.
        n: Number of finished runs, at least 2.
        sd: Standard deviation of the metric.
        interval: 95 % interval of the standard deviation; None where all values are equal.
        share: Its variance over that of the row in which all streams vary; None for that row, and without one.
        share_interval: 95 % interval of the share.
    """

    row: str
    streams: tuple[str, ...]
    n: int
    sd: float
    interval: Interval | None
    share: float | None
    share_interval: Interval | None


def sd_interval(values: np.ndarray, alpha: float = 0.05) -> Interval | None:
    """The interval of the standard deviation of normal values.

    Args:
        values: [n], at least 2.
        alpha: Probability that it does not cover, in (0, 1).

    Returns:
        None where all values are equal, which says nothing of their spread.

    Raises:
        ValueError: There are fewer than 2 values, or `alpha` is out of its range.
    """
    n = _checked(values, alpha)
    if np.ptp(values) == 0:
        return None
    squares = float(np.sum((values - values.mean()) ** 2))
    low, high = (math.sqrt(squares / float(stats.chi2.ppf(q, n - 1))) for q in (1 - alpha / 2, alpha / 2))
    return Interval(low, high)


def ratio_interval(values: np.ndarray, others: np.ndarray, alpha: float = 0.05) -> Interval | None:
    """The interval of the ratio of the variances of two independent samples of normal values.

    Args:
        values: [n], at least 2.
        others: [m], at least 2, the denominator's.
        alpha: Probability that it does not cover, in (0, 1).

    Returns:
        None where all values of a sample are equal.

    Raises:
        ValueError: There are fewer than 2 values in one, or `alpha` is out of its range.
    """
    n, m = _checked(values, alpha), _checked(others, alpha)
    if np.ptp(values) == 0 or np.ptp(others) == 0:
        return None
    ratio = float(np.var(values, ddof=1) / np.var(others, ddof=1))
    low, high = (ratio / float(stats.f.ppf(q, n - 1, m - 1)) for q in (1 - alpha / 2, alpha / 2))
    return Interval(low, high)


def _checked(values: np.ndarray, alpha: float) -> int:
    if len(values) < 2 or not np.isfinite(values).all():
        raise ValueError(f"{len(values)} values: at least 2 finite ones are needed for a variance")
    if not 0 < alpha < 1:
        raise ValueError(f"alpha is {alpha}: must be between 0 and 1")
    return len(values)


def components(metric: str, rows: Sequence[Row]) -> list[Component]:
    """The variance components of a study: of rows that differ in nothing but the streams that vary.

    Args:
        metric: Name of the study's metric.
        rows: The rows of its results.

    Returns:
        One for each such row with at least two finished runs; none where all rows vary the same.
    """
    groups: dict[str, list[tuple[Row, tuple[str, ...]]]] = {}
    for row in rows:
        if (streams := varying(row)) is not None:
            groups.setdefault(_kind(row), []).append((row, streams))
    found = []
    for group in groups.values():
        if len({streams for _, streams in group}) < 2:
            continue
        values = {row.name: _values(row, metric) for row, _ in group}
        whole = next((row.name for row, streams in group if streams == GROUPS and len(values[row.name]) > 1), None)
        found += [_component(row, streams, values, whole) for row, streams in group if len(values[row.name]) > 1]
    return found


def _component(row: Row, streams: tuple[str, ...], values: dict[str, np.ndarray], whole: str | None) -> Component:
    own = values[row.name]
    sd = summarise(own).sd or 0.0
    share = ratio = None
    if whole is not None and whole != row.name and np.ptp(values[whole]) > 0:
        share, ratio = float(np.var(own, ddof=1) / np.var(values[whole], ddof=1)), ratio_interval(own, values[whole])
    return Component(row.name, streams, len(own), sd, sd_interval(own), share, ratio)


def _values(row: Row, metric: str) -> np.ndarray:
    return np.array(list(metric_by_seed(row.runs, metric).values()))


def _kind(row: Row) -> str:
    """What a row's runs are but for seed and streams."""
    record = next(run.record for run in row.runs if run.record)
    return json.dumps(
        {name: value for name, value in record.identity.items() if name not in ("seed", "streams")}, sort_keys=True
    )


def noise_notes(found: Sequence[Component]) -> list[str]:
    """Sentences on the components, in percentage points."""
    if not found:
        return []
    told = [f"{one.row}: {_spread_in_words(one)}, n = {one.n}" for one in found]
    return [
        "Sources of noise, standard deviation between seeds in points with its 95 % interval (chi-square; ratios of variances "
        f"by F; metrics taken to be normal): {'; '.join(told)}. Each source is taken alone, at one value of the others; the "
        "parts need not add up."
    ]


def noise_answers(found: Sequence[Component]) -> dict[str, str]:
    """Row to a sentence on its source, such as `vary=init: standard deviation in points 1.14 (0.75 to 2.32), 8 seeds`."""
    return {one.row: f"{one.row}: standard deviation in points {_spread_in_words(one)}, {one.n} seeds" for one in found}


def _spread_in_words(one: Component) -> str:
    """A component's standard deviation in percentage points and its share, each with its interval."""
    interval = f" ({100 * one.interval.low:.2f} to {100 * one.interval.high:.2f})" if one.interval else ""
    if one.share is None:
        return f"{100 * one.sd:.2f}{interval}"
    ends = one.share_interval
    share = f"{one.share:.2f} of the variance of all" + (f" ({ends.low:.2f} to {ends.high:.2f})" if ends else "")
    return f"{100 * one.sd:.2f}{interval}, {share}"


def source_label(streams: Sequence[str]) -> str:
    """The streams of a component in few words, for a figure."""
    return "all streams" if tuple(streams) == GROUPS else " and ".join(WORDS[name].partition(" (")[0] for name in streams)
