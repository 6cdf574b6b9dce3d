import math
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from necklace.results.stats import (
    Difference,
    Interval,
    holm,
    image_interval,
    paired_difference,
    seeds_needed,
    smallest_p,
    star,
    summarise,
)

# Multiples of 1/1024 add and subtract exactly.
grid = st.integers(0, 1024).map(lambda k: k / 1024)
pairs = st.lists(st.tuples(grid, grid), min_size=1, max_size=15).map(lambda rows: np.array(rows).T)
p_lists = st.lists(st.none() | st.floats(0, 1), max_size=7)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def difference(row: list[float], baseline: list[float]) -> Difference:
    return paired_difference(np.array(row), np.array(baseline), rng())


def test_summary_of_known_values() -> None:
    summary = summarise(np.array([0.5, 0.7, 0.9]))
    assert (summary.mean, summary.sd, summary.n) == (pytest.approx(0.7), pytest.approx(0.2), 3)
    assert summarise(np.array([0.7])).sd is None
    assert summarise(np.array([0.1, 0.1, 0.1])).sd == 0.0
    assert [type(value) for value in vars(summarise(np.array([0.5, 0.7], np.float32))).values()] == [float, float, int]


@pytest.mark.parametrize(
    ("values", "match"), [([], r"shape \[0\]"), ([[0.5]], r"shape \[1, 1\]"), ([0.5, np.nan], "nan"), ([np.inf], "inf")]
)
def test_bad_figures_are_refused(values: list[float], match: str) -> None:
    with pytest.raises(ValueError, match=f"values.*{match}"):
        summarise(np.array(values))
    with pytest.raises(ValueError, match=f"row.*{match}"):
        paired_difference(np.array(values), np.array([0.5]), rng())
    with pytest.raises(ValueError, match=f"baseline.*{match}"):
        paired_difference(np.array([0.5]), np.array(values), rng())


def test_a_pair_needs_the_same_seeds() -> None:
    with pytest.raises(ValueError, match="row has 2 seeds and baseline 3"):
        difference([0.5, 0.6], [0.5, 0.6, 0.7])


@pytest.mark.parametrize("n", [2, 3, 5, 12, 40])
def test_difference_agrees_with_scipy(n: int) -> None:
    draws = rng(n)
    row, baseline = draws.normal(0.72, 0.02, n), draws.normal(0.7, 0.02, n)
    found = paired_difference(row, baseline, rng(1))
    test = stats.ttest_rel(row, baseline)
    assert found.n == n
    assert found.mean == pytest.approx(np.mean(row - baseline))
    assert found.p == pytest.approx(test.pvalue)
    low, high = stats.t.interval(0.95, n - 1, np.mean(row - baseline), stats.sem(row - baseline))
    assert found.interval is not None
    assert (found.interval.low, found.interval.high) == (pytest.approx(low), pytest.approx(high))
    assert found.p_better == np.mean(row > baseline)
    assert all(type(value) is float for value in (found.mean, found.p, found.p_better, *vars(found.interval).values()))


@pytest.mark.parametrize("n", [19, 20, 33])
def test_bca_is_scipys_and_only_from_20_seeds(n: int) -> None:
    differences = rng(n).exponential(0.01, n)
    found = paired_difference(0.5 + differences, np.full(n, 0.5), rng(4)).bca
    if n < 20:
        assert found is None
        return
    want = stats.bootstrap((differences,), np.mean, n_resamples=10_000, method="BCa", rng=rng(4)).confidence_interval
    assert found is not None
    assert (found.low, found.high) == (pytest.approx(want.low), pytest.approx(want.high))


@pytest.mark.parametrize("odd", [0.1, 1e-5, -0.3])
def test_bca_of_one_odd_seed_is_a_number(odd: float) -> None:
    row = np.full(20, 0.5)
    row[7] += odd
    found = paired_difference(row, np.full(20, 0.5), rng()).bca
    assert found is not None
    assert min(odd, 0) <= found.low < found.high <= max(odd, 0)


def test_effect_size_in_closed_form() -> None:
    # J for 2, 3 and 4 degrees of freedom from gamma(1/2) = sqrt(pi).
    for row, correction in (
        ([0.1, 0.2, 0.3], 1 / math.sqrt(math.pi)),
        ([0.1, 0.2, 0.3, 0.2], math.sqrt(math.pi) / 2 / math.sqrt(1.5)),
        ([0.1, 0.2, 0.3, 0.2, 0.4], 1 / (math.sqrt(2) * math.sqrt(math.pi) / 2)),
    ):
        expected = np.mean(row) / np.std(row, ddof=1) * correction
        assert difference(row, [0.0] * len(row)).effect_size == pytest.approx(expected)
    # 1 - 3 / (4 m - 1) is what most texts print instead; gamma(m / 2) alone would overflow here.
    many = rng().normal(0.1, 0.1, 500)
    assert paired_difference(many, np.zeros(500), rng()).effect_size == pytest.approx(
        np.mean(many) / np.std(many, ddof=1) * (1 - 3 / (4 * 499 - 1)), rel=1e-5
    )


def test_effect_size_is_unbiased() -> None:
    draws = rng(3).normal(0.8, 1.0, (4000, 4))
    sizes = [paired_difference(draw, np.zeros(4), rng()).effect_size for draw in draws]
    # Without the correction the mean would be 0.8 / 0.72 = 1.11.
    assert np.mean([size for size in sizes if size is not None]) == pytest.approx(0.8, abs=0.06)


def test_one_and_two_seeds() -> None:
    assert difference([0.6], [0.5]) == Difference(1, pytest.approx(0.1), None, None, None, 1.0, None)  # pyright: ignore[reportArgumentType]
    two = difference([0.6, 0.5], [0.5, 0.5])
    assert two.effect_size is None
    # The t distribution with one degree of freedom is Cauchy's: t = 1 gives p = 1/2, and the quantile is tan(0.475 pi).
    assert two.p == pytest.approx(0.5)
    assert two.interval is not None
    assert two.interval.high == pytest.approx(0.05 + math.tan(0.475 * math.pi) * 0.05)


@pytest.mark.parametrize("n", [2, 3, 25])
def test_equal_differences_prove_nothing(n: int) -> None:
    baseline = np.linspace(0.2, 0.8, n)
    same = paired_difference(baseline, baseline, rng())
    assert same == Difference(n, 0.0, None, None, 1.0, 0.5, None)
    shifted = paired_difference(baseline + 0.1, baseline, rng())
    assert shifted == Difference(n, pytest.approx(0.1), None, None, None, 1.0, None)  # pyright: ignore[reportArgumentType]


def test_rounding_noise_is_not_a_difference() -> None:
    noise = 0.1 + 0.2 - 0.3
    assert noise != 0
    assert difference([0.1 + 0.2, 0.3, 0.3], [0.3, 0.3, 0.3]) == difference([0.3] * 3, [0.3] * 3)
    assert difference([0.5 + noise, 0.5, 0.5], [0.4, 0.4, 0.4]).p is None


@given(st.lists(st.integers(0, 49_999), min_size=3, max_size=25), st.integers(1, 10_000), st.integers(100, 50_000))
def test_equal_differences_survive_a_record(corrects: list[int], gain: int, images: int) -> None:
    # What a record keeps of a single-precision accuracy.
    def recorded(correct: int) -> float:
        return float(f"{float(np.float32(correct) / np.float32(images)):.7g}")

    baseline = [correct % images for correct in corrects]
    found = difference([recorded(correct + gain) for correct in baseline], [recorded(correct) for correct in baseline])
    assert found.p is None
    assert found.p_better == 1.0


@pytest.mark.parametrize("n", [3, 20, 100])
def test_one_image_in_50_000_is_a_difference(n: int) -> None:
    baseline = np.full(n, 0.9)
    row = baseline.copy()
    row[0] += 1 / 50_000
    found = paired_difference(row, baseline, rng())
    assert found.p_better == pytest.approx(0.5 + 0.5 / n)
    assert found.p == pytest.approx(2 * stats.t.sf(1, n - 1))


@given(pairs, st.integers(-4, 4))
def test_a_shift_of_both_changes_nothing(pair: np.ndarray, shift: int) -> None:
    assert paired_difference(pair[0] + shift, pair[1] + shift, rng()) == paired_difference(pair[0], pair[1], rng())


@given(pairs)
def test_swapping_the_rows_flips_the_sign(pair: np.ndarray) -> None:
    ahead, behind = paired_difference(pair[0], pair[1], rng()), paired_difference(pair[1], pair[0], rng())
    assert behind.mean == -ahead.mean
    assert behind.p == ahead.p
    assert behind.p_better == pytest.approx(1 - ahead.p_better)
    assert (behind.effect_size is None) == (ahead.effect_size is None)
    if ahead.effect_size is not None:
        assert behind.effect_size == -ahead.effect_size
    assert (behind.interval is None) == (ahead.interval is None)
    if ahead.interval and behind.interval:
        assert (behind.interval.low, behind.interval.high) == (-ahead.interval.high, -ahead.interval.low)
    # The interval and the test are two views of one thing.
    if ahead.interval and ahead.p is not None and abs(ahead.p - 0.05) > 1e-9:
        assert (ahead.p < 0.05) == (not ahead.interval.low <= 0 <= ahead.interval.high)


def test_t_interval_covers_95_percent_at_three_seeds() -> None:
    draws = rng(0).normal(0.01, 0.02, (4000, 2, 3))
    found = [paired_difference(row + 0.01, baseline, rng()).interval for row, baseline in draws]
    covered = np.mean([interval.low <= 0.01 <= interval.high for interval in found if interval is not None])
    assert len(found) == 4000
    assert 0.93 < covered < 0.97


def test_same_generator_same_result() -> None:
    row, baseline = rng(2).normal(0.7, 0.02, (2, 25))
    assert paired_difference(row, baseline, rng(9)) == paired_difference(row, baseline, rng(9))
    assert paired_difference(row, baseline, rng(9)).bca != paired_difference(row, baseline, rng(10)).bca
    right, base = rng(2).random((2, 3, 200)) < 0.7
    assert image_interval(right, base, rng(9)) == image_interval(right, base, rng(9))
    assert image_interval(right, base, rng(9), resamples=99) != image_interval(right, base, rng(10), resamples=99)


def test_holm_of_a_textbook_case() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    # A comparison whose runs are lost is one of the family all the same.
    assert holm([0.01, None, 0.04, 0.03, 0.005]) == pytest.approx([0.04, None, 0.09, 0.09, 0.025])
    assert holm([0.8, 0.9]) == [1.0, 1.0]
    assert holm([None]) == [None]
    assert holm([]) == []


@given(p_lists)
def test_holm_is_closed_testing_with_bonferroni(p_values: list[float | None]) -> None:
    # Holm's procedure is the closure of Bonferroni's (Marcus, Peritz and Gabriel 1976): the adjusted p of a hypothesis is the
    # largest Bonferroni p over all sets of hypotheses that hold it.
    # One without a p value cannot be rejected: 1.
    p = [1.0 if value is None else value for value in p_values]
    sets = [chosen for size in range(1, len(p) + 1) for chosen in combinations(range(len(p)), size)]
    bonferroni = {chosen: min(1.0, len(chosen) * min(p[index] for index in chosen)) for chosen in sets}
    expected = [max(bound for chosen, bound in bonferroni.items() if index in chosen) for index in range(len(p))]
    assert [after for after in holm(p_values) if after is not None] == pytest.approx(
        [bound for bound, value in zip(expected, p_values, strict=True) if value is not None]
    )


@given(p_lists)
def test_holm_keeps_the_order_and_never_shrinks(p_values: list[float | None]) -> None:
    known = sorted((p, after) for p, after in zip(p_values, holm(p_values), strict=True) if p is not None and after is not None)
    assert len(known) == sum(p is not None for p in p_values)
    assert all(p <= after <= 1 for p, after in known)
    assert [after for _, after in known] == sorted(after for _, after in known)


@pytest.mark.parametrize("p", [-0.1, 1.1, math.nan])
def test_holm_refuses_what_is_no_p_value(p: float) -> None:
    with pytest.raises(ValueError, match="outside"):
        holm([0.5, p])


@pytest.mark.parametrize(("seeds", "other"), [(3, 3), (5, 2), (1, 1)])
def test_image_interval_is_the_plain_bootstrap(seeds: int, other: int) -> None:
    draws = rng(7)
    difficulty = draws.random(400)
    row, baseline = draws.random((seeds, 400)) < difficulty + 0.05, draws.random((other, 400)) < difficulty
    images = draws.integers(0, 400, (20_000, 400))
    means = (row.mean(0) - baseline.mean(0))[images].mean(1)
    found = image_interval(row, baseline, rng(8), resamples=40_000)
    # A percentile moves with the draws by a few hundredths of the spread, or by one step of the means.
    off = max(0.06 * means.std(), 1.01 / (400 * seeds * other))
    assert found.low == pytest.approx(np.quantile(means, 0.025), abs=off)
    assert found.high == pytest.approx(np.quantile(means, 0.975), abs=off)


def test_image_interval_of_one_run_each_is_a_normal_one() -> None:
    # 600 images lost and 900 won of 10,000: variance of one image's difference is 0.15 - 0.03**2.
    row, baseline = np.zeros((1, 10_000), bool), np.zeros((1, 10_000), bool)
    row[0, :900] = True
    baseline[0, 900:1500] = True
    found = image_interval(row, baseline, rng())
    half = 1.96 * math.sqrt((0.15 - 0.03**2) / 10_000)
    assert found.low == pytest.approx(0.03 - half, abs=3e-4)
    assert found.high == pytest.approx(0.03 + half, abs=3e-4)
    assert type(found.low) is float


@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 30), st.integers(0, 2**32))
@settings(max_examples=50)
def test_image_interval_stays_among_the_differences(seeds: int, other: int, images: int, seed: int) -> None:
    row, baseline = rng(seed).random((seeds, images)) < 0.6, rng(seed + 1).random((other, images)) < 0.5
    found = image_interval(row, baseline, rng(), resamples=200)
    differences = row.mean(0) - baseline.mean(0)
    assert differences.min() - 1e-12 <= found.low <= found.high <= differences.max() + 1e-12
    same = image_interval(row, np.concatenate([row, row]), rng(), resamples=200)
    assert same == Interval(0.0, 0.0)


@pytest.mark.parametrize(
    ("row", "baseline", "match"),
    [
        (np.ones((2, 3)), np.ones((2, 3), bool), r"row is float64 \[2, 3\]"),
        (np.ones((2, 3), bool), np.ones(3, bool), r"baseline is bool \[3\]"),
        (np.ones((0, 3), bool), np.ones((2, 3), bool), r"row is bool \[0, 3\]"),
        (np.ones((2, 3), bool), np.ones((2, 4), bool), "row has 3 images and baseline 4"),
    ],
)
def test_image_interval_refuses_what_does_not_pair(row: np.ndarray, baseline: np.ndarray, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        image_interval(row, baseline, rng())


@pytest.mark.parametrize("n", range(1, 11))
def test_smallest_p_is_that_of_the_exact_tests(n: int) -> None:
    ahead = np.arange(1.0, n + 1)
    assert smallest_p(n) == pytest.approx(stats.wilcoxon(ahead, method="exact")[1])
    assert smallest_p(n) == pytest.approx(stats.binomtest(n, n).pvalue)


def test_seeds_needed_and_stars() -> None:
    # 2**-5 = 0.031 is the first power of two below 0.05; five rows need one below 0.01, 2**-7; equality is enough.
    assert [seeds_needed(1), seeds_needed(5), seeds_needed(8, alpha=0.0625)] == [6, 8, 8]
    assert not star(1e-9, 5, 1)
    assert star(1e-9, 6, 1)
    assert not star(1e-9, 6, 2)
    assert star(1e-9, 7, 2)
    assert not star(0.05, 30, 1)
    assert not star(None, 30, 1)
    assert star(0.02, 10, 1, alpha=0.025)
    assert not star(0.02, 10, 1, alpha=0.015)


@given(st.integers(1, 1000), st.floats(0.001, 0.999))
def test_seeds_needed_is_the_least(comparisons: int, alpha: float) -> None:
    n = seeds_needed(comparisons, alpha)
    assert smallest_p(n) * comparisons <= alpha
    assert n == 1 or smallest_p(n - 1) * comparisons > alpha


def test_impossible_counts_are_refused() -> None:
    with pytest.raises(ValueError, match="0 pairs"):
        smallest_p(0)
    with pytest.raises(ValueError, match="0 comparisons"):
        seeds_needed(0)
    with pytest.raises(ValueError, match=r"alpha 1\.5"):
        star(0.01, 5, 1, alpha=1.5)
