"""Pictures of a set of runs, from what their folders hold."""

import csv
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from necklace.table import Cell, run_names

# Okabe and Ito's palette: told apart with every kind of colour vision.
COLOURS = ("#000000", "#E69F00", "#56B4E9", "#009E73", "#D55E00", "#CC79A7", "#0072B2", "#F0E442")
STYLES = ("-", "--", "-.", ":")


def draw_curves(cells: list[Cell], path: Path, metric: str = "val/acc") -> None:
    """Draw a metric against the epoch, one line for each run.

    Args:
        cells: The runs; those without a history yet have no line.
        path: A .png, .svg or .pdf file.
        metric: A column of `history.csv`.

    Raises:
        ValueError: No run has that metric.
    """
    lines = []
    for cell, name in run_names(cells):
        history = cell.folder / "history.csv"
        rows = list(csv.DictReader(history.read_text().splitlines())) if history.exists() else []
        points = [(int(row["epoch"]) + 1, float(row[metric])) for row in rows if row.get(metric)]
        lines.append((_label(cell, name), points))
    _draw(lines, path, "epoch", metric)


def draw_sizes(cells: list[Cell], path: Path, metric: str = "test/acc") -> None:
    """Draw a test metric against the side that the test images were brought to, one line for each run.

    Args:
        cells: The runs; those without a record yet have no line.
        path: A .png, .svg or .pdf file.
        metric: A figure of the records, of which they hold `METRIC@SIDE` too.

    Raises:
        ValueError: No run was tested at several sizes.
    """
    lines = []
    for cell, name in run_names(cells):
        figures = cell.record.figures if cell.record else {}
        points = [(int(key.partition("@")[2]), value) for key, value in figures.items() if key.startswith(f"{metric}@")]
        lines.append((_label(cell, name), sorted(points)))
    _draw(lines, path, "side of the test images in pixels", metric)


def _label(cell: Cell, name: str) -> str:
    return f"{name} (seed {cell.record.config['seed']})" if cell.record else f"{name} (unfinished)"


def _draw(lines: list[tuple[str, list[tuple[int, float]]]], path: Path, across: str, metric: str) -> None:
    figure = Figure(figsize=(7, 3.6), layout="constrained")
    axes = figure.subplots()
    for number, (label, points) in enumerate(lines):
        if points:
            colour, style = COLOURS[number % len(COLOURS)], STYLES[number // len(COLOURS) % len(STYLES)]
            x, y = zip(*points, strict=True)
            axes.plot(x, y, color=colour, linestyle=style, marker="o", markersize=4, label=label)
    if not axes.lines:
        raise ValueError(f"no run has the metric {metric} by {across}")
    axes.set(xlabel=across, ylabel=metric)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside right upper", frameon=False)
    figure.savefig(path, dpi=150)
