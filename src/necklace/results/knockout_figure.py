"""The figure of what matters in the necks of a study: what the metric of val drops by, beside what flows."""

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

from matplotlib.artist import Artist
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from necklace.plotting import COLOURS, GREY, LABEL, MOST_ROWS, WIDTH, add_legend, fitted_lines
from necklace.results.results import Row

KINDS = ("silenced", "mean", "positions", "images")
_LINE = 0.2  # inches of a context


def knockout_data(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """What changing each context of a layer does to the metric that chose the weights, on val; only of rows that have it.

    Returns:
        For each row and layer `name`, `layer`, `kind` (focal, pools), `metric`, `seeds`, `n` and `contexts`. `share`, the mean
        share of the contribution in percent, null where there is none. `drops` and `others`: change to `mean`, `low` and
        `high`, lists over contexts in percentage points, of a change of this context, and of all but it; low and high are
        those of the seeds, or of one seed those of its 95 % interval over images. `mean`: that of silencing.
    """
    data = []
    for row in rows:
        found = [run.knockout for run in row.runs if run.knockout]
        for layer, about in found[0]["layers"].items() if found else ():
            seen = [one for one in found if one["layers"].get(layer, {}).get("contexts") == about["contexts"]]
            contexts = about["contexts"]
            shares = zip(*(one["layers"][layer]["share"] for one in seen), strict=True)
            scopes = {scope: _drops(seen, layer, contexts, scope) for scope in ("one", "others")}
            data.append(
                {
                    "name": row.name,
                    "layer": layer,
                    "kind": about["kind"],
                    "metric": seen[0]["metric"],
                    "n": len(seen),
                    "seeds": len(row.runs),
                    "contexts": contexts,
                    "share": [_mean(values) for values in shares],
                    "mean": scopes["one"].get("silenced", {}).get("mean", []),
                    "drops": scopes["one"],
                    "others": scopes["others"],
                }
            )
    return data


def draw_knockout(data: dict[str, Any]) -> Figure:
    """Draw the data of `knockout_data`."""
    rows = data["rows"][:MOST_ROWS]
    layers = Counter(row["name"] for row in data["rows"])
    labels: list[str] = []
    places: list[float] = []
    heads: list[tuple[float, list[str]]] = []
    bottom = 0.0
    for row in rows:
        name = row["name"] + (f" ({row['layer']})" if layers[row["name"]] > 1 else "")
        count = [f"n = {row['n']}/{row['seeds']}"] if row["n"] != row["seeds"] else []
        lines = fitted_lines(name, LABEL + 60, 2) + count
        heads.append((bottom + 0.07 + 0.07 * len(lines), lines))
        bottom += 0.1 + 0.14 * len(lines)
        places += [bottom + _LINE * (number + 0.5) for number in range(len(row["contexts"]))]
        labels += row["contexts"]
        bottom += _LINE * len(row["contexts"]) + 0.06
    figure = Figure(figsize=(WIDTH, bottom + 1.7), layout="constrained")
    flows, matters = figure.subplots(1, 2, sharey=True, width_ratios=(1, 1.5))
    for axes in (flows, matters):
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="x", alpha=0.3)
        axes.set_axisbelow(True)
    flows.set_zorder(matters.get_zorder() + 1)
    flows.patch.set_alpha(0)
    flows.set_ylim(bottom, 0)
    flows.set_yticks(places, labels)
    for y, lines in heads:
        place = {"transform": flows.get_yaxis_transform(), "va": "center", "fontweight": "bold", "parse_math": False}
        flows.text(0, y, "\n".join(lines), **place).set_in_layout(False)  # it may reach over both
    bars = [(row, number) for row in rows for number in range(len(row["contexts"]))]
    for y, (own, number) in zip(places, bars, strict=True):
        if (share := own["share"][number]) is not None:
            flows.barh(y, share, 0.6 * _LINE, color=COLOURS[2], linewidth=0)
        _draw_drop(matters, y, own, number)
    matters.axvline(0, color=GREY, linewidth=0.8, zorder=1)
    flows.set(xlim=(0, 100), xlabel="flows: share of the\ncontribution, %", xticks=[0, 50, 100])
    matters.set(xlabel=f"matters: drop in {data['metric']}\nwithout it, points")
    entries: list[tuple[Artist, list[str]]] = [
        (Patch(color=COLOURS[2]), ["what flows: norm of gate times context"]),
        (Patch(color=COLOURS[4]), ["what matters: the drop when it is silenced"]),
        (Line2D([], [], color="black", linewidth=1), ["range over seeds; of one seed, 95 % over images"]),
        (
            Line2D([], [], color="black", marker="o", markersize=4, markerfacecolor="white", linestyle=""),
            ["the drop when it is replaced by its mean"],
        ),
    ]
    add_legend(figure, entries, len(data["rows"]))
    return figure


def _draw_drop(axes: Any, y: float, row: dict[str, Any], number: int) -> None:
    silenced, mean = row["drops"].get("silenced"), row["drops"].get("mean")
    if silenced is not None and silenced["mean"][number] is not None:
        axes.barh(y, silenced["mean"][number], 0.6 * _LINE, color=COLOURS[4], linewidth=0, zorder=2)
        ends = silenced["low"][number], silenced["high"][number]
        if None not in ends:
            axes.plot(ends, [y, y], color="black", linewidth=1, zorder=3)
    if mean is not None and mean["mean"][number] is not None:
        axes.plot(mean["mean"][number], y, "o", color="black", markerfacecolor="white", markersize=3.5, zorder=4)


def _drops(
    seen: Sequence[dict[str, Any]], layer: str, contexts: Sequence[str], scope: str
) -> dict[str, dict[str, list[float | None]]]:
    """Change to its drops over contexts, in percentage points."""
    found = {}
    for kind in KINDS:
        by_context = [
            [
                row
                for one in seen
                for row in one["changes"]
                if (row["layer"], row["context"], row["change"], row["scope"]) == (layer, context, kind, scope)
            ]
            for context in contexts
        ]
        if any(by_context):
            found[kind] = {
                "mean": [_mean([row["drop"] for row in own]) for own in by_context],
                "low": [_end(own, min, "low") for own in by_context],
                "high": [_end(own, max, "high") for own in by_context],
            }
    return found


def _end(rows: Sequence[dict[str, Any]], furthest: Any, end: str) -> float | None:
    """The furthest drop of the seeds; of one seed the end of its interval."""
    values = [rows[0][end]] if len(rows) == 1 else [row["drop"] for row in rows]
    return None if not values or None in values else _percent(furthest(values))


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return _percent(math.fsum(known) / len(known)) if known else None


def _percent(share: float) -> float:
    return float(f"{100 * share:.7g}")
