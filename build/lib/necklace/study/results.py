"""What a study found, as plain values: rows of runs with their statistics. Tables, figures and the report only lay this out."""

import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from necklace.record import Record, unpack_bits
from necklace.streams import numpy_generator
from necklace.study.archive import Archive, ArchivedCell
from necklace.study.fairness import check_fairness
from necklace.study.stats import (
    Difference,
    Interval,
    Summary,
    holm,
    image_interval,
    paired_difference,
    seeds_needed,
    smallest_p,
    summarise,
)


@dataclass(frozen=True)
class Run:
    """One cell of a study.

    Attributes:
        row: Name of its row.
        seed: Its seed.
        cell: Name of its folder.
        record: What it left behind, or None if it has not finished.
        curve: Column of the learning curve to its values by epoch, such as `{"epoch": [0, 1], "val/acc": [0.3, 0.5]}`; NaN
            where an epoch has no such value. Empty without a record.
        failure: The last line of the traceback of a failed run.
        pictures: As in `ArchivedCell`.
        thumbnails: As in `ArchivedCell`.
    """

    row: str
    seed: int
    cell: str
    record: Record | None
    curve: dict[str, list[float]]
    failure: str | None
    pictures: dict[str, Any] = field(default_factory=dict)
    thumbnails: dict[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True)
class RowCost:
    """What a row's model costs.

    Attributes:
        params: Parameters in all.
        macs: Multiply-adds for one image in all.
        neck_params: Those of the neck.
        neck_macs: Those of the neck.
        latency_ms: Median time of a forward pass of one image, None where it was not measured.
        train_images_per_s: Training speed on an otherwise idle machine, None where it was not measured.
        peak_memory_mib: Peak memory of a process that trains it, None where it was not measured.
    """

    params: int
    macs: int
    neck_params: int
    neck_macs: int
    latency_ms: float | None
    train_images_per_s: float | None
    peak_memory_mib: float | None


@dataclass(frozen=True)
class Row:
    """One row of the table. Metrics are shares in [0, 1].

    Attributes:
        name: Such as `focal, focal_level=2`.
        runs: One for each seed, finished or not, in order of seed.
        summary: Mean, standard deviation and number of the finished runs; None if there is none.
        difference: To the baseline, paired by seed; None for the baseline and where no seed is shared.
        p_holm: The difference's p value after Holm's correction over rows; None where it has no p value.
        images: Interval of the difference to the baseline for these weights, over images; None for the baseline and without
            shared test images.
        by_size: Side of the test images in pixels to the metric's mean over seeds, where the study judges by size.
        cost: None if no run finished.
        chosen: What was chosen for this row on val, such as `{"optimizer.lr": 0.003}`.
    """

    name: str
    runs: tuple[Run, ...]
    summary: Summary | None
    difference: Difference | None
    p_holm: float | None
    images: Interval | None
    by_size: dict[int, float]
    cost: RowCost | None
    chosen: dict[str, float | str]


@dataclass(frozen=True)
class Results:
    """All that a study's table, figures and report show.

    Attributes:
        name: The study's.
        question: In a sentence or more, as the study's author wrote it.
        metric: The test metric, such as `test/acc`.
        baseline: Name of the baseline's row, or None where the runs are just a set.
        rows: In the study's order.
        seeds: The study's seeds.
        noise: The baseline's standard deviation between seeds, or None with fewer than two.
        same: The A/A pair, two rows that compute the same function, with their difference; None if the study names none.
        notes: Sentences that belong under the table: differences that were allowed, runs that are missing, what n cannot show.
        hardware: Where the runs were made, in words.
        commands: How to reproduce, a shell command each.
    """

    name: str
    question: str
    metric: str
    baseline: str | None
    rows: tuple[Row, ...]
    seeds: tuple[int, ...]
    noise: float | None
    same: tuple[str, str, Difference] | None
    notes: tuple[str, ...]
    hardware: str
    commands: tuple[str, ...]


def analyse(archive: Archive) -> Results:
    """What an archive says. Every figure of a row comes from the same cells, and each cell's from the same weights.

    Raises:
        Unfair: The cells differ in more than the study's axes.
    """
    notes = check_fairness(archive)
    notes = [*archive.dropped, *notes]
    runs: dict[str, tuple[Run, ...]] = {}
    chosen: dict[str, dict[str, float | str]] = {}
    for name in archive.rows:
        cells = [cell for cell in archive.cells if cell.row == name]
        chosen[name] = _chosen(cells, archive.metric.replace("test/", "val/"))
        kept = sorted((cell for cell in cells if cell.choice == chosen[name]), key=lambda cell: archive.seeds.index(cell.seed))
        runs[name] = tuple(_run(cell) for cell in kept)
    rows = [_row(name, runs, archive, chosen[name]) for name in archive.rows]
    adjusted = holm([row.difference.p if row.difference else None for row in rows])
    rows = [replace(row, p_holm=p) for row, p in zip(rows, adjusted, strict=True)]
    values = figures(runs[archive.baseline], archive.metric) if archive.baseline else {}
    noise = summarise(np.array(list(values.values()))).sd if values else None
    same = None
    if archive.same:
        difference = _paired(runs[archive.same[1]], runs[archive.same[0]], archive.metric, "same")
        same = (*archive.same, difference) if difference else None
    notes += [
        f"{cell.row}, seed {cell.seed}, {', '.join(f'{key}={value}' for key, value in cell.choice.items())} (not chosen): "
        + (f"failed: {cell.failure}" if cell.failure else "missing")
        for cell in archive.cells
        if cell.record is None and cell.choice != chosen[cell.row]
    ]
    notes += [
        f"{cell.row}, seed {cell.seed}: the gates of {m['layer']}, {m['context']} were NaN or infinite at step {m['step']}."
        for cell in archive.cells
        if cell.record and cell.record.gates
        for m in cell.record.gates["nonfinite"]
    ]
    stale = sum(cell.state == "stale" for cell in archive.cells)
    if stale:
        notes.append(f"{stale} of {len(archive.cells)} cells are stale: the code has changed since they were trained.")
    return Results(
        name=archive.name,
        question=archive.question,
        metric=archive.metric,
        baseline=archive.baseline,
        rows=tuple(rows),
        seeds=archive.seeds,
        noise=noise,
        same=same,
        notes=(*_numerical_noise(same, runs, noise, archive), *_power(rows), *_conditions(archive), *notes),
        hardware=_hardware([run.record for row in rows for run in row.runs if run.record]),
        commands=tuple(
            shlex.join(["python", "ablate.py", archive.name, *more])
            for more in (archive.arguments, ["--verify"], ["--reproduce", "1"])
        ),
    )


def figures(runs: Sequence[Run], metric: str) -> dict[int, float]:
    """Seed to figure, of the runs that have it."""
    return {run.seed: run.record.figures[metric] for run in runs if run.record and metric in run.record.figures}


def _run(cell: ArchivedCell) -> Run:
    curve = {name: [math.nan if value is None else value for value in column] for name, column in cell.curve.items()}
    return Run(cell.row, cell.seed, cell.cell, cell.record, curve, cell.failure, cell.pictures, cell.thumbnails)


def _chosen(cells: Sequence[ArchivedCell], metric: str) -> dict[str, float | str]:
    """The choice with the best mean on val, among those of which most seeds have finished; of equals, the first."""
    best: tuple[int, float] | None = None
    chosen = cells[0].choice
    for choice in [cell.choice for cell in cells if cell.seed == cells[0].seed and cell.choice]:
        own = [cell.record.figures[metric] for cell in cells if cell.choice == choice and cell.record]
        score = len(own), float(np.mean(own)) if own else -math.inf
        if best is None or score > best:
            best, chosen = score, choice
    return chosen


def _row(name: str, runs: dict[str, tuple[Run, ...]], archive: Archive, chosen: dict[str, float | str]) -> Row:
    own, metric = runs[name], archive.metric
    values = figures(own, metric)
    difference = images = None
    if archive.baseline is not None and name != archive.baseline:
        difference = _paired(own, runs[archive.baseline], metric, name)
        if metric == "test/acc":  # the only metric that is a mean over images
            images = _over_images(own, runs[archive.baseline], name)
    records = [run.record for run in own if run.record]
    sides = sorted({int(key.partition("@")[2]) for record in records for key in record.figures if key.startswith(f"{metric}@")})
    return Row(
        name=name,
        runs=own,
        summary=summarise(np.array(list(values.values()))) if values else None,
        difference=difference,
        p_holm=None,
        images=images,
        by_size={side: float(np.mean(list(figures(own, f"{metric}@{side}").values()))) for side in sides},
        cost=_cost(records[0], archive.costs.get(name, {})) if records else None,
        chosen=chosen,
    )


def _cost(record: Record, measured: dict[str, float]) -> RowCost:
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


def _paired(row: Sequence[Run], baseline: Sequence[Run], metric: str, name: str) -> Difference | None:
    own, base = figures(row, metric), figures(baseline, metric)
    shared = [seed for seed in own if seed in base]
    if not shared:
        return None
    # A stream for each row: a row more or less changes no other row's interval.
    generator = numpy_generator(0, f"bootstrap over seeds: {name}")
    return paired_difference(np.array([own[s] for s in shared]), np.array([base[s] for s in shared]), generator)


def _over_images(row: Sequence[Run], baseline: Sequence[Run], name: str) -> Interval | None:
    own, base = _correct(row), _correct(baseline)
    shared = [seed for seed in own if seed in base]
    tested = {run.record.data["digest"].get("test") for run in (*row, *baseline) if run.record}
    if not shared or len(tested) > 1:  # other images cannot be paired
        return None
    generator = numpy_generator(0, f"bootstrap over images: {name}")
    return image_interval(np.stack([own[s] for s in shared]), np.stack([base[s] for s in shared]), generator)


def _correct(runs: Sequence[Run]) -> dict[int, np.ndarray]:
    """Seed to bool [N], of the runs that were tested."""
    return {
        run.seed: unpack_bits(run.record.test_correct, run.record.data["images"]["test"])
        for run in runs
        if run.record and run.record.test_correct
    }


def _numerical_noise(
    same: tuple[str, str, Difference] | None, runs: dict[str, tuple[Run, ...]], noise: float | None, archive: Archive
) -> list[str]:
    """The A/A pair beside the noise floor, in a sentence."""
    floor = "" if noise is None else f" The noise floor, the baseline's spread between seeds, is {100 * noise:.2f} points."
    if same is None:
        return [floor.strip()] if floor else []
    first, second = (figures(runs[name], archive.metric) for name in same[:2])
    gaps = {seed: 100 * (second[seed] - first[seed]) for seed in first if seed in second}
    started = [{run.seed: run.record.initial_hash for run in runs[name] if run.record} for name in same[:2]]
    if any(started[0][seed] != started[1][seed] for seed in gaps):
        return [f"{same[0]} and {same[1]} do not start from the same weights: no measure of numerical noise.{floor}"]
    start = f"{same[0]} and {same[1]} compute the same function from the same weights, so what differs is numerical noise:"
    if not any(gaps.values()):
        return [f"{start} nothing, on {len(gaps)} of {len(gaps)} seeds.{floor}"]
    listed = ", ".join(f"{gap:+.2f} (seed {seed})" for seed, gap in gaps.items())
    return [f"{start} {listed} points; no smaller difference between two other rows means anything.{floor}"]


def _power(rows: Sequence[Row]) -> list[str]:
    """What this many seeds can show and how many could show more."""
    compared = [row.difference for row in rows if row.difference and row.difference.p is not None]
    if not compared:
        return []
    needed = seeds_needed(len(compared))
    short = sorted({difference.n for difference in compared if difference.n < needed})
    if not short:
        return []
    floor = min(1.0, smallest_p(short[0]) * len(compared))
    return [
        f"No stars with n = {' or '.join(map(str, short))}: over {len(compared)} comparisons, an exact paired test of "
        f"n = {short[0]} cannot go below p = {floor:.2g} after Holm's correction, whatever the data; {needed} seeds could "
        "reach 0.05."
    ]


def _conditions(archive: Archive) -> list[str]:
    """Where the costs were measured, in a sentence."""
    where = sorted({f"{cost['device']} with {cost['threads']} CPU threads" for cost in archive.costs.values()})
    return [f"Latency, training speed and peak memory: {'; '.join(where)}, rows in turn within one run."] if where else []


def _hardware(records: Sequence[Record]) -> str:
    devices = sorted({f"{r.device['name']} ({r.device['kind']}, {r.device['threads']} CPU threads)" for r in records})
    versions = sorted({f"torch {r.versions['torch']}, Python {r.versions['python']}" for r in records})
    return "; ".join([*devices, *versions])
