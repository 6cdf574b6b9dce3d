"""The data of a study's figures, as plain values from its records.

Each figure is drawn from its data alone, and the data is written beside the picture, so that a figure can be derived from the
records again and compared.
"""

import math
from itertools import groupby
from typing import Any

from necklace.results.inside_figures import fields_data, gates_data
from necklace.results.knockout_figure import knockout_data
from necklace.results.noise_figure import noise_data
from necklace.results.results import Results, Row
from necklace.results.stats import Interval
from necklace.results.verdicts import Verdict

Data = dict[str, Any]


def figure_data(results: Results) -> dict[str, Data]:
    """The data of each figure, ready for JSON, rounded to 7 significant digits.

    Every figure has `metric` and `rows`, and each row has `name`, the number of its `seeds`, and `n`, the number of those that
    are in the figure. A row without values stays in, with null or empty lists.

    Args:
        results: The results of a study.

    Returns:
        Name to data, of the figures with any value; shares are in percent:
        `differences`: to the `baseline`, in percentage points: `mean`, `t` (the interval over seeds) and `images` (the interval
        over test images for these weights), each [low, high]; `finished` runs; `noise` is the baseline's standard deviation.
        Both this and `controls` have, in a study with verdicts, its `margin`, its `rule` and each row's `verdict`; by the rule
        `anytime` they have the interval `anytime`, which may be looked at after every seed, in place of `t`.
        `controls`: to `control`, the row that has the neck's size, of the rows that have one: `mean` and `t`.
        `params` and `latency`: `x` (parameters; ms for one image), `mean`, `sd`, and `front`: no other row is better in one of
        metric and cost without being worse in the other.
        `curves`: the val metric after `epoch` epochs, as `mean`, `low` and `high` over seeds, for epochs that all runs of a row
        have.
        `noise`: see `noise_figure`.
        `gates` and `fields`: see `inside_figures`; `knockout`: see `knockout_figure`.
        `sizes`: the test metric by `side` of the test images in pixels, as `mean`, `low` and `high` over seeds.
    """
    rows = {
        "differences": [
            _decided(_difference(row), row.verdict, results.anytime)
            for row in results.rows
            if row.name != results.study.baseline
        ],
        "controls": [_decided(_to_control(row), row.control.verdict, results.anytime) for row in results.rows if row.control],
        "params": _with_front([_point(row, row.cost.params if row.cost else None) for row in results.rows]),
        "latency": _with_front([_point(row, row.cost.latency_ms if row.cost else None) for row in results.rows]),
        "curves": [_curve(row, _val_metric(results)) for row in results.rows],
        "sizes": [_sizes(row, results.study.metric) for row in results.rows],
        "gates": gates_data(results.rows),
        "knockout": knockout_data(results.rows),
        "fields": fields_data(results.rows),
        "noise": noise_data(results),
    }
    metrics = {"curves": _val_metric(results), "knockout": next((row["metric"] for row in rows["knockout"]), "")}
    data: dict[str, Data] = {
        name: {"metric": metrics.get(name, results.study.metric), "rows": found}
        for name, found in rows.items()
        if any(row["mean"] not in (None, []) for row in found)
    }
    for name in data.keys() & {"differences", "curves", "sizes"}:
        data[name] |= {"baseline": results.study.baseline}
    if results.setting:
        for name in data.keys() & {"differences", "controls"}:
            data[name] |= {"margin": results.setting.margin, "rule": results.setting.rule}
    if "differences" in data:
        data["differences"] |= {"noise": _percent(results.noise)}
    return data


def _difference(row: Row) -> Data:
    difference = row.difference
    return {
        "name": row.name,
        "n": difference.n if difference else 0,
        "seeds": len(row.runs),
        "finished": sum(run.record is not None for run in row.runs),
        "mean": _percent(difference.mean) if difference else None,
        "t": _ends(difference.interval) if difference else None,
        "images": _ends(row.images),
    }


def _decided(row: Data, found: Verdict | None, anytime: bool) -> Data:
    """A row's difference with its verdict, and the interval that the verdict holds for."""
    if anytime:
        row = {name: value for name, value in row.items() if name != "t"}
        bounded = found is not None and math.isfinite(found.low)
        row |= {"anytime": [_rounded(found.low), _rounded(found.high)] if found and bounded else None}
    return row if found is None else row | {"verdict": found.kind}


def _to_control(row: Row) -> Data:
    assert row.control is not None
    difference = row.control.difference
    return {
        "name": row.name,
        "control": row.control.name,
        "n": difference.n,
        "seeds": len(row.runs),
        "mean": _percent(difference.mean),
        "t": _ends(difference.interval),
    }


def _ends(interval: Interval | None) -> list[float | None] | None:
    return [_percent(interval.low), _percent(interval.high)] if interval else None


def _point(row: Row, x: float | None) -> Data:
    return {
        "name": row.name,
        "n": row.summary.n if row.summary else 0,
        "seeds": len(row.runs),
        "x": None if x is None else _rounded(x),
        "mean": _percent(row.summary.mean) if row.summary and x is not None else None,
        "sd": _percent(row.summary.sd) if row.summary and x is not None else None,
    }


def _with_front(rows: list[Data]) -> list[Data]:
    """Mark the Pareto front: equal rows are both on it or both off it."""
    points = sorted((row["x"], row["mean"]) for row in rows if row["mean"] is not None)
    front, best = set(), -math.inf
    for x, same_cost in groupby(points, key=lambda point: point[0]):
        top = max(mean for _, mean in same_cost)
        if top > best:
            best = top
            front.add((x, top))
    return [row | {"front": (row["x"], row["mean"]) in front} for row in rows]


def _curve(row: Row, metric: str) -> Data:
    runs = []
    for run in row.runs:
        values = zip(run.curve.get("epoch", []), run.curve.get(metric, []), strict=False)
        runs.append({int(epoch) + 1: value for epoch, value in values if epoch is not None and value is not None})
    runs = [run for run in runs if run]
    # Where one run ends before another, the mean over the remaining runs would jump although none of them changed.
    epochs = sorted(set.intersection(*(set(run) for run in runs))) if runs else []
    return {
        "name": row.name,
        "n": len(runs),
        "seeds": len(row.runs),
        "epoch": epochs,
        "mean": [_percent(math.fsum(run[epoch] for run in runs) / len(runs)) for epoch in epochs],
        "low": [_percent(min(run[epoch] for run in runs)) for epoch in epochs],
        "high": [_percent(max(run[epoch] for run in runs)) for epoch in epochs],
    }


def _sizes(row: Row, metric: str) -> Data:
    records = [run.record for run in row.runs if run.record]
    sides = sorted(row.by_size)
    by_side = [[record.metrics[key] for record in records if (key := f"{metric}@{side}") in record.metrics] for side in sides]
    return {
        "name": row.name,
        "n": max(map(len, by_side), default=0),
        "seeds": len(row.runs),
        "side": sides,
        "mean": [_percent(row.by_size[side]) for side in sides],
        "low": [_percent(min(values)) for values in by_side],
        "high": [_percent(max(values)) for values in by_side],
    }


def _val_metric(results: Results) -> str:
    return results.study.metric.replace("test/", "val/", 1)


def _percent(share: float | None) -> float | None:
    return None if share is None else _rounded(100 * share)


def _rounded(value: float) -> float:
    return float(f"{value:.7g}")
