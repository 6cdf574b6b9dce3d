"""The verdict on a difference: better, worse, equal within the margin, or undecided, and what a decision would cost.

Two rules. Under `fixed`, the number of seeds was set before the first result, and the interval is the t interval. Under
`anytime`, it is the confidence sequence of `anytime.py`, which may be looked at after every seed. Both take the differences to
be normally distributed. A star (`stats.star`) also requires that an exact test could reach the level; a verdict does not, since
that would not make it more reliable: over 10 comparisons with skewed differences (exponential), t intervals are wrong in 18 %
of studies of 3 seeds and in 28 % of studies of 10 (simulated; with normal differences in 4.5 % of both).

The levels of all comparisons of a study add up to at most alpha (Bonferroni), those included that came later: see `divisor`.
Everything here is in points of the metric, and no function draws from global state.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from scipy import stats

from necklace.results import anytime
from necklace.seeding import numpy_generator

RuleKind = Literal["fixed", "anytime"]
VerdictKind = Literal["better", "worse", "equal", "undecided"]

MOST_SEEDS = 1000
"""How far a forecast looks."""
_STUDIES, _BLOCK = 1000, 64


@dataclass(frozen=True)
class Rule:
    """When a difference is decided.

    Attributes:
        kind: `fixed` or `anytime`.
        margin: The smallest difference that matters, in points, above 0.
        alpha: Probability that any of the study's verdicts is wrong, in (0, 0.2].
        comparisons: What alpha is divided by for this comparison: with all comparisons known from the start, their number.

    Raises:
        ValueError: A value is out of its range.
    """

    kind: RuleKind
    margin: float
    alpha: float = 0.05
    comparisons: int = 1

    def __post_init__(self) -> None:
        if self.kind not in get_args(RuleKind):
            raise ValueError(f"rule is {self.kind!r}: must be {' or '.join(get_args(RuleKind))}")
        if not 0 < self.margin < math.inf:
            raise ValueError(f"margin is {self.margin}: must be above 0")
        if not 0 < self.alpha <= 0.2:
            raise ValueError(f"alpha is {self.alpha}: must be above 0 and at most 0.2")
        if self.comparisons < 1:
            raise ValueError(f"{self.comparisons} comparisons: must be at least 1")

    @property
    def level(self) -> float:
        """The probability of a wrong verdict on this comparison alone."""
        return self.alpha / self.comparisons


@dataclass(frozen=True)
class Verdict:
    """What can be said of a row's difference.

    Attributes:
        kind: `equal` where the whole interval lies within the margin; else `better` or `worse` where it leaves out 0.
        low: Lower end of the rule's interval, in points; -inf while there is none.
        high: Its upper end; inf while there is none.
        n: Number of seeds.
        more_seeds: Of an undecided row, how many seeds more decide it with a probability of 80 % if mean and spread are what
            they are so far; `MOST_SEEDS` stands for so many or more, None for not known, with one seed or with equal
            differences.
        one_computation: All seeds ended in equal weights, bit for bit: nothing is left to estimate.
    """

    kind: VerdictKind
    low: float
    high: float
    n: int
    more_seeds: int | None = None
    one_computation: bool = False


def verdict(differences: np.ndarray, rule: Rule, floor: float = 0.0, one_computation: bool = False) -> Verdict:
    """Decide a difference.

    Args:
        differences: [n], row minus other for each shared seed, in points.
        rule: What decides it.
        floor: The spread between seeds is taken to be at least this, such as what one test image counts. Without one, equal
            differences decide nothing, since they say nothing of their spread.
        one_computation: Whether the two ended in equal weights, bit for bit, on every seed. From two seeds on, they are equal.

    Raises:
        ValueError: As for `anytime.interval`.
    """
    x = np.asarray(differences, dtype=np.float64)
    low, high = rule_interval(x, rule, floor)
    n = len(x)
    if one_computation and n > 1 and not x.any():
        return Verdict("equal", 0.0, 0.0, n, one_computation=True)
    if -rule.margin <= low and high <= rule.margin:
        return Verdict("equal", low, high, n)
    if low > 0 or high < 0:
        return Verdict("better" if low > 0 else "worse", low, high, n)
    sd = max(float(x.std(ddof=1)), floor) if n > 1 and np.ptp(x) > 0 else floor
    if n == 1 or sd == 0:
        return Verdict("undecided", low, high, n)
    needed = seeds_needed(sd, float(x.mean()), rule, floor=floor, seen=x)
    return Verdict("undecided", low, high, n, MOST_SEEDS if needed is None else needed - n)


def rule_interval(differences: np.ndarray, rule: Rule, floor: float = 0.0) -> tuple[float, float]:
    """The interval that decides, in points: (-inf, inf) while the rule gives none.

    Args:
        differences: [n], in points.
        rule: Whose interval.
        floor: As for `verdict`.

    Raises:
        ValueError: As for `anytime.interval`.
    """
    x = np.asarray(differences, dtype=np.float64)
    low, high = anytime.interval(x, rule.level, floor=floor)  # which checks all that is given
    n = len(x)
    if n == 1 or (floor == 0 and np.ptp(x) == 0):
        return -math.inf, math.inf
    if rule.kind == "fixed":
        half = float(_half_widths(np.array([n]), rule)[0]) * max(float(x.std(ddof=1)), floor)
        mean = math.fsum(x) / n
        low, high = mean - half, mean + half
    return low, high


def in_words(found: Verdict) -> str:
    """A verdict as the table has it, such as `better by 0.4 to 1.1`."""
    if found.one_computation:
        return "equal (one computation)"
    if found.kind == "equal":
        return "equal within the margin"
    if found.kind != "undecided":
        nearer, farther = sorted((abs(found.low), abs(found.high)))
        return f"{found.kind} by {points(nearer)} to {points(farther)}"
    if found.more_seeds is None:
        return "undecided"
    if found.more_seeds >= MOST_SEEDS:
        return f"undecided ({MOST_SEEDS} seeds more or beyond)"
    return f"undecided (about {found.more_seeds} seed{'s' * (found.more_seeds != 1)} more)"


def points(value: float) -> str:
    """A number of points: one decimal, or two digits where that would be 0.0."""
    return f"{value:.1f}" if abs(value) >= 0.095 or value == 0 else f"{value:.1g}"


def divisor(earlier: int, new: int) -> int:
    """What alpha is divided by for each of the comparisons that a study takes up together.

    The comparison of rank j, by the order in which they were taken up, has the share 1 / (j (j + 1)) of alpha. These shares
    add up to 1 however many follow, so rows that are added one by one until one is decided gain nothing; and no level changes
    when rows are added, so no verdict does. Those that are taken up together share evenly: m from the start have alpha / (m +
    1) each, and what they leave is for all that come later.

    Args:
        earlier: Comparisons that the study ever had before, in the table or not any more.
        new: Comparisons that it takes up now, at least 1.

    Raises:
        ValueError: A number is out of its range.
    """
    if earlier < 0 or new < 1:
        raise ValueError(f"{new} comparisons after {earlier}: at least 1 after at least 0 are allowed")
    # 1 / (earlier + 1) - 1 / (earlier + new + 1), the sum of their shares, over `new`.
    return (earlier + 1) * (earlier + new + 1)


def seeds_needed(
    sd: float, effect: float, rule: Rule, power: float = 0.8, floor: float = 0.0, seen: Sequence[float] | np.ndarray = ()
) -> int | None:
    """How many seeds a decision takes, whichever it is, with a probability of `power`.

    1000 studies are drawn, the same ones whenever it is called. With the rule `anytime` a study counts from its first
    decision on; with `fixed` it counts where its number of seeds decides.

    Args:
        sd: Standard deviation of the differences, in points, above 0.
        effect: Their mean, in points. Where it is not known, `rule.margin / 2` is the worst case for large n: as far from 0
            as from the margin.
        rule: What decides.
        power: In (0, 1).
        floor: As for `verdict`.
        seen: The differences of the seeds that there are, in points: the studies go on from these.

    Returns:
        The number of seeds in all, those seen included; None where `MOST_SEEDS` more do not suffice.

    Raises:
        ValueError: A value is out of its range.
    """
    if not 0 < sd < math.inf or not math.isfinite(effect) or not 0 < power < 1 or not 0 <= floor < math.inf:
        raise ValueError(
            f"sd {sd}, effect {effect}, power {power}, floor {floor}: allowed are finite values, an sd above 0, a power "
            "between 0 and 1 and a floor from 0"
        )
    before = np.asarray(seen, dtype=np.float64) - effect
    generator = numpy_generator(0, "forecast of seeds")
    total = np.full((_STUDIES, 1), before.sum())
    squares = np.full((_STUDIES, 1), (before**2).sum())
    decided = np.zeros((_STUDIES, 1), dtype=bool)
    for start in range(len(before), len(before) + MOST_SEEDS, _BLOCK):
        n = np.arange(start + 1, start + _BLOCK + 1)
        drawn = generator.normal(0.0, sd, (_STUDIES, _BLOCK))
        total = total[:, -1:] + drawn.cumsum(1)
        squares = squares[:, -1:] + (drawn**2).cumsum(1)
        spread = np.sqrt(np.maximum(squares - total**2 / n, 0.0) / np.maximum(n - 1, 1))
        mean = np.abs(total / n + effect)
        with np.errstate(invalid="ignore"):
            half = _half_widths(n, rule) * np.where(n > 1, np.maximum(spread, floor), np.inf)
            now = (mean > half) | (mean + half <= rule.margin)
        decided = now if rule.kind == "fixed" else np.logical_or.accumulate(now, axis=1) | decided[:, -1:]
        enough = decided.mean(0) >= power
        if enough.any():
            return int(n[enough.argmax()])
    return None


def _half_widths(n: np.ndarray, rule: Rule) -> np.ndarray:
    """Half an interval's width in standard deviations of the differences, [k] for n [k]; infinite where there is none."""
    if rule.kind == "anytime":
        return anytime.half_widths(n, rule.level)
    return np.where(n < 2, np.inf, stats.t.isf(rule.level / 2, np.maximum(n - 1, 1)) / np.sqrt(n))
