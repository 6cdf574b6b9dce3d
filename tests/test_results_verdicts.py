import math

import numpy as np
import pytest
from scipy import stats

from necklace.results import anytime
from necklace.results.verdicts import (
    MOST_SEEDS,
    Rule,
    Verdict,
    divisor,
    in_words,
    points,
    rule_interval,
    seeds_needed,
    verdict,
)

ANYTIME = Rule("anytime", 0.5)


def around(mean: float, sd: float, n: int) -> np.ndarray:
    """Differences of exactly this mean and standard deviation."""
    x = np.linspace(-1, 1, n)
    return mean + sd * x / x.std(ddof=1)


def first_decision(draw: np.ndarray, rule: Rule) -> np.ndarray:
    """[studies] for [studies, n]: the first n at which a study is decided; n + 1 where it never is."""
    n = np.arange(1, draw.shape[1] + 1)
    mean = draw.cumsum(1) / n
    spread = np.sqrt(np.maximum((draw**2).cumsum(1) - n * mean**2, 0) / np.maximum(n - 1, 1))
    half = anytime.half_widths(n, rule.level) * np.where(n > 1, spread, 1)
    decided = (np.abs(mean) > half) | (np.abs(mean) + half <= rule.margin)
    return np.where(decided.any(1), decided.argmax(1) + 1, draw.shape[1] + 1)


def test_better_worse_equal_undecided() -> None:
    assert verdict(around(2, 0.5, 10), ANYTIME).kind == "better"
    assert verdict(around(-2, 0.5, 10), ANYTIME).kind == "worse"
    equal = verdict(around(0.05, 0.1, 10), ANYTIME)
    assert equal.kind == "equal"
    assert -0.5 <= equal.low < equal.high <= 0.5
    undecided = verdict(around(0.3, 1, 10), ANYTIME)
    assert undecided.kind == "undecided"
    assert undecided.low < 0 < undecided.high
    assert undecided.more_seeds is not None
    assert undecided.more_seeds > 0


def test_a_difference_that_is_there_and_does_not_matter_is_equal() -> None:
    found = verdict(around(0.2, 0.05, 12), ANYTIME)
    assert found.low > 0
    assert found.kind == "equal"


def test_the_fixed_interval_is_the_t_interval_at_the_comparisons_level() -> None:
    x, rule = around(1, 0.4, 12), Rule("fixed", 0.5, 0.05, 4)
    expected = stats.t.interval(1 - 0.05 / 4, 11, 1.0, 0.4 / math.sqrt(12))
    assert rule_interval(x, rule) == pytest.approx(expected)
    assert verdict(x, rule).kind == "better"


def test_few_seeds_decide_what_is_many_times_their_spread() -> None:
    rule = Rule("fixed", 0.5, 0.05, 10)
    half = float(stats.t.isf(0.0025, 2)) / math.sqrt(3)  # 8.1 standard deviations
    found = verdict(around(60, 1, 3), rule)
    assert (found.kind, found.low, found.high) == ("better", pytest.approx(60 - half), pytest.approx(60 + half))
    assert verdict(around(half - 0.01, 1, 3), rule).kind == "undecided"
    assert verdict(around(60, 1, 2), rule).kind == "undecided"  # 90 standard deviations


@pytest.mark.parametrize("n", [2, 3, 5, 10])
def test_t_intervals_are_not_wrong_more_often_for_few_seeds_than_for_many(n: int) -> None:
    rng, rule, comparisons = np.random.default_rng(n), Rule("fixed", 1e-9, 0.05, divisor(0, 10)), 10
    half = rule_interval(around(0, 1, n), rule)[1]
    drawn = {
        "normal": rng.standard_normal((20_000, comparisons, n)),
        "t5": rng.standard_t(5, (20_000, comparisons, n)),
        "skewness 1": rng.gamma(4, 1, (20_000, comparisons, n)) - 4,
        "skewness 2": rng.exponential(1, (20_000, comparisons, n)) - 1,
    }
    wrong = {name: float((np.abs(x.mean(2)) > half * x.std(2, ddof=1)).any(1).mean()) for name, x in drawn.items()}
    print(f"studies of {n} seeds with a wrong verdict:", wrong)
    assert wrong["normal"] <= 0.052
    assert wrong["t5"] <= 0.052
    assert wrong["skewness 1"] <= 0.12
    assert wrong["skewness 2"] <= 0.31


@pytest.mark.parametrize("kind", ["fixed", "anytime"])
def test_one_seed_and_equal_differences_decide_nothing(kind: str) -> None:
    rule = Rule(kind, 0.5)  # pyright: ignore[reportArgumentType]
    for x in (np.array([40.0]), np.full(9, 3.0), np.zeros(9)):
        assert verdict(x, rule) == Verdict("undecided", -math.inf, math.inf, len(x))
    assert in_words(verdict(np.array([40.0]), rule)) == "undecided"
    # What a test image counts stands for the spread that they do not show.
    assert verdict(np.zeros(9), rule, floor=0.01).kind == "equal"
    assert verdict(np.full(9, 3.0), rule, floor=0.01).kind == "better"
    assert verdict(np.zeros(9), rule, floor=5.0).kind == "undecided"


def test_equal_weights_are_one_computation() -> None:
    assert in_words(verdict(np.zeros(2), ANYTIME, one_computation=True)) == "equal (one computation)"
    assert verdict(np.zeros(1), ANYTIME, one_computation=True).kind == "undecided"
    # Equal weights that were measured differently, such as on other images, are no such thing.
    assert verdict(np.array([1.0, 2.0]), ANYTIME, one_computation=True).kind == "undecided"


def test_words() -> None:
    assert in_words(Verdict("better", 0.41, 1.08, 12)) == "better by 0.4 to 1.1"
    assert in_words(Verdict("worse", -1.08, -0.41, 12)) == "worse by 0.4 to 1.1"
    assert in_words(Verdict("worse", -1.08, -0.0123, 12)) == "worse by 0.01 to 1.1"
    assert in_words(Verdict("equal", -0.2, 0.3, 12)) == "equal within the margin"
    assert in_words(Verdict("undecided", -1, 1, 3, 1)) == "undecided (about 1 seed more)"
    assert in_words(Verdict("undecided", -1, 1, 3, 7)) == "undecided (about 7 seeds more)"
    assert in_words(Verdict("undecided", -1, 1, 3, MOST_SEEDS)) == "undecided (1000 seeds more or beyond)"
    assert [points(value) for value in (0.0, 0.004, 0.094, 0.096, 12.34)] == ["0.0", "0.004", "0.09", "0.1", "12.3"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"margin": 0.0}, "margin is 0.0: must be above 0"),
        ({"margin": math.nan}, "margin is nan"),
        ({"alpha": 0.0}, "alpha is 0.0"),
        ({"alpha": 0.21}, "alpha is 0.21"),
        ({"comparisons": 0}, "0 comparisons"),
        ({"kind": "t"}, "rule is 't'"),
    ],
)
def test_refuses_rules_that_cannot_be(given: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Rule(**{"kind": "anytime", "margin": 0.5, **given})  # pyright: ignore[reportArgumentType]


def test_shares_of_alpha_add_up_to_at_most_one_however_rows_are_added() -> None:
    assert divisor(0, 9) == 10
    for batches in ([9], [1] * 50, [3, 1, 1, 20], [1, 30]):
        total, earlier = 0.0, 0
        for new in batches:
            total += new / divisor(earlier, new)
            earlier += new
        assert total == pytest.approx(1 - 1 / (earlier + 1))
    with pytest.raises(ValueError, match="at least 1"):
        divisor(3, 0)


def test_power_and_the_cost_of_no_effect() -> None:
    rng = np.random.default_rng(0)
    medians = {
        "1 sd": float(np.median(first_decision(rng.normal(1, 1, (2000, 60)), Rule("anytime", 1e-6)))),
        "2 sd": float(np.median(first_decision(rng.normal(2, 1, (2000, 60)), Rule("anytime", 1e-6)))),
        "none, sd 0.3": float(np.median(first_decision(rng.normal(0, 0.3, (2000, 60)), ANYTIME))),
    }
    print("seeds at the median, k = 1:", medians)
    assert medians["1 sd"] <= 14
    assert medians["2 sd"] <= 8
    assert medians["none, sd 0.3"] <= 10


@pytest.mark.parametrize(("sd", "effect", "k"), [(0.3, 0.0, 1), (1.0, 1.0, 1), (1.0, -2.0, 9), (0.3, 0.25, 9)])
def test_forecast_is_the_share_of_other_studies_that_are_decided(sd: float, effect: float, k: int) -> None:
    rule = Rule("anytime", 0.5, 0.05, k)
    needed = seeds_needed(sd, effect, rule)
    assert needed is not None
    decided = first_decision(np.random.default_rng(5).normal(effect, sd, (3000, 80)), rule)
    assert np.mean(decided <= needed) > 0.77
    assert np.mean(decided <= needed - 1) < 0.83
    assert seeds_needed(sd, effect, rule) == needed


def test_forecast_of_a_fixed_number_is_the_power_of_a_t_test() -> None:
    needed = seeds_needed(1.0, 1.0, Rule("fixed", 1e-6))
    powers = {n: float(stats.nct.sf(stats.t.isf(0.025, n - 1), n - 1, math.sqrt(n))) for n in range(8, 14)}
    assert needed is not None
    assert abs(needed - min(n for n, power in powers.items() if power >= 0.8)) <= 1


def test_forecast_goes_on_from_what_was_seen() -> None:
    rule = Rule("anytime", 0.5)
    fresh = seeds_needed(0.5, 1.0, rule)
    going_on = seeds_needed(0.5, 1.0, rule, seen=around(1.0, 0.5, 6))
    assert fresh is not None
    assert going_on is not None
    assert 7 <= going_on <= fresh
    assert seeds_needed(50.0, 0.2, rule) is None
    found = verdict(around(0.2, 50, 4), rule)
    assert found.more_seeds == MOST_SEEDS


def test_half_the_margin_is_the_worst_case() -> None:
    rule = Rule("anytime", 0.5)
    by_effect = [seeds_needed(0.4, effect, rule) or 9999 for effect in (0.0, 0.125, 0.25, 0.375, 0.5, 1.0)]
    assert max(by_effect) == by_effect[2]


def test_a_lucky_seed_decides_nothing() -> None:
    rng = np.random.default_rng(1)
    for rule in (ANYTIME, Rule("anytime", 0.5, 0.05, 9)):
        decided = 0
        for _ in range(100):
            x = rng.normal(0, 0.4, 5)
            x[rng.integers(5)] = 8.0
            decided += verdict(x, rule).kind != "undecided"
        assert decided == 0


def test_rows_that_are_added_until_one_is_starred_gain_nothing() -> None:
    """Up to 30 rows without effect, one after the other, each looked at after every seed; it ends with the first decision."""
    rng = np.random.default_rng(2)
    starred = plain = 0
    for _ in range(400):
        draw = rng.normal(size=(30, 40))
        rules = [Rule("anytime", 1e-6, 0.05, divisor(row, 1)) for row in range(30)]
        starred += any(first_decision(draw[row : row + 1], rules[row])[0] <= 40 for row in range(30))
        plain += any(first_decision(draw[row : row + 1], Rule("anytime", 1e-6))[0] <= 40 for row in range(30))
    print(f"starred {starred / 400:.3f}; without the correction {plain / 400:.3f}")
    assert starred / 400 <= 0.05
    assert plain / 400 > 0.3
