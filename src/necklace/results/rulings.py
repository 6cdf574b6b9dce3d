"""The verdicts on a study's rows: against the baseline, and against the control of their size."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from necklace.record import Record
from necklace.results.noise import components, noise_answers
from necklace.results.results import Results, Row, metric_by_seed
from necklace.results.stats import paired_differences
from necklace.results.verdicts import Rule, RuleKind, Verdict, divisor, in_words, verdict
from necklace.study.rules import CONTROL, Rules
from necklace.study.store import StudyRecords, StudyRun

_OF_ACCURACY = ("test/acc", "test/balanced_acc", "test/class_acc/")


def with_verdicts(rows: Sequence[Row], study: StudyRecords) -> list[Row]:
    """The rows with their verdicts, each by its own share of alpha; as they are where the study has no rules.

    Args:
        rows: With their differences and controls.
        study: The study and its runs.
    """
    rules, baseline = study.rules, study.info.baseline
    if rules is None or baseline is None:
        return list(rows)
    runs = {row.name: row.runs for row in rows}
    decided = []
    for row in rows:
        if row.difference:
            row = replace(row, verdict=_verdict(row, runs[baseline], baseline, study, rules))
        if row.control:
            found = _verdict(row, runs[row.control.name], CONTROL, study, rules)
            row = replace(row, control=replace(row.control, verdict=found))
        decided.append(row)
    return decided


def rule_of(rules: Rules, row: str, to: str) -> Rule:
    """By which rule a comparison is decided.

    Args:
        rules: Those of the study.
        row: Name of the row.
        to: Name of the baseline, or `rules.CONTROL`.
    """
    setting, taken_up = rules.settings[-1], rules.of(row, to)
    # One that was never taken up, such as the baseline's with its control, comes last.
    shares = divisor(taken_up.earlier, taken_up.new) if taken_up else divisor(len(rules.compared), 1)
    kind: RuleKind = "anytime" if setting.rule == "anytime" else "fixed"
    return Rule(kind, setting.margin, setting.alpha, shares)


def sentences(results: Results) -> list[str]:
    """The answer of a study: a sentence for each row, such as `sppf against none: better by 0.4 to 1.1 points, 12 seeds`.

    Rows of which something is decided come first. A row that differs from others in its source of noise only is
    asked how far it spreads, not whether it is better.

    Args:
        results: Those of the study.
    """
    decided, undecided = [], []
    noise = noise_answers(components(results.study.metric, results.rows))
    for row in results.rows:
        if row.name in noise:
            decided.append(noise[row.name])
            continue
        pairs = [(f"against {results.study.baseline}", row.verdict)]
        if row.control:
            name = "1x1 convolutions of its size" if row.control.name.startswith("conv, ") else row.control.name
            pairs.append((f"against {name}", row.control.verdict))
        parts = [f"{pair}: {_in_full(found)}" for pair, found in pairs if found]
        said = decided if any(found and found.kind != "undecided" for _, found in pairs) else undecided
        said += [f"{row.name} {'; '.join(parts)}"] if parts else []
    return decided + undecided


def _in_full(found: Verdict) -> str:
    """A verdict with its unit and its number of seeds."""
    words, seeds = in_words(found), f"{found.n} seed{'s' * (found.n != 1)}"
    if found.kind == "undecided":
        return words.replace("undecided", f"undecided after {seeds}", 1)
    return f"{words}{' points' if found.kind in ('better', 'worse') else ''}, {seeds}"


def _verdict(row: Row, others: Sequence[StudyRun], to: str, study: StudyRecords, rules: Rules) -> Verdict:
    """The verdict on a row's difference to the runs of another row."""
    found = verdict_between(row.runs, others, rule_of(rules, row.name, to), study.info.metric)
    if rules.left_out.keys() & {row.name, others[0].row}:  # a choice of seeds is no sample
        return Verdict("undecided", found.low, found.high, found.n)
    return found


def verdict_between(runs: Sequence[StudyRun], others: Sequence[StudyRun], rule: Rule, metric: str) -> Verdict:
    """The verdict on the difference of a row's runs to those of another, over the seeds that both have, at least one.

    Args:
        runs: Those of the row.
        others: Those of the other.
        rule: What decides.
        metric: Name of a metric of the records.
    """
    own, other = metric_by_seed(runs, metric), metric_by_seed(others, metric)
    shared = [seed for seed in own if seed in other]
    differences = 100 * paired_differences(np.array([own[s] for s in shared]), np.array([other[s] for s in shared]))
    floor = resolution([run.record for run in runs if run.record], metric)
    one, two = ({run.seed: run.record for run in those if run.record} for those in (runs, others))
    same = all(one[seed].weights_hash == two[seed].weights_hash for seed in shared)
    return verdict(differences, rule, floor, same)


def resolution(records: Sequence[Record], metric: str) -> float:
    """What one test image counts, in points: an accuracy says nothing of a spread below. 0 for other metrics."""
    if not metric.startswith(_OF_ACCURACY):
        return 0.0
    return 100 / max(1, min(record.data["images"].get("test", 1) for record in records))
