import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate

from necklace.results.anytime import half_widths, interval, log_e_value

SEEDS = np.arange(3, 61)


def drawn(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0.3, 1.2, n)


def integrated(x: np.ndarray, mu0: float, g: float) -> float:
    """The logarithm of the ratio of the two marginal likelihoods, by numerical integration over effect size and scale."""
    y = x - mu0
    size = math.sqrt(float(np.mean(y**2)))

    def likelihood(d: float, log_s: float) -> float:
        s = size * math.exp(log_s)
        return math.exp(-len(y) * log_s - float(np.sum((y / s - d) ** 2)) / 2)

    def mixed(d: float, log_s: float) -> float:
        return likelihood(d, log_s) * math.exp(-(d**2) / (2 * g)) / math.sqrt(2 * math.pi * g)

    wide = 9 * math.sqrt(g)
    above = integrate.dblquad(mixed, -4, 9, -wide, wide, epsabs=1e-13, epsrel=1e-9)[0]
    below = integrate.quad(lambda log_s: likelihood(0.0, log_s), -4, 9, epsabs=1e-14)[0]
    return math.log(above / below)


@pytest.mark.parametrize(("n", "mu0", "g"), [(2, 0.0, 1.0), (3, 0.7, 1.0), (5, -1.0, 1.0), (5, 0.0, 0.3), (7, -0.5, 2.5)])
def test_e_value_is_the_mixture_integrated_by_number(n: int, mu0: float, g: float) -> None:
    assert log_e_value(drawn(n), mu0, g) == pytest.approx(integrated(drawn(n), mu0, g), abs=1e-5)


@pytest.mark.parametrize(("n", "g"), [(2, 1.0), (6, 1.0), (25, 0.4)])
def test_e_value_is_the_formula_of_t(n: int, g: float) -> None:
    x, mu0 = drawn(n), 0.9
    t2 = n * (x.mean() - mu0) ** 2 / x.var(ddof=1)
    expected = -math.log1p(n * g) / 2 + n / 2 * (math.log1p(t2 / (n - 1)) - math.log1p(t2 / ((n - 1) * (1 + n * g))))
    assert log_e_value(x, mu0, g) == pytest.approx(expected, rel=1e-10)


@settings(max_examples=60, deadline=None)
@given(
    x=st.lists(st.floats(-50, 50).map(lambda v: round(v, 3)), min_size=1, max_size=30).map(np.array),
    alpha=st.sampled_from([0.2, 0.05, 0.005]),
    g=st.sampled_from([0.2, 1.0, 3.0]),
)
def test_ends_are_where_the_e_value_reaches_one_over_alpha(x: np.ndarray, alpha: float, g: float) -> None:
    low, high = interval(x, alpha, g)
    if math.isinf(low):
        assert high == math.inf
        # However far away: the evidence has an upper limit, and it does not suffice.
        assert log_e_value(x, 1e9, g) < -math.log(alpha) + 1e-6
        return
    assert low <= x.mean() + 1e-9
    assert high >= x.mean() - 1e-9
    if np.ptp(x) > 0.01:
        for end in (low, high):
            assert log_e_value(x, end, g) == pytest.approx(-math.log(alpha), abs=1e-5)
    else:
        assert high - low < 1


def test_unbounded_exactly_where_the_closed_form_says() -> None:
    n = np.arange(1, 40)
    for alpha in (0.05, 0.05 / 9):
        bounded = (1 / alpha) ** (2 / n) * (1 + n) ** (1 / n) < 1 + n
        assert np.array_equal(np.isfinite(half_widths(n, alpha)), bounded)
    assert not np.isfinite(half_widths(np.array([4]), 0.05))
    assert np.isfinite(half_widths(np.array([5]), 0.05))


def test_one_seed_and_equal_differences() -> None:
    assert interval(np.array([3.0]), 0.05) == (-math.inf, math.inf)
    assert log_e_value(np.array([3.0])) == 0.0
    assert interval(np.full(4, 0.1), 0.05) == (-math.inf, math.inf)
    assert interval(np.full(5, 0.1), 0.05) == (0.1, 0.1)
    assert log_e_value(np.full(5, 0.1)) == pytest.approx(2 * math.log(6))
    assert log_e_value(np.zeros(5)) == pytest.approx(-math.log(6) / 2)
    low, high = interval(np.full(5, 0.1), 0.05, floor=0.01)
    assert low < 0.1 < high
    assert high - low == pytest.approx(0.02 * half_widths(np.array([5]), 0.05)[0])


def test_a_floor_never_narrows() -> None:
    x = drawn(8)
    assert interval(x, 0.05, floor=0.1) == interval(x, 0.05)
    assert interval(x, 0.05, floor=9.0)[0] < interval(x, 0.05)[0]


def test_units_do_not_matter() -> None:
    x = drawn(9)
    scaled = interval(100 * x + 7, 0.05)
    assert scaled == pytest.approx([100 * end + 7 for end in interval(x, 0.05)])


# From savvi 0.3.1 (MIT), LinearRegression with the intercept alone, phi = 1 / g and n - 1 degrees of freedom: the confidence
# sequence of a coefficient of Lindon et al. 2024, which is then that of a mean, and its Bayes factor. It takes n - 2 by itself.
SAVVI = [
    (6, 0.05, 1.0, -3.953401, 4.020401, -0.971877),
    (12, 0.05, 1.0, -1.840011, 2.189511, -1.231323),
    (20, 0.005, 1.0, -1.391902, 1.674202, -1.435513),
    (12, 0.05, 0.4, -1.880807, 2.230307, -1.663356),
]


@pytest.mark.parametrize(("n", "alpha", "phi", "low", "high", "log_e"), SAVVI)
def test_equals_a_published_implementation(n: int, alpha: float, phi: float, low: float, high: float, log_e: float) -> None:
    x = np.round(drawn(20, seed=3), 3)[:n]
    assert interval(x, alpha, 1 / phi) == pytest.approx((low, high), rel=1e-5)
    assert log_e_value(x, 0.0, 1 / phi) == pytest.approx(log_e, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize(
    ("x", "alpha", "g", "message"),
    [
        ([1.0, math.nan], 0.05, 1.0, "nan: allowed are finite values"),
        ([1.0, math.inf], 0.05, 1.0, "inf: allowed are finite values"),
        ([], 0.05, 1.0, "at least 1"),
        ([[1.0]], 0.05, 1.0, "one value for each seed"),
        ([1.0, 2.0], 0.0, 1.0, "between 0 and 1"),
        ([1.0, 2.0], 1.0, 1.0, "between 0 and 1"),
        ([1.0, 2.0], 0.05, 0.0, "g is 0.0"),
    ],
)
def test_refuses_what_has_no_interval(x: list[float], alpha: float, g: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        interval(np.array(x), alpha, g)


def missed(draw: np.ndarray, alpha: float) -> float:
    """Share of the studies [k, studies, n], of mean 0, of which any interval left out 0 at 3 seeds or more."""
    n = np.arange(1, draw.shape[-1] + 1)
    mean = draw.cumsum(-1) / n
    spread = np.sqrt(np.maximum((draw**2).cumsum(-1) - n * mean**2, 0) / np.maximum(n - 1, 1))
    out = np.abs(mean) > half_widths(n, alpha / len(draw)) * np.where(n > 1, spread, 1)
    return float(out[..., SEEDS[0] - 1 :].any((0, 2)).mean())


@pytest.mark.parametrize("k", [1, 9])
def test_coverage_when_looked_at_after_every_seed(k: int) -> None:
    rng = np.random.default_rng(0)
    shape = (k, 4000, int(SEEDS[-1]))
    wrong = {
        "normal": missed(rng.normal(size=shape), 0.05),
        "t5": missed(rng.standard_t(5, size=shape), 0.05),
        "skewness 1": missed(rng.gamma(4, 0.5, size=shape) - 2, 0.05),
        "skewness 2": missed(rng.exponential(size=shape) - 1, 0.05),
    }
    print(f"k = {k}: studies with any wrong decision, looked at from 3 to 60 seeds, alpha 0.05:", wrong)
    assert wrong["normal"] <= 0.05
    assert wrong["t5"] <= 0.05
    # Normal differences are assumed. Skewed ones are decided wrongly more often, the more so the smaller the level of each.
    assert wrong["skewness 1"] <= {1: 0.06, 9: 0.12}[k]
    assert wrong["skewness 2"] <= {1: 0.15, 9: 0.4}[k]
