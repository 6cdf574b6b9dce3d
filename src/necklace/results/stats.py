"""Statistics of a few seeds: summaries, paired differences, intervals, p values. Pure functions over numpy arrays.

Rows are compared with the baseline seed by seed, because two runs with one seed share their start and their batches
(Bouthillier et al. 2021, arXiv 2103.03098). A function that draws random numbers takes the generator as an argument: nothing
here reads or changes global state.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

# A record keeps seven digits of a single-precision metric. A difference of two metrics is off by up to 1.2e-6 of the larger,
# so the spread of equal differences by up to 2.4e-6; one image in 50,000 changes an accuracy by at least 2e-5 of itself.
_RESOLUTION = 2.5e-6
# Fewer differences than this, and scipy's 95 % BCa interval covers far less than it says: 83 % of the time at n = 5.
_BCA_FROM = 20
_BCA_RESAMPLES = 10_000


@dataclass(frozen=True)
class Interval:
    """A two-sided 95 % interval.

    Attributes:
        low: Its lower end.
        high: Its upper end.
    """

    low: float
    high: float


@dataclass(frozen=True)
class Summary:
    """A row's metric over its seeds.

    Attributes:
        mean: Mean.
        sd: Sample standard deviation (n - 1), None for n = 1.
        n: Number of seeds.
    """

    mean: float
    sd: float | None
    n: int


@dataclass(frozen=True)
class Difference:
    """A row minus the baseline over the n seeds that they share.

    Attributes:
        n: Number of shared seeds.
        mean: Mean difference, in the metric's unit.
        interval: t interval of the mean; None for n = 1, and where all differences are equal, so that their spread is unknown.
        bca: BCa bootstrap interval of the mean from n = 20 on; None below, and where all differences are equal.
        p: Two-sided paired t test; 1 where all of several differences are 0, and else None where `interval` is None.
        p_better: Share of the seeds on which the row is higher, ties counting half.
        effect_size: Mean over standard deviation of the differences, corrected for small n; None where that is undefined: for
            n < 3, and where all differences are equal.
    """

    n: int
    mean: float
    interval: Interval | None
    bca: Interval | None
    p: float | None
    p_better: float
    effect_size: float | None


def summarise(values: np.ndarray) -> Summary:
    """Mean and spread of a metric over seeds.

    Args:
        values: [S], one for each seed.

    Returns:
        Exactly rounded mean and deviation, so that equal values have a deviation of exactly 0.

    Raises:
        ValueError: `values` is not one-dimensional, is empty, or holds NaN or infinity.
    """
    _check_metrics("values", values)
    exact = [float(value) for value in values]
    return Summary(float(statistics.mean(exact)), float(statistics.stdev(exact)) if len(exact) > 1 else None, len(exact))


def paired_difference(row: np.ndarray, baseline: np.ndarray, generator: np.random.Generator) -> Difference:
    """Compare a row with the baseline, seed by seed.

    The effect size is d_z = mean / sd of the differences times J(m) = gamma(m / 2) / (sqrt(m / 2) gamma((m - 1) / 2)) with
    m = n - 1, which makes it unbiased for normal differences (Hedges 1981, Journal of Educational Statistics 6(2), 107-128).
    For n = 2 the expectation of d_z does not exist, so there is nothing to correct.

    Args:
        row: [S], the row's metric for each shared seed.
        baseline: [S], the baseline's for the same seeds in the same order.
        generator: For the bootstrap; drawn from only where there is one.

    Returns:
        Row minus baseline.

    Raises:
        ValueError: The shapes differ, are not one-dimensional or are empty, or a value is NaN or infinite.
    """
    differences = paired_differences(row, baseline)
    n = len(differences)
    mean = float(differences.mean())
    p_better = float(np.mean(differences > 0) + np.mean(differences == 0) / 2)
    if n == 1:
        return Difference(n, mean, None, None, None, p_better, None)
    if not differences.any():
        return Difference(n, mean, None, None, 1.0, p_better, None)
    if np.ptp(differences) == 0:
        return Difference(n, mean, None, None, None, p_better, None)
    test = stats.ttest_1samp(differences, 0.0)
    t = test.confidence_interval(0.95)
    bca = None
    if n >= _BCA_FROM:
        ends = stats.bootstrap(
            (differences,), np.mean, n_resamples=_BCA_RESAMPLES, method="BCa", rng=generator
        ).confidence_interval
        bca = Interval(float(ends.low), float(ends.high))
    return Difference(
        n=n,
        mean=mean,
        interval=Interval(float(t.low), float(t.high)),
        bca=bca,
        p=float(test.pvalue),  # pyright: ignore[reportAttributeAccessIssue]
        p_better=p_better,
        effect_size=mean / float(differences.std(ddof=1)) * _hedges(n - 1) if n > 2 else None,
    )


def paired_differences(row: np.ndarray, baseline: np.ndarray) -> np.ndarray:
    """A row minus the baseline, seed by seed.

    Differences within the rounding of recorded metrics count as 0, and differences that are equal within it as equal: their
    spread would be rounding noise, and a p value made of it absurdly small.

    Args:
        row: [S], the row's metric for each shared seed.
        baseline: [S], the baseline's for the same seeds in the same order.

    Returns:
        [S], in the metric's unit.

    Raises:
        ValueError: The shapes differ, are not one-dimensional or are empty, or a value is NaN or infinite.
    """
    _check_metrics("row", row)
    _check_metrics("baseline", baseline)
    if row.shape != baseline.shape:
        raise ValueError(f"row has {len(row)} seeds and baseline {len(baseline)}: a pair needs the same seeds in both")
    exact = row.astype(np.float64) - baseline.astype(np.float64)
    rounding = _RESOLUTION * max(np.abs(row).max(), np.abs(baseline).max())
    differences = np.where(np.abs(exact) <= rounding, 0.0, exact)
    return np.full_like(differences, differences.mean()) if np.ptp(exact) <= rounding and differences.any() else differences


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Adjust p values for being several (Holm 1979, Scandinavian Journal of Statistics 6, 65-70).

    Args:
        p_values: One for each planned comparison; None where its runs gave none. Such a comparison counts as p = 1, so that
            missing runs do not make the others look better.

    Returns:
        Adjusted p values in the same order, at most 1: those below alpha may be rejected together with a family-wise error of
        alpha. None stays None.

    Raises:
        ValueError: A p value is outside [0, 1].
    """
    for p in p_values:
        if p is not None and not 0 <= p <= 1:
            raise ValueError(f"p value {p} is outside [0, 1]")
    ascending = sorted((1.0 if p is None else p, index) for index, p in enumerate(p_values))
    adjusted: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for rank, (p, index) in enumerate(ascending):
        largest = max(largest, min(1.0, (len(ascending) - rank) * p))
        adjusted[index] = None if p_values[index] is None else largest
    return adjusted


def image_interval(row: np.ndarray, baseline: np.ndarray, generator: np.random.Generator, resamples: int = 10_000) -> Interval:
    """Percentile bootstrap over test images of the difference in accuracy, for these weights.

    The difference of an image, in mean correctness over seeds, takes few distinct values. Drawing N images with replacement is
    one multinomial draw of how often each value occurs: the same distribution, without resamples * N indices.

    Args:
        row: bool [S, N], whether the row's run of each seed was right on each test image.
        baseline: bool [S2, N], the baseline's, on the same images in the same order.
        generator: For the resamples.
        resamples: How many.

    Returns:
        95 % interval of the row's accuracy minus the baseline's.

    Raises:
        ValueError: An array is not a bool [S, N] with S, N >= 1, or the numbers of images differ.
    """
    for name, correct in (("row", row), ("baseline", baseline)):
        if correct.dtype != np.bool_ or correct.ndim != 2 or not correct.size:
            raise ValueError(
                f"{name} is {correct.dtype} {list(correct.shape)}: allowed is bool [seeds, images], at least 1 of each"
            )
    if row.shape[1] != baseline.shape[1]:
        raise ValueError(f"row has {row.shape[1]} images and baseline {baseline.shape[1]}: both need the same")
    # In whole numbers over a common denominator, so that equal differences are one value whatever the rounding.
    differences = row.sum(0) * len(baseline) - baseline.sum(0) * len(row)
    values, counts = np.unique(differences, return_counts=True)
    images = row.shape[1]
    sums = generator.multinomial(images, counts / images, size=resamples) @ values
    low, high = np.quantile(sums, [0.025, 0.975]) / (images * len(row) * len(baseline))
    return Interval(float(low), float(high))


def smallest_p(n: int) -> float:
    """The smallest two-sided p value of an exact paired rank or sign-flip test: all n differences on one side.

    Args:
        n: Number of pairs, at least 1.

    Returns:
        2 of the 2**n equally likely patterns of signs.

    Raises:
        ValueError: `n` is below 1.
    """
    if n < 1:
        raise ValueError(f"{n} pairs: at least 1 is needed")
    return 2.0 ** (1 - n)


def seeds_needed(comparisons: int, alpha: float = 0.05) -> int:
    """The fewest seeds with which an exact paired test can support a star, `smallest_p(n) * comparisons <= alpha`.

    Args:
        comparisons: Rows compared with the baseline, at least 1.
        alpha: Family-wise error, in (0, 1).

    Returns:
        The number of seeds for each row.

    Raises:
        ValueError: `comparisons` or `alpha` is out of its range.
    """
    if comparisons < 1 or not 0 < alpha < 1:
        raise ValueError(
            f"{comparisons} comparisons at alpha {alpha}: at least 1 comparison and an alpha between 0 and 1 are needed"
        )
    n = 1
    while smallest_p(n) * comparisons > alpha:
        n += 1
    return n


def star(p_holm: float | None, n: int, comparisons: int, alpha: float = 0.05) -> bool:
    """Whether a difference may be called significant.

    A t test can fall below any alpha at n = 3, but only because it assumes a normal distribution. A star also requires that an
    exact test, which assumes only that chance favours neither side, could reach alpha with as many seeds.

    Args:
        p_holm: p value after Holm's correction, or None without one.
        n: Number of shared seeds.
        comparisons: Rows compared with the baseline.
        alpha: Family-wise error, in (0, 1).

    Returns:
        True only where `p_holm` is below alpha and n is at least `seeds_needed(comparisons, alpha)`.

    Raises:
        ValueError: `comparisons` or `alpha` is out of its range.
    """
    return n >= seeds_needed(comparisons, alpha) and p_holm is not None and p_holm < alpha


def _check_metrics(name: str, values: np.ndarray) -> None:
    """Refuse anything but finite values [S] with S >= 1."""
    if values.ndim != 1 or not values.size:
        raise ValueError(f"{name} has shape {list(values.shape)}: allowed is one value for each seed, at least 1")
    if not np.isfinite(values).all():
        raise ValueError(f"{name} holds {values[~np.isfinite(values)][0]}: allowed are finite values")


def _hedges(degrees: int) -> float:
    """J of Hedges (1981); by logarithms, since gamma itself overflows at 172."""
    return math.exp(math.lgamma(degrees / 2) - math.lgamma((degrees - 1) / 2)) / math.sqrt(degrees / 2)
