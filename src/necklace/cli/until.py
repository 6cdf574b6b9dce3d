"""What --until-decided adds to `necklace ablate`: which runs are asked for as others end, and what a decision will cost."""

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace

from necklace.results.comparability import check_comparable
from necklace.results.until import Decisions, Forecast, Standing, first_look, forecasts, told
from necklace.results.verdicts import MOST_SEEDS, Rule, seeds_needed
from necklace.study.collect import Kept, rules_now
from necklace.study.plan import Plan
from necklace.study.progress import duration, seconds_by_row
from necklace.study.rules import Rules
from necklace.study.status import RunStatus, StatusReader
from necklace.study.store import StudyRecords, StudyRun


def anytime_plan(plan: Plan, status: StatusReader, kept: Kept) -> Plan:
    """A plan of which the rule is `anytime`.

    Raises:
        ValueError: The study has results, and another rule stood before the first of them. study.yaml may change the rule all
            the same, which the table then says for ever. Or it has results of more seeds than the plan.
    """
    own, beyond = plan.file.seeds, {run.seed for run in kept.listed.values()} - {run.seed for run in plan.runs}
    if beyond:
        count = len(own) + max(beyond) - max(own)
        most = len({run.seed for run in plan.runs})
        raise ValueError(f"--max-seeds {most}: {kept.folder} has results of {count} seeds; must be at least {count}")
    changed = replace(plan, file=replace(plan.file, rule="anytime"))
    now = rules_now(changed, status, kept.folder).settings
    if plan.file.rule is None and now[-1].records and (len(now) == 1 or now[-2].rule != "anytime"):
        raise ValueError(
            f"--until-decided: {plan.name} has {now[-1].records} results already, whose number of seeds was to be fixed; give "
            "this a study of its own, or set rule: anytime in study.yaml, and the table will say that it came after them"
        )
    return changed


class Until:
    """Asks for the runs of a plan that it takes to decide its rows, and tells of each verdict as it falls.

    Args:
        plan: The study, with as many seeds as a row may have.
        rules: By what it decides.
        kept: What its folder holds: these runs belong to it, whatever the others say.
        budget: Seconds from now on after which no run starts.
        ignored: States whose records do not count, since these runs are trained again.
        allow: Fields that may differ between runs.
        say: Takes a sentence for the screen.

    Attributes:
        plan: The study.
        until: No run starts after this moment of `time.monotonic`.
    """

    def __init__(
        self,
        plan: Plan,
        rules: Rules,
        kept: Kept,
        budget: float,
        ignored: Collection[str],
        allow: Sequence[str],
        say: Callable[[str], None],
    ) -> None:
        self.plan, self.until = plan, time.monotonic() + budget
        self._ignored, self._say = ignored, say
        self._info = plan.info(allow, ())
        self._most = len(self._info.seeds)
        self._numbers = {row: [n for n, run in enumerate(plan.runs) if run.row == row] for row in plan.rows}
        known = {}
        for row, numbers in self._numbers.items():
            known[row] = max((place for place, n in enumerate(numbers, 1) if plan.runs[n].spec.hash in kept), default=0)
        self._decisions = Decisions(self._info, rules, self._most, known)
        self._standings: list[Standing] = []
        self._compared = 0
        self._told: set[str] = set()

    def asked(self, found: Sequence[RunStatus]) -> list[str]:
        """The hashes of all runs that are asked for, seed by seed, given what exists of the plan's runs.

        Raises:
            NotComparable: The finished runs differ in more than the study's axes.
        """
        runs = self._light(found)
        finished = [run for run in runs if run.record]
        if len(finished) != self._compared:  # what cannot be compared need not be trained to the end
            check_comparable(StudyRecords(self._info, tuple(finished), {}))
            self._compared = len(finished)
        asked, self._standings = self._decisions.look(self._by_row(runs))
        for standing in self._standings:
            if standing.decided and standing.pair not in self._told:
                self._told.add(standing.pair)
                self._say(told(standing, self._most))
            elif standing.verdict and not standing.decided:  # its pairs went on for others' sake
                self._told.discard(standing.pair)
        places = range(max(asked.values()))
        numbers = [own[place] for place in places for row, own in self._numbers.items() if place < asked[row]]
        return [self.plan.runs[n].spec.hash for n in numbers]

    def asked_now(self, found: Sequence[RunStatus]) -> tuple[Plan, list[RunStatus]]:
        """The plan of the runs that are asked for, and what exists of them; tells nothing."""
        numbers = self._first(self._decisions.look(self._by_row(self._light(found)))[0])
        return replace(self.plan, runs=tuple(self.plan.runs[n] for n in numbers)), [found[n] for n in numbers]

    def heading(self) -> str:
        """How far the study is, such as `2 of 3 comparisons decided`."""
        return f"{sum(one.decided for one in self._standings)} of {len(self._standings)} comparisons decided"

    def counted(self, runs: Sequence[StudyRun]) -> tuple[Plan, tuple[StudyRun, ...]]:
        """The plan of the runs that count, and these: all that are asked for, but for the last of a row that never ended.

        Args:
            runs: All runs of the plan as the study keeps them, with why some could not begin.
        """
        asked, _ = self._decisions.look(self._by_row(runs))
        for row, numbers in self._numbers.items():
            while asked[row] > 1 and not (runs[numbers[asked[row] - 1]].record or runs[numbers[asked[row] - 1]].failure):
                asked[row] -= 1
        numbers = self._first(asked)
        return replace(self.plan, runs=tuple(self.plan.runs[n] for n in numbers)), tuple(runs[n] for n in numbers)

    def undecided(self, runs: Sequence[StudyRun]) -> list[str]:
        """A sentence for each comparison that is not decided, and why the call has ended before that."""
        _, standings = self._decisions.look(self._by_row(runs))
        found = [told(standing, self._most) for standing in standings if not standing.decided]
        if found and time.monotonic() >= self.until:
            found.append("the budget is spent, and no run was started after that; the same command goes on from here")
        return found

    def forecast_lines(self, runs: Sequence[StudyRun]) -> list[str]:
        """What a decision will cost, comparison by comparison, from all runs of the plan as the study keeps them."""
        by_row = self._by_row(runs)
        if not any(run.record for run in runs):
            return self._blind(by_row)
        costs = forecasts(self._decisions, by_row)
        seconds = seconds_by_row(self.plan, [run.record for run in runs])
        have = {row: sum(run.record is not None for run in own) for row, own in by_row.items()}
        needed = dict(self._decisions.look(by_row)[0])
        lines = ["to decide, with a probability of 80 %:"]
        for cost in costs:
            rows = (cost.standing.comparison.row, cost.standing.comparison.to)
            if cost.standing.decided:
                lines.append(f"  {told(cost.standing, self._most)}: decided")
                continue
            if cost.seeds is None:
                lines.append(f"  {cost.standing.pair}: no spread is known yet")
                continue
            more = {row: max(0, min(cost.seeds, self._most) - have[row]) for row in rows}
            needed |= {row: max(needed[row], min(cost.seeds, self._most)) for row in rows}
            lines.append(f"  {cost.standing.pair}: {_seeds(cost, self._most)}; {_runs(more, seconds)}")
        rest = {row: max(0, count - have[row]) for row, count in needed.items()}
        last = {row: self._most - have[row] for row in needed}
        lines.append(f"  all rows: {_runs(rest, seconds)}; at most, with {self._most} seeds each, {_runs(last, seconds)}")
        return lines

    def _by_row(self, runs: Sequence[StudyRun]) -> dict[str, list[StudyRun]]:
        """Row to its runs, in the order of the study's seeds."""
        return {row: [runs[n] for n in numbers] for row, numbers in self._numbers.items()}

    def _light(self, found: Sequence[RunStatus]) -> list[StudyRun]:
        """The runs of the plan with no more than their records."""
        return [
            StudyRun(
                row=run.row,
                seed=run.seed,
                choice=run.choice,
                name=at.folder.name,
                state=at.state,
                failure=at.failure,
                record=None if at.state in self._ignored else at.record,
            )
            for run, at in zip(self.plan.runs, found, strict=True)
        ]

    def _first(self, asked: Mapping[str, int]) -> list[int]:
        """The places in the plan of the first so many seeds of each row."""
        return [n for row, numbers in self._numbers.items() for n in numbers[: asked[row]]]

    def _blind(self, runs: Mapping[str, Sequence[StudyRun]]) -> list[str]:
        """What can be said where no run has finished."""
        rules = [standing.comparison.rule for standing in self._decisions.look(runs)[1]]
        if not rules:
            return []
        strictest = max(rules, key=lambda rule: rule.comparisons)
        any_margin = Rule("anytime", 1e-9, strictest.alpha, strictest.comparisons)
        one, two = (seeds_needed(1.0, effect, any_margin) for effect in (1.0, 2.0))
        rows = len(self.plan.rows)
        return [
            "no run has finished yet, so neither spread nor time is known:",
            f"  nothing is decided before {first_look(strictest)} seeds; a difference as large as its spread between seeds "
            f"takes about {one}, one twice as large {two}; at most {self._most} seeds of {rows} rows, {self._most * rows} runs",
        ]


def _seeds(cost: Forecast, most: int) -> str:
    """The seeds of a forecast in words."""
    assert cost.seeds is not None
    whence = " by the spread of other rows" if cost.borrowed else ""
    if cost.seeds > most:
        many = f"{MOST_SEEDS} seeds or more" if cost.seeds >= MOST_SEEDS else f"about {cost.seeds} seeds"
        return f"{many}{whence}, beyond the {most} that it may have"
    return f"about {cost.seeds} seeds{whence}"


def _runs(counts: Mapping[str, int], seconds: Mapping[str, float]) -> str:
    """So many runs of each row, and how long they take."""
    total = sum(counts.values())
    if not total:
        return "no run more"
    time_left = duration(sum(count * seconds[row] for row, count in counts.items()))
    return f"{total} run{'s' * (total != 1)} more, {time_left}"
