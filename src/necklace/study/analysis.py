"""From a study's archive to what it found: the statistics of each row, and what belongs under the table in words."""

import math
import shlex
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from necklace.record import Record, unpack_bits
from necklace.streams import numpy_generator
from necklace.study.archive import Archive, ArchivedCell
from necklace.study.fairness import check_fairness
from necklace.study.plan import MATCH_WITHIN
from necklace.study.results import Control, Results, Row, RowCost, Run, SamePair, figures
from necklace.study.stats import (
    Difference,
    Interval,
    holm,
    image_interval,
    paired_difference,
    seeds_needed,
    smallest_p,
    summarise,
)


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
    adjusted = holm([row.difference.p if row.difference else None for row in rows if row.name != archive.baseline])
    by_row = dict(zip((row.name for row in rows if row.name != archive.baseline), adjusted, strict=True))
    rows = [replace(row, p_holm=by_row.get(row.name)) for row in rows]
    rows = [replace(row, control=_control(row, rows, archive)) for row in rows]
    values = figures(runs[archive.baseline], archive.metric) if archive.baseline else {}
    noise = summarise(np.array(list(values.values()))).sd if values else None
    same = _same_pair(runs, chosen, archive)
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
        same=None if isinstance(same, str) else same,
        notes=(*_noise(same, noise), *_power(rows, archive), *_equal(rows), *_controls(rows), *_conditions(archive), *notes),
        hardware=_hardware([run.record for row in rows for run in row.runs if run.record]),
        commands=tuple(
            shlex.join(["python", "ablate.py", archive.name, *more])
            for more in (archive.arguments, ["--verify"], ["--reproduce", "1"])
        ),
    )


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
        control=None,
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


def _control(row: Row, rows: Sequence[Row], archive: Archive) -> Control | None:
    """The matched row whose neck has the row's size, the nearest if there are several, and the difference to it."""
    if row.cost is None or row.name in archive.controls:
        return None
    distances = {}
    for other in rows:
        matched = archive.controls.get(other.name)
        if matched and other.cost:
            own, its = (getattr(cost, f"neck_{matched}") for cost in (row.cost, other.cost))
            distances[other.name] = abs(its / own - 1) if own else math.inf
    nearest = min(distances, key=distances.__getitem__, default=None)
    if nearest is None or distances[nearest] > MATCH_WITHIN:
        return None
    runs = next(other.runs for other in rows if other.name == nearest)
    difference = _paired(row.runs, runs, archive.metric, f"{row.name} to {nearest}")
    return Control(nearest, difference) if difference else None


def _same_pair(
    runs: dict[str, tuple[Run, ...]], chosen: dict[str, dict[str, float | str]], archive: Archive
) -> SamePair | str | None:
    """The A/A pair, or in a sentence why its two rows measure no numerical noise; None where there is no pair yet."""
    if not archive.same:
        return None
    first, second = archive.same
    difference = _paired(runs[second], runs[first], archive.metric, "same")
    if difference is None:
        return None
    values = [figures(runs[name], archive.metric) for name in (first, second)]
    gaps = {seed: values[1][seed] - values[0][seed] for seed in values[0] if seed in values[1]}
    started = [{run.seed: run.record.initial_hash for run in runs[name] if run.record} for name in (first, second)]
    if any(started[0][seed] != started[1][seed] for seed in gaps):
        return f"{first} and {second} do not start from the same weights: no measure of numerical noise."
    if chosen[first] != chosen[second]:
        return f"{first} and {second} were given different {', '.join(chosen[first])}: no measure of numerical noise."
    return SamePair(first, second, gaps, difference)


def _noise(same: SamePair | str | None, noise: float | None) -> list[str]:
    """The A/A pair beside the noise floor."""
    floor = "" if noise is None else f"The noise floor, the baseline's spread between seeds, is {100 * noise:.2f} points"
    if not isinstance(same, SamePair):
        return [text for text in (same, floor and f"{floor}.") if text]
    start = (
        f"{same.first} and {same.second} compute the same function from the same weights, so what differs is numerical noise:"
    )
    if not any(same.gaps.values()):
        return [f"{start} nothing, on {len(same.gaps)} of {len(same.gaps)} seeds.{f' {floor}.' if floor else ''}"]
    listed = ", ".join(f"{100 * gap:+.2f} (seed {seed})" for seed, gap in same.gaps.items())
    text = f"{start} {listed} points. Two runs may differ by as much for no other reason"
    if interval := same.difference.interval:
        low, high = 100 * interval.low, 100 * interval.high
        text += (
            f", and means over {same.difference.n} seeds by what the pair's 95 % t interval holds, {low:+.2f} to {high:+.2f}"
        )
    # Each of the two rows has this noise, so their gap has twice its variance.
    alone = math.sqrt(math.fsum(gap**2 for gap in same.gaps.values()) / len(same.gaps) / 2)
    if noise is not None and noise < alone:
        floor += f", less than one run's numerical noise ({100 * alone:.2f}, from the pair): a small draw, no promise"
    return [f"{text}.{f' {floor}.' if floor else ''}"]


def _power(rows: Sequence[Row], archive: Archive) -> list[str]:
    """What this many seeds can show and how many could show more."""
    comparisons = sum(row.name != archive.baseline for row in rows)
    needed = seeds_needed(max(1, comparisons))
    short = sorted({row.difference.n for row in rows if row.difference and row.difference.n < needed})
    if not short:
        return []
    floor = min(1.0, smallest_p(short[0]) * comparisons)
    over = f"over {comparisons} comparison{'s' * (comparisons > 1)}"
    return [
        f"No stars with n = {' or '.join(map(str, short))}: {over}, an exact paired test of n = {short[0]} cannot go below "
        f"p = {floor:.2g} after Holm's correction, whatever the data; {needed} seeds could reach 0.05."
    ]


def _equal(rows: Sequence[Row]) -> list[str]:
    """Why a difference has no interval although there are several seeds."""
    names = [row.name for row in rows if row.difference and row.difference.n > 1 and row.difference.interval is None]
    return (
        [f"No interval for {'; '.join(names)}: the same difference on every seed says nothing of its spread."] if names else []
    )


def _controls(rows: Sequence[Row]) -> list[str]:
    """Which row is whose control."""
    pairs = "; ".join(f"{row.name} to '{row.control.name}'" for row in rows if row.control)
    return [f"Controls of a neck's own size: {pairs}. Paired by seed, without correction for their number."] if pairs else []


def _conditions(archive: Archive) -> list[str]:
    """Where the costs were measured, in a sentence."""
    where = sorted({f"{cost['device']} with {cost['threads']} CPU threads" for cost in archive.costs.values()})
    return [f"Latency, training speed and peak memory: {'; '.join(where)}, rows in turn within one run."] if where else []


def _hardware(records: Sequence[Record]) -> str:
    devices = sorted({f"{r.device['name']} ({r.device['kind']}, {r.device['threads']} CPU threads)" for r in records})
    versions = sorted({f"torch {r.versions['torch']}, Python {r.versions['python']}" for r in records})
    return "; ".join([*devices, *versions])
