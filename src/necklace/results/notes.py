"""The sentences below a study's table: what differs, what is missing, and what so few seeds cannot show."""

import math
from collections.abc import Sequence

from scipy import stats

from necklace.data.reasons import skipped_phrase
from necklace.results.notes_metric import metric_notes
from necklace.results.results import Row, SamePair
from necklace.results.stats import seeds_needed, smallest_p
from necklace.results.streams import streams_notes
from necklace.study.rules import CONTROL, Setting
from necklace.study.store import StudyRecords, StudyRun

# A spread is called wider than the baseline's if an F test over all rows says so at this level: in few seeds spreads vary much.
LEVEL = 0.01


def notes_below(
    study: StudyRecords, rows: Sequence[Row], same: SamePair | str | None, noise: float | None, differences: Sequence[str]
) -> tuple[str, ...]:
    """All notes of a study but those on the missing runs of the table, see `missing_runs`.

    Args:
        study: The study and its runs.
        rows: The rows of its results, with differences and controls.
        same: The A/A pair, a sentence why there is none, or None if the study names none.
        noise: The baseline's standard deviation between seeds, or None.
        differences: Sentences about the differences between runs that were allowed.
    """
    return (
        *_noise(same, noise, rows),
        *_wider(rows, study.info.baseline),
        *_verdicts(study, rows),
        *([] if _anytime(study) else _power(rows, study.info.baseline)),
        *_equal_differences(rows),
        *streams_notes(rows),
        *_controls(rows, _anytime(study)),
        *_cost_conditions(study),
        *study.info.dropped,
        *differences,
        *_not_chosen(study, rows),
        *_nonfinite_gates(study),
        *metric_notes(study, rows),
        *_data(study),
        *_stale(study),
        *_set_aside(study),
    )


def missing_runs(rows: Sequence[Row]) -> tuple[str, ...]:
    """A sentence for each run of the table that has not finished."""
    return tuple(f"{run.row}, seed {run.seed}: {_why_missing(run)}" for row in rows for run in row.runs if run.record is None)


def _why_missing(run: StudyRun) -> str:
    if not run.failure:
        return "missing"
    return f"{ {'failed': 'failed', 'damaged': 'set aside'}.get(run.state, 'missing') }: {run.failure}"


def _noise(same: SamePair | str | None, noise: float | None, rows: Sequence[Row]) -> list[str]:
    """The A/A pair beside the noise floor."""
    floor = "" if noise is None else f"The noise floor, the baseline's spread between seeds, is {100 * noise:.2f} points"
    if not isinstance(same, SamePair):
        return [text for text in (same, floor and f"{floor}.") if text]
    start = (
        f"{same.first} and {same.second} compute the same function from the same weights{_rounded(same, rows)}, so what "
        "differs is numerical noise:"
    )
    if not any(same.gaps.values()):
        return [f"{start} nothing, on {len(same.gaps)} of {len(same.gaps)} seeds.{f' {floor}.' if floor else ''}"]
    listed = ", ".join(f"{100 * gap:+.2f} (seed {seed})" for seed, gap in same.gaps.items())
    text = f"{start} {listed} points. Two runs may differ by as much for no other reason"
    if interval := same.difference.interval:
        low, high = 100 * interval.low, 100 * interval.high
        text += f", and means over {same.difference.n} seeds by the pair's 95 % t interval, {low:+.2f} to {high:+.2f}"
    # Each of the two rows has this noise, so their gap has twice its variance.
    of_one_run = math.sqrt(math.fsum(gap**2 for gap in same.gaps.values()) / len(same.gaps) / 2)
    if noise is not None and noise < of_one_run:
        floor += f", less than one run's numerical noise ({100 * of_one_run:.2f}, from the pair): too few seeds to rely on"
    return [f"{text}.{f' {floor}.' if floor else ''}"]


def _wider(rows: Sequence[Row], baseline: str | None) -> list[str]:
    """The row with the largest spread, where the baseline's says nothing of it, such as that of one that stays at chance."""
    spreads = {row.name: row.summary for row in rows if row.summary and row.summary.sd}
    base = spreads.pop(baseline or "", None)
    if base is None or not base.sd or not spreads:
        return []
    name, widest = max(spreads.items(), key=lambda spread: spread[1].sd or 0)
    sd = widest.sd or 0.0
    if stats.f.sf((sd / base.sd) ** 2, widest.n - 1, base.n - 1) * len(spreads) > LEVEL:
        return []
    return [f"The noise floor is not that of every row: {name} has a spread between seeds of {100 * sd:.2f} points."]


def _rounded(same: SamePair, rows: Sequence[Row]) -> str:
    """Whether the initial weights of a row of the A/A pair were moved in their last place."""
    records = [run.record for row in rows if row.name in (same.first, same.second) for run in row.runs if run.record]
    moved = any((record.config.get("streams") or {}).get("rounding") for record in records)
    return ", moved by at most one unit in the last place" if moved else ""


def _power(rows: Sequence[Row], baseline: str | None) -> list[str]:
    """Why there are no stars, and with how many seeds there could be some."""
    comparisons = sum(row.name != baseline for row in rows)
    needed = seeds_needed(max(1, comparisons))
    short = sorted({row.difference.n for row in rows if row.difference and row.difference.n < needed})
    if not short:
        return []
    floor = min(1.0, smallest_p(short[0]) * comparisons)
    over = f"over {comparisons} comparison{'s' * (comparisons > 1)}"
    return [
        f"No stars with n = {' or '.join(map(str, short))}: {over}, an exact paired test of n = {short[0]} cannot go below "
        f"p = {floor:.2g} after Holm's correction, whatever the data; {needed} seeds could reach 0.05. A t interval may leave "
        "out 0 all the same: it takes the differences of the seeds to be normally distributed, which so few cannot show, while "
        "the exact test assumes nothing of the kind."
    ]


def _anytime(study: StudyRecords) -> bool:
    return study.rules is not None and study.rules.settings[-1].rule == "anytime"


def _verdicts(study: StudyRecords, rows: Sequence[Row]) -> list[str]:
    """What decides, what it took into account, and what changed after there were results."""
    if study.rules is None or study.info.baseline is None or not study.rules.compared:
        return []
    settings, now = study.rules.settings, study.rules.settings[-1]
    if _anytime(study):
        how = "anytime-valid intervals (a paired t confidence sequence), so the number of seeds may depend on the results"
        normal = "They take the differences of the seeds to be normally distributed."
    else:
        how = "t intervals at the number of seeds that was set"
        normal = (
            "They take the differences of the seeds to be normally distributed, which few cannot show; a star asks for more. "
            "Seeds that are added because of what was seen make them wrong more often than alpha says."
        )
    points, many = "point" if now.margin == 1 else "points", len(study.rules.compared)
    notes = [
        f"Verdicts: {how}; margin {now.margin:g} {points}, alpha {now.alpha:g} over {many} comparison{'s' * (many != 1)} "
        f"and all that come later. {normal}"
    ]
    gone = {(one.row, one.to) for one in study.rules.compared} - {
        (row, to) for row in study.info.rows for to in (study.info.baseline, CONTROL)
    }
    if gone:
        names = ", ".join(sorted({row for row, _ in gone})[:3]) + (" and others" if len({row for row, _ in gone}) > 3 else "")
        notes.append(f"{len(gone)} of the comparisons are not in the table any more, and count all the same: {names}.")
    later = sum(one.earlier > 0 for one in study.rules.compared)
    if later:
        notes.append(f"{later} of the comparisons were taken up after there were results, and have a smaller share of alpha.")
    for before, after in zip((None, *settings), settings, strict=False):
        if after.records:
            notes.append(_changed(before, after))
    for row, seeds in study.rules.left_out.items():
        listed = ", ".join(map(str, seeds))
        notes.append(
            f"{row}, seed{'s' * (len(seeds) > 1)} {listed}: finished, and left out of the table. A choice of seeds is no "
            "sample, so this row's comparisons are undecided."
        )
    same = [row.name for row in rows if row.verdict and row.verdict.one_computation]
    if same:
        notes.append(f"{'; '.join(same)}: the baseline's weights, bit for bit, on every seed: they are one computation.")
    return notes


def _changed(before: Setting | None, after: Setting) -> str:
    """When a setting was made that does not stand since before the first result."""
    when = f"after {after.records} run{'s' * (after.records > 1)} had finished"
    if before is None:
        return (
            f"Rule ({after.rule}), margin ({after.margin:g}) and alpha ({after.alpha:g}) were set {when}, not before the first."
        )
    names = [name for name in ("rule", "margin", "alpha") if getattr(before, name) != getattr(after, name)]
    parts = [f"{name} from {_plain(getattr(before, name))} to {_plain(getattr(after, name))}" for name in names]
    return f"Changed {when}: {', '.join(parts)}."


def _plain(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:g}"


def _equal_differences(rows: Sequence[Row]) -> list[str]:
    """Why a difference has no interval although there are several seeds."""
    names = [row.name for row in rows if row.difference and row.difference.n > 1 and row.difference.interval is None]
    if not names:
        return []
    return [f"No interval for {'; '.join(names)}: the same difference on every seed says nothing of its spread."]


def _controls(rows: Sequence[Row], corrected: bool) -> list[str]:
    """The rows with a control, and their control."""
    pairs = "; ".join(f"{row.name} to '{row.control.name}'" for row in rows if row.control)
    how = (
        "Paired by seed"
        if corrected
        else "Paired by seed; the intervals are without correction for their number, the verdicts with it"
    )
    return [f"Controls of a neck's own size: {pairs}. {how}."] if pairs else []


def _cost_conditions(study: StudyRecords) -> list[str]:
    """Where the costs were measured."""
    where = sorted({f"{cost['device']} with {cost['threads']} CPU threads" for cost in study.costs.values()})
    return [f"Latency, training speed and peak memory: {'; '.join(where)}, rows in turn within one run."] if where else []


def _not_chosen(study: StudyRecords, rows: Sequence[Row]) -> list[str]:
    """The missing runs with options that were not chosen: whether they would have been is unknown."""
    chosen = {row.name: row.chosen for row in rows}
    return [
        f"{run.row}, seed {run.seed}, {', '.join(f'{key}={value}' for key, value in run.choice.items())} (not chosen): "
        + _why_missing(run)
        for run in study.runs
        if run.record is None and run.choice != chosen[run.row]
    ]


def _nonfinite_gates(study: StudyRecords) -> list[str]:
    return [
        f"{run.row}, seed {run.seed}: the gates of {m['layer']}, {m['context']} were NaN or infinite at step {m['step']}."
        for run in study.runs
        if run.record and run.record.gates
        for m in run.record.gates["nonfinite"]
    ]


def _data(study: StudyRecords) -> list[str]:
    """What the runs say of their data: files skipped, classes absent, images in two splits.

    A sentence that does not hold for all runs names its rows, or its runs where a row has others.
    """
    said: dict[str, list[StudyRun]] = {}
    finished = [run for run in study.runs if run.record]
    for run in finished:
        data = run.record.data if run.record else {}
        phrase = skipped_phrase(data.get("skipped", ()))
        notes: list[str] = [*([f"data: {phrase}"] if phrase else []), *data.get("notes", ())]
        for note in dict.fromkeys(notes):
            said.setdefault(note, []).append(run)
    sentences = []
    for note, runs in said.items():
        named: list[str] = []
        for row in dict.fromkeys(run.row for run in runs):
            those = [run for run in runs if run.row == row]
            whole = len(those) == sum(run.row == row for run in finished)
            named += [row] if whole else [f"{row}, seed {run.seed}" for run in those]
        where = "" if len(runs) == len(finished) else f" ({'; '.join(named)})"
        sentences.append(f"{note[:1].upper()}{note[1:]}{where}.")
    return sentences


def _stale(study: StudyRecords) -> list[str]:
    stale = sum(run.state == "stale" for run in study.runs)
    if not stale:
        return []
    sentences = [f"{stale} of {len(study.runs)} runs are stale: the code has changed since they were trained."]
    again: dict[str, dict[bool, list[str]]] = {}
    for run in study.runs:
        if run.state == "stale" and run.again:
            commit = run.again.get("commit", "")[:7]
            code = f"the code of commit {commit}" if commit.isalnum() else "other code"
            outcomes = again.setdefault(code, {True: [], False: []})
            outcomes[run.again.get("equal") == "yes"].append(f"{run.row}, seed {run.seed}")
    for code, outcomes in again.items():
        said = [
            f"{words} ({'; '.join(outcomes[equal])})"
            for equal, words in ((True, "equal weights, bit for bit"), (False, "other weights or metrics"))
            if outcomes[equal]
        ]
        sentences.append(f"Trained again with {code}: {', '.join(said)}.")
    return sentences


def _set_aside(study: StudyRecords) -> list[str]:
    aside = sum(run.state == "damaged" for run in study.runs)
    if not aside:
        return []
    return [f"{aside} of {len(study.runs)} runs are set aside: their records are damaged, and count for nothing here."]
