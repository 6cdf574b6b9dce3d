"""Figures of means with bands over seeds: learning curves, and the metric by image size.

Up to six rows share one pair of axes. More lines could not be told apart there: each row then has a small plot of its own,
with all other rows behind it in grey and the baseline as a dashed line.
"""

import math
from typing import Any

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from necklace.plotting import (
    COLOURS,
    FONT_SIZE,
    LEGEND,
    MARKERS,
    MOST_ROWS,
    WIDTH,
    add_legend,
    fitted_lines,
    plain_axes,
    set_title,
)

Data = dict[str, Any]
TOGETHER = 6  # so many rows at most share one pair of axes
COLUMNS = 2
# Of a small plot: inches from one to the next below, and the points that its name may take.
DOWN, NAME = 1.4, 140
FAINT = "#C4C4C4"


def draw_curves(data: Data) -> Figure:
    """Draw the data `curves` of `figure_data`."""
    marker = max(len(row["epoch"]) for row in data["rows"]) == 1
    figure, drawn = _draw_bands(data, "epoch", "epochs", marker)
    for axes in drawn:
        axes.xaxis.set_major_locator(MaxNLocator(10 if len(drawn) == 1 else 4, integer=True))
    return figure


def draw_sizes(data: Data) -> Figure:
    """Draw the data `sizes` of `figure_data`."""
    figure, drawn = _draw_bands(data, "side", "side of the test images in pixels", marker=True)
    sides = sorted({side for row in data["rows"] for side in row["side"]})
    if len(sides) <= 8:
        for axes in drawn:
            axes.set_xticks(sides)
    return figure


def row_count(row: Data) -> str:
    """How many of the seeds are in the figure, where some are missing or there is only one."""
    if row["n"] == row["seeds"]:
        return "n = 1" if row["n"] == 1 else ""
    return f"n = {row['n']}/{row['seeds']}"


def row_note(row: Data) -> str:
    """What a row's name is followed by: how many seeds, or that it was not measured."""
    return "not measured" if row["n"] and row["mean"] in (None, []) else row_count(row)


def _draw_bands(data: Data, across: str, label: str, marker: bool) -> tuple[Figure, list[Axes]]:
    """The figure, and its axes but for empty ones."""
    if len(data["rows"]) > TOGETHER:
        return _small_plots(data, across, label, marker)
    return _one_plot(data, across, label, marker)


def _one_plot(data: Data, across: str, label: str, marker: bool) -> tuple[Figure, list[Axes]]:
    rows = data["rows"]
    figure, axes = plain_axes(3.4 + 0.16 * len(rows))
    entries = []
    for number, row in enumerate(rows):
        look: Data = {"color": COLOURS[number], "linewidth": 1.5, "marker": MARKERS[number] if marker else "", "markersize": 4}
        if row["mean"]:
            _draw_row(axes, row, across, look)
            entries.append((Line2D([], [], **look), _named(row, LEGEND)))
        else:
            entries.append((Line2D([], [], linestyle=""), _named(row, LEGEND)))
    axes.set_xlabel(label)
    set_title(axes, f"{data['metric']} in %: mean and range over seeds")
    axes.grid(alpha=0.3)
    add_legend(figure, entries, len(rows))
    return figure, [axes]


def _small_plots(data: Data, across: str, label: str, marker: bool) -> tuple[Figure, list[Axes]]:
    rows = data["rows"][:MOST_ROWS]
    lines = math.ceil(len(rows) / COLUMNS)
    figure = Figure(figsize=(WIDTH, 1.2 + DOWN * lines), layout="constrained")
    grid = figure.subplots(lines, COLUMNS, sharex=True, sharey=True, squeeze=False)
    places: list[Axes] = [axes for line in grid for axes in line]
    known = [row for row in rows if row["mean"]]
    base = next((row for row in known if row["name"] == data["baseline"]), None)
    shape: Data = {"marker": "o" if marker else "", "markersize": 3}
    for axes, row in zip(places, rows, strict=False):
        axes.spines[["top", "right"]].set_visible(False)
        for other in known:
            axes.plot(other[across], other["mean"], color=FAINT, linewidth=0.8, zorder=1)
        if base and base is not row:
            axes.plot(base[across], base["mean"], color=COLOURS[0], linewidth=1, linestyle="--", zorder=2)
        if row["mean"]:
            _draw_row(axes, row, across, {"color": COLOURS[6], "linewidth": 1.8, **shape})
        axes.grid(alpha=0.3)
        axes.set_title("\n".join(_named(row, NAME)), loc="left", fontsize=FONT_SIZE, parse_math=False)
    for axes in places[len(rows) :]:
        axes.set_visible(False)
    for axes in places[max(0, len(rows) - COLUMNS) : len(rows)]:
        axes.tick_params(labelbottom=True)  # where the last line is not full
    heading = fitted_lines(f"{data['metric']} in % against {label}", LEGEND, 2)
    figure.suptitle("\n".join(heading), x=0.01, ha="left", fontsize=FONT_SIZE).set_parse_math(False)
    entries: list[tuple[Artist, list[str]]] = [
        (Line2D([], [], color=COLOURS[6], linewidth=1.8, **shape), ["the row: mean and range over seeds"]),
        (Line2D([], [], color=FAINT, linewidth=0.8), ["all rows"]),
    ]
    if base:
        entries.insert(
            1, (Line2D([], [], color=COLOURS[0], linewidth=1, linestyle="--"), fitted_lines(base["name"], LEGEND, 2))
        )
    add_legend(figure, entries, len(data["rows"]))
    return figure, places[: len(rows)]


def _draw_row(axes: Axes, row: Data, across: str, look: Data) -> None:
    axes.plot(row[across], row["mean"], zorder=3, **look)
    axes.fill_between(row[across], row["low"], row["high"], color=look["color"], alpha=0.13, linewidth=0)


def _named(row: Data, width: float) -> list[str]:
    return fitted_lines(row["name"] + (f" ({row_note(row)})" if row_note(row) else ""), width, 2)
