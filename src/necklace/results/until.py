"""Which runs a study asks for until its rows are decided, seed after seed.

A comparison is looked at over the first n seeds of its two rows, n being as many as both are asked for. While it is undecided,
both are asked for one seed more. So what is asked for follows from the records alone, in whatever order runs end, on however
many machines: it is the least set of runs in which every comparison is decided, or cannot go on. No run is asked for before the
records show that it is needed. The first look is where the interval is bounded at all: up to there nothing could be decided.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from necklace.results import anytime
from necklace.results.analysis import control_of
from necklace.results.rulings import resolution, rule_of, verdict_between
from necklace.results.verdicts import MOST_SEEDS, Rule, Verdict, in_words, seeds_needed
from necklace.study.rules import CONTROL, Rules
from necklace.study.store import StudyInfo, StudyRun


@dataclass(frozen=True)
class Comparison:
    """A row and what it is compared with.

    Attributes:
        row: Name of the row.
        to: Name of the baseline, or of the control of the row's size.
        rule: What decides.
    """

    row: str
    to: str
    rule: Rule


@dataclass(frozen=True)
class Standing:
    """How far a comparison is.

    Attributes:
        comparison: Which.
        seeds: So many seeds of both rows are asked for.
        verdict: Over these; None while some of them have not finished.
        waits: The first of them that have not finished.
    """

    comparison: Comparison
    seeds: int
    verdict: Verdict | None
    waits: tuple[StudyRun, ...] = ()

    @property
    def decided(self) -> bool:
        """Whether no more seeds are needed."""
        return self.verdict is not None and self.verdict.kind != "undecided"

    @property
    def pair(self) -> str:
        """Such as `sppf against none`."""
        return f"{self.comparison.row} against {self.comparison.to}"


class Decisions:
    """Follows the comparisons of a study.

    Args:
        info: What the study is.
        rules: By what it decides.
        most: The most seeds that a row may be asked for.
        known: Row to the number of its first seeds that belong to the study already, whatever the others say.
    """

    def __init__(self, info: StudyInfo, rules: Rules, most: int, known: Mapping[str, int]) -> None:
        self.info, self.rules, self.most = info, rules, most
        self._start = {row: max(1, known.get(row, 0)) for row in info.rows}
        for row in info.rows:
            to_baseline, to_control = (
                min(most, first_look(rule_of(rules, row, to))) if to is not None and rules.of(row, to) else 1
                for to in (info.baseline, CONTROL)
            )
            partners = {row: max(to_baseline, to_control), **dict.fromkeys(info.controls, to_control)}
            partners |= {} if info.baseline is None else {info.baseline: max(to_baseline, partners.get(info.baseline, 1))}
            for name, least in partners.items():
                self._start[name] = max(self._start[name], least)
        self._verdicts: dict[tuple[str, str, int], Verdict] = {}

    def look(self, runs: Mapping[str, Sequence[StudyRun]]) -> tuple[dict[str, int], list[Standing]]:
        """What is asked for, given what has finished.

        Args:
            runs: Row to its runs, in the order of the study's seeds, finished or not.

        Returns:
            Row to the number of its first seeds that are asked for, and how far each comparison is.
        """
        asked = dict(self._start)
        comparisons = self._comparisons(runs)
        while True:
            standings = [self._standing(each, runs, asked) for each in comparisons]
            going = [each for each in standings if each.verdict and not each.decided and each.seeds < self.most]
            if not going:
                return asked, standings
            for each in going:
                for row in (each.comparison.row, each.comparison.to):
                    asked[row] = max(asked[row], each.seeds + 1)

    def _comparisons(self, runs: Mapping[str, Sequence[StudyRun]]) -> list[Comparison]:
        """All comparisons of the study that can be named: a control's size is known once a run of it has finished."""
        baseline, controls = self.info.baseline, self.info.controls
        if baseline is None:
            return []
        found = [Comparison(row, baseline, rule_of(self.rules, row, baseline)) for row in self.info.rows if row != baseline]
        records = {row: next((run.record for run in runs[row] if run.record), None) for row in self.info.rows}
        necks = {row: record.cost["neck"] for row, record in records.items() if record}
        if not controls.keys() <= necks.keys():  # the nearest of those that are known need not be the nearest of all
            return found
        for row in self.info.rows:
            control = control_of(row, necks, controls)
            if control is not None and control != baseline:
                found.append(Comparison(row, control, rule_of(self.rules, row, CONTROL)))
        return found

    def _standing(self, of: Comparison, runs: Mapping[str, Sequence[StudyRun]], asked: Mapping[str, int]) -> Standing:
        n = min(asked[of.row], asked[of.to])
        own, other = runs[of.row][:n], runs[of.to][:n]
        waits = tuple(run for run in (*own, *other) if run.record is None or self.info.metric not in run.record.metrics)
        if waits:
            return Standing(of, n, None, waits)
        key = (of.row, of.to, n)
        if key not in self._verdicts:
            self._verdicts[key] = verdict_between(own, other, of.rule, self.info.metric)
        return Standing(of, n, self._verdicts[key])


def first_look(rule: Rule) -> int:
    """The fewest seeds at which the rule `anytime` can decide."""
    bounded = np.isfinite(anytime.half_widths(np.arange(1, MOST_SEEDS + 1), rule.level))
    return int(bounded.argmax()) + 1


def told(standing: Standing, most: int) -> str:
    """A comparison in a sentence, such as `sppf against none: better by 0.4 to 1.1 points, 12 seeds`."""
    if standing.verdict is None:
        return f"{standing.pair}: undecided: {_why(standing.waits[0])}"
    words = in_words(standing.verdict)
    if not standing.decided:
        words = f"{words}: {standing.seeds} seeds are the most that it may have" if standing.seeds >= most else words
        return f"{standing.pair}: {words}"
    unit = " points" if standing.verdict.kind in ("better", "worse") else ""
    return f"{standing.pair}: {words}{unit}, {standing.verdict.n} seeds"


def _why(run: StudyRun) -> str:
    where = f"{run.row}, seed {run.seed}"
    if run.failure:
        return f"{where} {'failed' if run.state == 'failed' else 'is not finished'} ({run.failure}), and it cannot go on"
    return f"{where} is not finished"


@dataclass(frozen=True)
class Forecast:
    """What a decision will cost.

    Attributes:
        standing: Of the comparison.
        seeds: Seeds in all that decide it with a probability of 80 %; None where no spread is known.
        borrowed: Whether the spread is that of other rows.
    """

    standing: Standing
    seeds: int | None
    borrowed: bool = False


def forecasts(decisions: Decisions, runs: Mapping[str, Sequence[StudyRun]]) -> list[Forecast]:
    """What the decisions of a study will cost, from the spread of the runs that there are.

    Args:
        decisions: Of the study.
        runs: Row to its runs, in the order of the study's seeds, finished or not.
    """
    _, standings = decisions.look(runs)
    seen = [_differences(each, runs, decisions.info.metric) for each in standings]
    spreads = [float(x.std(ddof=1)) for x in seen if len(x) > 1 and np.ptp(x) > 0]
    found = []
    for standing, x in zip(standings, seen, strict=True):
        rule = standing.comparison.rule
        own = len(x) > 1 and float(np.ptp(x)) > 0
        if standing.decided or _one_computation(standing, runs):
            found.append(Forecast(standing, standing.seeds))
        elif not spreads:
            found.append(Forecast(standing, None))
        else:
            sd = float(x.std(ddof=1)) if own else max(spreads)
            # Where nothing is known of the mean, the worst case: as far from 0 as from the margin.
            effect = math.fsum(x) / len(x) if own else rule.margin / 2
            records = [run.record for run in runs[standing.comparison.row] if run.record]
            floor = resolution(records, decisions.info.metric) if records else 0.0
            needed = seeds_needed(max(sd, floor), effect, rule, floor=floor, seen=x if own else ())
            found.append(Forecast(standing, MOST_SEEDS if needed is None else needed, not own))
    return found


def _one_computation(standing: Standing, runs: Mapping[str, Sequence[StudyRun]]) -> bool:
    """Whether the two rows have ended in equal weights on every seed that both have, at least two."""
    own, other = (
        {run.seed: run.record.weights_hash for run in runs[row] if run.record}
        for row in (standing.comparison.row, standing.comparison.to)
    )
    shared = own.keys() & other.keys()
    return len(shared) > 1 and all(own[seed] == other[seed] for seed in shared)


def _differences(standing: Standing, runs: Mapping[str, Sequence[StudyRun]], metric: str) -> np.ndarray:
    """[n] in points, of the seeds that both rows have."""
    own, other = (
        {run.seed: run.record.metrics[metric] for run in runs[row] if run.record and metric in run.record.metrics}
        for row in (standing.comparison.row, standing.comparison.to)
    )
    return 100 * np.array([own[seed] - other[seed] for seed in own if seed in other])
