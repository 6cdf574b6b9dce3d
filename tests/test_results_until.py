"""Which runs a study asks for until it is decided, whatever the order in which they end."""

# pyright: reportOptionalMemberAccess=false, reportArgumentType=false

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from necklace.results.anytime import interval
from necklace.results.rulings import rule_of
from necklace.results.until import Decisions, Standing, first_look, forecasts, told
from necklace.results.verdicts import Rule, verdict
from necklace.study.rules import CONTROL, Asked, Rules, Setting, updated
from necklace.study.store import StudyRun
from tests.synthetic import synthetic_run, synthetic_study

MOST = 30
ROWS = ("none", "spp", "sppf", "focal, focal_level=1")
# sppf has the size of spp, so that it can be taken for spp's control.
CONTROLS = {"sppf": "params"}
Values = Mapping[str, np.ndarray]


def rules_of(controls: Mapping[str, str] = CONTROLS, rows: Sequence[str] = ROWS, margin: float = 0.5) -> Rules:
    asked = Asked(Setting("anytime", margin, 0.05), "none", {row: (row,) for row in rows}, dict.fromkeys(rows, ()), [*controls])
    return updated(Rules(), asked, (), 0)


def decisions_of(rules: Rules, rows: Sequence[str] = ROWS, controls: Mapping[str, str] = CONTROLS, **known: int) -> Decisions:
    info = synthetic_study(rows=tuple(rows), seeds=tuple(range(MOST)), controls=dict(controls)).info
    return Decisions(info, rules, MOST, known)


@cache
def template_of(row: str) -> StudyRun:
    return synthetic_run(row, 0)


def runs_of(values: Values, done: set[tuple[str, int]], failed: Sequence[tuple[str, int]] = ()) -> dict[str, list[StudyRun]]:
    """Runs of which some have finished, with values in percent."""
    found: dict[str, list[StudyRun]] = {}
    for row, of_row in values.items():
        template = template_of(row)
        found[row] = []
        for seed, value in enumerate(of_row):
            run = replace(template, seed=seed, record=None, state="missing")
            if (row, seed) in failed:
                run = replace(run, state="failed", failure="ValueError: this neck raises")
            elif (row, seed) in done:
                metrics = template.record.metrics | {"test/acc": value / 100}
                run = replace(run, state="done", record=replace(template.record, metrics=metrics, weights_hash=f"{row} {seed}"))
            found[row].append(run)
    return found


def carried_out(
    decisions: Decisions, values: Values, rng: np.random.Generator, failed: Sequence[tuple[str, int]] = ()
) -> tuple[dict[str, int], list[Standing], set[tuple[str, int]]]:
    """A study that runs some of what is asked for at a time, in a random order; gives what has finished as well."""
    done: set[tuple[str, int]] = set()
    while True:
        asked, standings = decisions.look(runs_of(values, done, failed))
        todo = [(row, n) for row, count in asked.items() for n in range(count) if (row, n) not in {*done, *failed}]
        if not todo:
            return asked, standings, done
        done |= {todo[n] for n in rng.permutation(len(todo))[: rng.integers(1, 4)]}


def planted(rng: np.random.Generator, **means: float) -> dict[str, np.ndarray]:
    """Values in percent: of a row, a mean and a spread of half a point between seeds."""
    return {row: 90 + means.get(row.partition(",")[0], 0.0) + rng.normal(0, 0.5, MOST) for row in ROWS}


def test_what_is_asked_for_follows_from_the_results_and_not_from_the_order_in_which_they_come() -> None:
    values = planted(np.random.default_rng(0), spp=3.0, focal=-1.2)
    rules = rules_of()
    ends = []
    for order in range(12):
        asked, standings, done = carried_out(decisions_of(rules), values, np.random.default_rng(order))
        # Not one run that does not count was ever started.
        assert done == {(row, n) for row, count in asked.items() for n in range(count)}
        ends.append((asked, {each.pair: (each.seeds, each.verdict) for each in standings}))
    assert all(end == ends[0] for end in ends)
    asked, standings = ends[0]
    assert len(standings) == 4  # spp, sppf and focal against none, spp against sppf, its control
    # By hand: a row goes on to the first number of seeds at which its comparisons are decided, and the baseline with the last.
    needed = {}
    for row, to in (("spp", "none"), ("sppf", "none"), ("focal, focal_level=1", "none"), ("spp", "sppf")):
        rule = rule_of(rules, row, to if to == "none" else CONTROL)
        kinds = (verdict(values[row][:n] - values[to][:n], rule, 0.5).kind for n in range(first_look(rule), MOST + 1))
        needed[row, to] = next((n for n, kind in enumerate(kinds, first_look(rule)) if kind != "undecided"), MOST)
    assert asked["focal, focal_level=1"] == needed["focal, focal_level=1", "none"] < MOST
    assert asked["spp"] == max(needed["spp", "none"], needed["spp", "sppf"]) < MOST
    assert asked["none"] == max(needed[row, "none"] for row in ROWS[1:])
    assert standings["spp against none"][1].kind == "better"
    assert standings["focal, focal_level=1 against none"][1].kind == "worse"


def test_a_row_whose_run_failed_stays_where_it_is_and_the_others_go_on() -> None:
    values = planted(np.random.default_rng(1), spp=1.0, sppf=1.0, focal=1.0)
    rules = rules_of(controls={})
    decisions = decisions_of(rules, controls={})
    whole, _, _ = carried_out(decisions, values, np.random.default_rng(0))
    lost = ("spp", decisions.look(runs_of(values, set()))[0]["spp"] - 1)
    asked, standings, done = carried_out(decisions_of(rules, controls={}), values, np.random.default_rng(0), [lost])
    assert asked["spp"] == lost[1] + 1 < whole["spp"]
    assert {row: asked[row] for row in ROWS[2:]} == {row: whole[row] for row in ROWS[2:]}
    assert [told(each, MOST) for each in standings if not each.decided] == [
        f"spp against none: undecided: spp, seed {lost[1]} failed (ValueError: this neck raises), and it cannot go on"
    ]
    assert not {run for run in done if run[0] == "spp" and run[1] > lost[1]}


def test_no_more_seeds_than_the_most_and_seeds_that_belong_to_the_study_stay() -> None:
    values = planted(np.random.default_rng(2), sppf=0.25, spp=8.0)
    rows, rules = ("none", "spp", "sppf"), rules_of(controls={}, rows=("none", "spp", "sppf"), margin=0.3)
    values = {row: values[row] for row in rows}
    asked, standings, _ = carried_out(decisions_of(rules, rows, {}), values, np.random.default_rng(0))
    assert asked["sppf"] == asked["none"] == MOST > asked["spp"]
    assert told(standings[1], MOST).endswith(f"{MOST} seeds are the most that it may have")
    more, _, _ = carried_out(decisions_of(rules, rows, {}, spp=asked["spp"] + 3), values, np.random.default_rng(0))
    assert more == asked | {"spp": asked["spp"] + 3}


@pytest.mark.parametrize("comparisons", [2, 30])
def test_the_first_look_is_where_the_interval_is_bounded(comparisons: int) -> None:
    rule = Rule("anytime", 0.5, 0.05, comparisons)
    first = first_look(rule)
    x = np.random.default_rng(0).normal(size=first)
    assert np.isfinite(interval(x, rule.level)).all()
    assert np.isinf(interval(x[:-1], rule.level)).all()


def test_what_a_decision_will_cost_is_foreseen_within_a_factor_of_two() -> None:
    """Of two rows that differ by their seeds' noise alone, as an A/A pair does: foreseen after the first look."""
    rows, rules = ("none", "spp"), rules_of(controls={}, rows=("none", "spp"))
    ratios = []
    values: dict[str, np.ndarray] = {}
    for study in range(20):
        rng = np.random.default_rng(study)
        values = {row: 90 + rng.normal(0, 0.2, MOST) for row in rows}
        decisions = decisions_of(rules, rows, {})
        start = decisions.look(runs_of(values, set()))[0]["spp"]
        seen = runs_of(values, {(row, n) for row in rows for n in range(start)})
        (foreseen,) = forecasts(decisions, seen)
        asked, _, _ = carried_out(decisions, values, rng)
        ratios.append((foreseen.seeds or 0) / asked["spp"])
    assert 0.5 <= np.median(ratios) <= 2
    print(f"seeds foreseen to seeds needed, 20 A/A pairs: {np.quantile(ratios, [0, 0.25, 0.5, 0.75, 1]).round(2)}")
    assert np.mean([0.5 <= ratio <= 2 for ratio in ratios]) >= 0.8
    # A row of which nothing is known yet takes the spread of the others.
    values = {"none": values["none"], "spp": values["spp"], "sppf": values["spp"]}
    decisions = decisions_of(rules_of(controls={}, rows=tuple(values)), tuple(values), {})
    known, unknown = forecasts(decisions, runs_of(values, {(row, n) for row in rows for n in range(4)}))
    assert (known.borrowed, unknown.borrowed) == (False, True)
    assert unknown.seeds is not None
    assert [each.seeds for each in forecasts(decisions, runs_of(values, set()))] == [None, None]


def test_two_rows_of_one_computation_take_the_seeds_that_are_asked_for_anyway() -> None:
    values = {row: np.full(MOST, 90.0) + np.arange(MOST) for row in ("none", "spp")}
    decisions = decisions_of(rules_of(controls={}, rows=("none", "spp")), ("none", "spp"), {})
    runs = runs_of(values, {(row, n) for row in values for n in range(3)})
    assert forecasts(decisions, runs)[0].seeds is None  # equal metrics of other weights say nothing of a spread
    runs["spp"] = [
        replace(run, record=replace(run.record, weights_hash=other.record.weights_hash)) if run.record else run
        for run, other in zip(runs["spp"], runs["none"], strict=True)
    ]
    (cost,) = forecasts(decisions, runs)
    assert (cost.standing.decided, cost.seeds) == (False, first_look(cost.standing.comparison.rule))
