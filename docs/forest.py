"""Draw docs/forest.png from the records of experiments/necks_cifar10: python docs/forest.py.

Each row against the baseline, and each neck with context also against the control of its own size. The numbers lie beside
the picture, in docs/forest.json.
"""

import json
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from necklace.plotting import COLOURS, GREY, LABEL, WIDTH, add_legend, fitted_lines, plain_style, saved
from necklace.results.analysis import analyse
from necklace.results.stats import Difference
from necklace.study.store import read_records

STUDY = Path(__file__).parents[1] / "experiments" / "necks_cifar10"
LINES = {"to_baseline": COLOURS[0], "to_control": COLOURS[4]}


def main() -> None:
    """Write the plot and its numbers beside this file."""
    data = forest_data(STUDY)
    Path(__file__).with_name("forest.json").write_text(json.dumps(data, indent=1) + "\n")
    Path(__file__).with_name("forest.png").write_bytes(saved(forest(data), "forest", "png"))


def forest_data(folder: Path) -> dict[str, Any]:
    """The numbers of the plot from a study's records: for each row [low, mean, high], in percentage points.

    Args:
        folder: The study's folder.
    """
    results = analyse(read_records(folder))
    rows = [
        {
            "name": row.name,
            "to_baseline": _ends(row.difference),
            "to_control": _ends(row.control.difference if row.control else None),
        }
        for row in results.rows
        if row.difference
    ]
    return {"metric": results.study.metric, "baseline": results.study.baseline, "rows": rows}


def _ends(difference: Difference | None) -> list[float] | None:
    if difference is None or difference.interval is None:
        return None
    return [round(100 * value, 4) for value in (difference.interval.low, difference.mean, difference.interval.high)]


def forest(data: dict[str, Any]) -> Figure:
    """The plot: means with 95 % t intervals over seeds."""
    rows = data["rows"]
    with plain_style("forest"):
        figure = Figure(figsize=(WIDTH, 0.95 + 0.36 * len(rows)), layout="constrained")
        axes = figure.subplots()
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.axvline(0, color=GREY, linewidth=0.8, zorder=1)
        for y, row in enumerate(rows):
            _draw(axes, y, row)
        axes.set_yticks(range(len(rows)), ["\n".join(fitted_lines(row["name"], LABEL, 2)) for row in rows])
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="x", alpha=0.3)
        axes.set(xlabel=f"difference in {data['metric']}, percentage points")
        texts = [f"to {data['baseline']}: mean, 95 % t interval over seeds", "to the control of its own size"]
        signs = [Line2D([], [], color=colour, linewidth=2, marker="o", markersize=5) for colour in LINES.values()]
        add_legend(figure, [(sign, [text]) for sign, text in zip(signs, texts, strict=True)], len(rows))
    return figure


def _draw(axes: Axes, y: float, row: dict[str, Any]) -> None:
    drawn = [(row[name], colour) for name, colour in LINES.items() if row[name]]
    for number, ((low, mean, high), colour) in enumerate(drawn):
        at = y + 0.32 * (number - (len(drawn) - 1) / 2)
        axes.plot([low, high], [at, at], color=colour, linewidth=2, zorder=3, solid_capstyle="butt")
        axes.plot(mean, at, color=colour, marker="o", markersize=5, zorder=4)


if __name__ == "__main__":
    main()
