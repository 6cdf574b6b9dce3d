"""From a study's records to its results: the statistics of each row."""

import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from necklace.record import Record, unpack_bits
from necklace.results.comparability import check_comparable
from necklace.results.evidence import evidence_interval
from necklace.results.noise import components, noise_notes
from necklace.results.notes import notes_below
from necklace.results.results import Control, Results, Row, RowCost, SamePair, metric_by_seed
from necklace.results.rulings import with_verdicts
from necklace.results.stats import Difference, Interval, holm, image_interval, paired_difference, summarise
from necklace.seeding import numpy_generator
from necklace.study.store import StudyInfo, StudyRecords, StudyRun
from necklace.study.study_file import MATCH_WITHIN

Runs = dict[str, tuple[StudyRun, ...]]
"""Row to its runs with the chosen options, in order of seed."""


def analyse(study: StudyRecords, differences: list[str] | None = None) -> Results:
    """The results of a study. All numbers of a row come from the same runs, and those of a run from the same weights.

    Args:
        study: The study and its runs.
        differences: What `check_comparable` gave for this study; None has it checked here.

    Raises:
        NotComparable: The runs differ in more than the study's axes.
    """
    info = study.info
    differences = check_comparable(study) if differences is None else differences
    runs: Runs = {}
    chosen: dict[str, dict[str, Any]] = {}
    for name in info.rows:
        own = [run for run in study.runs if run.row == name]
        chosen[name] = _chosen(own, info.metric.replace("test/", "val/"))
        kept = (run for run in own if run.choice == chosen[name])
        runs[name] = tuple(sorted(kept, key=lambda run: info.seeds.index(run.seed)))
    rows = [_row(name, runs, study, chosen[name]) for name in info.rows]
    rows = _with_holm(rows, info.baseline)
    rows = [replace(row, control=_control(row, rows, info)) for row in rows]
    rows = with_verdicts(rows, study)
    values = metric_by_seed(runs[info.baseline], info.metric) if info.baseline else {}
    noise = summarise(np.array(list(values.values()))).sd if values else None
    same = _same_pair(runs, chosen, info)
    return Results(
        study=info,
        rows=tuple(rows),
        noise=noise,
        same=same if isinstance(same, SamePair) else None,
        notes=(*notes_below(study, rows, same, noise, differences), *noise_notes(components(info.metric, rows))),
        hardware=_hardware([run.record for row in rows for run in row.runs if run.record]),
        commands=tuple(
            shlex.join(["python", "ablate.py", info.name, *more])
            for more in (info.arguments, ["--verify"], ["--reproduce", "1"])
        ),
        setting=study.rules.settings[-1] if study.rules and info.baseline else None,
        comparisons=len(study.rules.compared) if study.rules else 0,
    )


def _chosen(runs: Sequence[StudyRun], metric: str) -> dict[str, Any]:
    """The choice with the best mean on val, among those of which most seeds have finished; of equals, the first."""
    best: tuple[int, float] | None = None
    chosen = runs[0].choice
    for choice in [run.choice for run in runs if run.seed == runs[0].seed and run.choice]:
        own = list(metric_by_seed([run for run in runs if run.choice == choice], metric).values())
        score = len(own), float(np.mean(own)) if own else -math.inf
        if best is None or score > best:
            best, chosen = score, choice
    return chosen


def _row(name: str, runs: Runs, study: StudyRecords, chosen: dict[str, Any]) -> Row:
    own, metric, baseline = runs[name], study.info.metric, study.info.baseline
    values = metric_by_seed(own, metric)
    difference = images = None
    if baseline is not None and name != baseline:
        difference = _paired(own, runs[baseline], metric, name)
        images = _over_images(own, runs[baseline], metric, name)
    records = [run.record for run in own if run.record]
    ends = {key.removeprefix(f"{metric}@") for record in records for key in record.metrics}
    sides = sorted(int(end) for end in ends if end.isdecimal())
    return Row(
        name=name,
        runs=own,
        summary=summarise(np.array(list(values.values()))) if values else None,
        difference=difference,
        p_holm=None,
        images=images,
        control=None,
        by_size={side: float(np.mean(list(metric_by_seed(own, f"{metric}@{side}").values()))) for side in sides},
        cost=_cost(records[0], study.costs.get(name, {})) if records else None,
        chosen=chosen,
    )


def _cost(record: Record, measured: dict[str, Any]) -> RowCost:
    neck = record.cost["neck"]
    return RowCost(
        params=record.total("params"),
        macs=record.total("macs"),
        neck_params=neck["params"],
        neck_macs=neck["macs"],
        latency_ms=measured.get("latency_ms"),
        train_images_per_s=measured.get("train_images_per_s"),
        peak_memory_mib=measured.get("peak_memory_mib"),
    )


def _paired(row: Sequence[StudyRun], baseline: Sequence[StudyRun], metric: str, name: str) -> Difference | None:
    own, base = metric_by_seed(row, metric), metric_by_seed(baseline, metric)
    shared = [seed for seed in own if seed in base]
    if not shared:
        return None
    # A stream for each row: adding or removing a row changes no other row's interval.
    generator = numpy_generator(0, f"bootstrap over seeds: {name}")
    return paired_difference(np.array([own[s] for s in shared]), np.array([base[s] for s in shared]), generator)


def _over_images(row: Sequence[StudyRun], baseline: Sequence[StudyRun], metric: str, name: str) -> Interval | None:
    tested = {run.record.data["digest"].get("test") for run in (*row, *baseline) if run.record}
    if len(tested) > 1:  # other images cannot be paired
        return None
    generator = numpy_generator(0, f"bootstrap over images: {name}")
    if metric != "test/acc":
        return evidence_interval(row, baseline, metric, generator)
    own, base = _correct(row), _correct(baseline)
    shared = [seed for seed in own if seed in base]
    if not shared:
        return None
    return image_interval(np.stack([own[s] for s in shared]), np.stack([base[s] for s in shared]), generator)


def _correct(runs: Sequence[StudyRun]) -> dict[int, np.ndarray]:
    """Seed to bool [N], of the runs that were tested."""
    return {
        run.seed: unpack_bits(run.record.test_correct, run.record.data["images"]["test"])
        for run in runs
        if run.record and run.record.test_correct
    }


def _with_holm(rows: Sequence[Row], baseline: str | None) -> list[Row]:
    """The rows with p values that are corrected over all rows but the baseline."""
    compared = [row for row in rows if row.name != baseline]
    adjusted = holm([row.difference.p if row.difference else None for row in compared])
    by_name = dict(zip((row.name for row in compared), adjusted, strict=True))
    return [replace(row, p_holm=by_name.get(row.name)) for row in rows]


def _control(row: Row, rows: Sequence[Row], info: StudyInfo) -> Control | None:
    """The matched row whose neck has the row's size, and the difference to it."""
    necks = {
        other.name: {"params": other.cost.neck_params, "macs": other.cost.neck_macs} for other in rows if other.cost is not None
    }
    name = control_of(row.name, necks, info.controls)
    if name is None:
        return None
    runs = next(other.runs for other in rows if other.name == name)
    difference = _paired(row.runs, runs, info.metric, f"{row.name} to {name}")
    return Control(name, difference) if difference else None


def control_of(row: str, necks: Mapping[str, Mapping[str, int]], controls: Mapping[str, str]) -> str | None:
    """The matched row whose neck has a row's size, the nearest if there are several; None for matched rows, and without one.

    Args:
        row: Name of the row.
        necks: Row to `params` and `macs` of its neck, of the rows where they are known.
        controls: Matched row to what was matched, `params` or `macs`.
    """
    if row not in necks or row in controls:
        return None
    distances = {}
    for other, matched in controls.items():
        if other in necks:
            own, its = necks[row][matched], necks[other][matched]
            distances[other] = abs(its / own - 1) if own else math.inf
    nearest = min(distances, key=distances.__getitem__, default=None)
    return None if nearest is None or distances[nearest] > MATCH_WITHIN else nearest


def _same_pair(runs: Runs, chosen: dict[str, dict[str, Any]], info: StudyInfo) -> SamePair | str | None:
    """The A/A pair, or a sentence why its two rows do not measure numerical noise; None where there is no pair yet."""
    if not info.same:
        return None
    first, second = info.same
    difference = _paired(runs[second], runs[first], info.metric, "same")
    if difference is None:
        return None
    values = [metric_by_seed(runs[name], info.metric) for name in (first, second)]
    gaps = {seed: values[1][seed] - values[0][seed] for seed in values[0] if seed in values[1]}
    started = [{run.seed: run.record.initial_hash for run in runs[name] if run.record} for name in (first, second)]
    if any(started[0][seed] != started[1][seed] for seed in gaps):
        return f"{first} and {second} do not start from the same weights: no measure of numerical noise."
    if chosen[first] != chosen[second]:
        return f"{first} and {second} were given different {', '.join(chosen[first])}: no measure of numerical noise."
    ended = [{run.seed: run.record.weights_hash for run in runs[name] if run.record} for name in (first, second)]
    if all(ended[0][seed] == ended[1][seed] for seed in gaps):
        return f"{first} and {second} ended in equal weights, bit for bit, on every seed: no measure of numerical noise."
    return SamePair(first, second, gaps, difference)


def _hardware(records: Sequence[Record]) -> str:
    devices = sorted({f"{r.device['name']} ({r.device['kind']}, {r.device['threads']} CPU threads)" for r in records})
    versions = sorted({f"torch {r.versions['torch']}, Python {r.versions['python']}" for r in records})
    return "; ".join([*devices, *versions])
