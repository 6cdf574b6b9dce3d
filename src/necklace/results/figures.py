"""The pictures of a study's figures, drawn from `figure_data` and nothing else: the same data gives the same bytes."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import EngFormatter, Formatter, FuncFormatter, LogLocator, MaxNLocator, NullLocator

from necklace.atomic import write_whole
from necklace.plotting import (
    COLOURS,
    GREY,
    LEGEND,
    MARKERS,
    MOST_ROWS,
    add_legend,
    fitted_lines,
    plain_axes,
    plain_style,
    row_axes,
    saved,
    set_title,
)
from necklace.results.bands import draw_curves, draw_sizes, row_count, row_note
from necklace.results.figure_data import Data, figure_data
from necklace.results.inside_figures import draw_fields, draw_gates
from necklace.results.knockout_figure import draw_knockout
from necklace.results.noise_figure import draw_noise
from necklace.results.results import Results


def draw(name: str, data: Data) -> Figure:
    """Draw a figure from its data alone.

    Args:
        name: One of the names of `figure_data`.
        data: What `figure_data` gives under that name.

    Raises:
        ValueError: There is no figure of that name.
    """
    if name not in _DRAW:
        raise ValueError(f"no figure is called {name}; there are {', '.join(_DRAW)}")
    with plain_style(name):
        return _DRAW[name](data)


def render(name: str, data: Data, kind: str) -> bytes:
    """The figure as the content of a file, the same bytes for the same data.

    Args:
        name: As for `draw`.
        data: As for `draw`.
        kind: `png` or `svg`.
    """
    return saved(draw(name, data), name, kind)


def write_figures(results: Results, folder: Path) -> None:
    """Write NAME.json and NAME.png for each figure and remove those of an earlier table that no longer have data.

    Args:
        results: The results of a study.
        folder: Is made where it is missing; other files in it are left alone.
    """
    files: dict[str, str | bytes] = {}
    for name, data in figure_data(results).items():
        files[f"{name}.json"] = json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
        files[f"{name}.png"] = render(name, data, "png")
    folder.mkdir(parents=True, exist_ok=True)
    for file, content in files.items():
        write_whole(folder / file, content)
    for file in {f"{name}.{kind}" for name in _DRAW for kind in ("json", "png")} - files.keys():
        (folder / file).unlink(missing_ok=True)


def _draw_differences(data: Data) -> Figure:
    rows = data["rows"][:MOST_ROWS]
    figure, axes, places = row_axes([row["name"] for row in rows], [row_count(row) for row in rows], 1.4)
    axes.axvline(0, color=GREY, linewidth=0.8, zorder=1)
    _draw_margin(axes, data)
    if data["noise"] is not None:
        _draw_noise(axes, data)
    for y, row in zip(places, rows, strict=True):
        if row["images"] is not None:
            axes.plot(row["images"], [y + 0.1] * 2, color=COLOURS[6], linewidth=1, marker="|", markersize=4, zorder=3)
        _draw_difference(axes, y, row, COLOURS[0], "o")
        if row["mean"] is None:
            why = "no run has finished" if row["finished"] == 0 else "shares no seed with the baseline"
            axes.annotate(why, (0.5, y), xycoords=("axes fraction", "data"), ha="center", va="center", color=GREY)
    axes.set(xlabel=f"difference in {data['metric']}, percentage points")
    axes.grid(axis="x", alpha=0.3)
    entries: list[tuple[Artist, list[str]]] = [
        (
            Line2D([], [], color=COLOURS[0], linewidth=2, marker="o", markersize=5),
            fitted_lines(f"to {data['baseline']}: mean, {_interval_name(data)}", LEGEND, 2),
        ),
        *_verdict_entries(rows, data, COLOURS[0], "o"),
        (
            Line2D([], [], color=COLOURS[6], linewidth=1, marker="|", markersize=4),
            ["95 % interval over test images, for these weights"],
        ),
    ]
    if data["noise"] is not None:
        sign = Line2D([], [], color=GREY, linewidth=1, linestyle=":") if "margin" in data else Patch(color="#DDDDDD")
        entries.append((sign, fitted_lines(f"± sd between seeds of {data['baseline']}: {data['noise']:.2g}", LEGEND, 2)))
    add_legend(figure, entries, len(data["rows"]))
    return figure


def _draw_controls(data: Data) -> Figure:
    rows = data["rows"][:MOST_ROWS]
    names = [f"{row['name']} to {row['control']}" for row in rows]
    figure, axes, places = row_axes(names, [row_count(row) for row in rows], 1.1)
    axes.axvline(0, color=GREY, linewidth=0.8, zorder=1)
    _draw_margin(axes, data)
    for y, row in zip(places, rows, strict=True):
        _draw_difference(axes, y, row, COLOURS[4], "s")
    axes.set(xlabel=f"difference in {data['metric']}, percentage points")
    axes.grid(axis="x", alpha=0.3)
    colour = COLOURS[0] if "margin" in data else COLOURS[4]
    sign = Line2D([], [], color=colour, linewidth=2, marker="s", markersize=5)
    entries: list[tuple[Artist, list[str]]] = [
        (sign, ["to the control of its own size: mean,", _interval_name(data)]),
        *_verdict_entries(rows, data, colour, "s"),
    ]
    add_legend(figure, entries, len(data["rows"]))
    return figure


# Of a palette that is told apart by those who see red and green as one; an undecided mark is hollow besides.
_VERDICTS = {"better": COLOURS[3], "worse": COLOURS[4], "equal": COLOURS[2], "undecided": GREY}
_MARGIN = "#E4EEF6"


def _interval_name(data: Data) -> str:
    return "interval over any number of seeds" if data.get("rule") == "anytime" else "95 % t interval over seeds"


def _draw_margin(axes: Axes, data: Data) -> None:
    """The differences that do not matter, as a band."""
    if "margin" in data:
        axes.axvspan(-data["margin"], data["margin"], color=_MARGIN, linewidth=0, zorder=0)


def _draw_noise(axes: Axes, data: Data) -> None:
    """The baseline's spread between seeds: a band, or two lines where the margin has one."""
    if "margin" not in data:
        axes.axvspan(-data["noise"], data["noise"], color="#DDDDDD", linewidth=0, zorder=0)
        return
    for x in (-data["noise"], data["noise"]):
        axes.axvline(x, color=GREY, linewidth=1, linestyle=":", zorder=1)


def _verdict_entries(rows: list[Data], data: Data, colour: str, marker: str) -> list[tuple[Artist, list[str]]]:
    """What the colours and the margin's band mean."""
    if "margin" not in data:
        return []
    found = [kind for kind in _VERDICTS if any(row.get("verdict") == kind for row in rows)]
    words = {"equal": "equal within the margin"}
    return [
        *(
            (Line2D([], [], color=_VERDICTS[kind], linewidth=2, markersize=5, **_mark(kind, marker)), [words.get(kind, kind)])
            for kind in found
        ),
        (Patch(color=_MARGIN), [f"margin: ± {data['margin']:g} point{'s' * (data['margin'] != 1)}"]),
    ]


def _mark(kind: str | None, marker: str) -> dict[str, Any]:
    return {"marker": marker} | ({"markerfacecolor": "white"} if kind == "undecided" else {})


def _draw_difference(axes: Axes, y: float, row: Data, colour: str, marker: str) -> None:
    """The mean of a row's differences with its interval over seeds, as far as it has them, in the colour of its verdict."""
    kind = row.get("verdict")
    colour = _VERDICTS[kind] if kind else colour
    interval = row.get("anytime", row.get("t"))
    if interval is not None:
        axes.plot(interval, [y, y], color=colour, linewidth=2, zorder=3, solid_capstyle="butt")
    if row["mean"] is not None:
        axes.plot(row["mean"], y, color=colour, markersize=5, zorder=4, **_mark(kind, marker))


def _draw_params(data: Data) -> Figure:
    return _draw_points(data, "parameters", EngFormatter())


def _draw_latency(data: Data) -> Figure:
    return _draw_points(data, "latency of one image in ms", FuncFormatter(lambda value, _: f"{value:g}"))


def _draw_points(data: Data, across: str, formatter: Formatter) -> Figure:
    entries, seen = [], []
    rows = data["rows"][:MOST_ROWS]
    figure, axes = plain_axes(3.4 + 0.16 * (len(rows) + 1))
    for number, row in enumerate(rows):
        label = fitted_lines(row["name"] + (f" ({row_note(row)})" if row_note(row) else ""), LEGEND, 2)
        if row["mean"] is None:
            entries.append((Line2D([], [], linestyle=""), label))
            continue
        place = (row["x"], row["mean"])
        colour = COLOURS[number % len(COLOURS)]
        look: Data = {
            "color": colour,
            "marker": MARKERS[number % len(MARKERS)],
            "markerfacecolor": colour if row["front"] else "white",
            "linestyle": "",
        }
        # A row at the same place as another, such as SPP and SPPF, is drawn smaller, so that both are seen.
        size = 8 * 0.55 ** seen.count(place)
        # Bars at one cost, such as SPP's and SPPF's, have caps of different widths.
        cap = 4 * 0.6 ** sum(x == place[0] for x, _ in seen)
        axes.errorbar(*place, yerr=row["sd"], elinewidth=1, capsize=cap, markersize=size, zorder=3 + seen.count(place), **look)
        entries.append((Line2D([], [], markersize=6, **look), label))
        seen.append(place)
    front = sorted({(row["x"], row["mean"]) for row in data["rows"] if row["mean"] is not None and row["front"]})
    axes.plot(*zip(*front, strict=True), color=GREY, linewidth=1, linestyle=":", drawstyle="steps-post", zorder=1)
    entries.append((Line2D([], [], color=GREY, linewidth=1, linestyle=":"), ["Pareto front of the means (filled)"]))
    costs = [row["x"] for row in data["rows"] if row["mean"] is not None]
    if min(costs) > 0 and max(costs) > 10 * min(costs):
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_minor_locator(NullLocator())
    else:
        axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_formatter(formatter)
    axes.set_xlabel(across)
    set_title(axes, f"{data['metric']} in %: mean ± sd over seeds")
    axes.grid(alpha=0.3)
    add_legend(figure, entries, len(data["rows"]))
    return figure


_DRAW: dict[str, Callable[[Data], Figure]] = {
    "differences": _draw_differences,
    "controls": _draw_controls,
    "params": _draw_params,
    "latency": _draw_latency,
    "curves": draw_curves,
    "sizes": draw_sizes,
    "gates": draw_gates,
    "knockout": draw_knockout,
    "fields": draw_fields,
    "noise": draw_noise,
}
