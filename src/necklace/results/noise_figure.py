"""The figure of the sources of noise: how far the metric spreads when each varies alone."""

from typing import Any

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from necklace.plotting import COLOURS, MOST_ROWS, add_legend, row_axes
from necklace.results.noise import components, source_label
from necklace.results.results import Results

Data = dict[str, Any]


def noise_data(results: Results) -> list[Data]:
    """A row for each variance component: `mean` is the standard deviation and `t` its interval, in points, `share` of all."""
    return [
        {
            "name": one.row,
            "source": source_label(one.streams),
            "n": one.n,
            "seeds": len(results.study.seeds),
            "mean": _points(one.sd),
            "t": [_points(one.interval.low), _points(one.interval.high)] if one.interval else None,
            "share": None if one.share is None else float(f"{one.share:.7g}"),
        }
        for one in components(results.study.metric, results.rows)
    ]


def draw_noise(data: Data) -> Figure:
    """Draw the data `noise` of `figure_data`."""
    rows = data["rows"][:MOST_ROWS]
    notes = [f"{row['source']}, n = {row['n']}" for row in rows]
    figure, axes, places = row_axes([row["name"] for row in rows], notes, 1.1)
    for y, row in zip(places, rows, strict=True):
        if row["t"] is not None:
            axes.plot(row["t"], [y, y], color=COLOURS[0], linewidth=2, zorder=3, solid_capstyle="butt")
        axes.plot(row["mean"], y, color=COLOURS[0], marker="o", markersize=5, zorder=4)
    axes.set_xlim(left=0)
    axes.set_xlabel(f"standard deviation of {data['metric']}, points", loc="right")
    axes.grid(axis="x", alpha=0.3)
    sign = Line2D([], [], color=COLOURS[0], linewidth=2, marker="o", markersize=5)
    add_legend(figure, [(sign, ["standard deviation, 95 % interval"])], len(data["rows"]))
    return figure


def _points(share: float) -> float:
    return float(f"{100 * share:.7g}")
