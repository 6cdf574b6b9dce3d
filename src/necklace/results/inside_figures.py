"""The figures about the inside of a study's networks: gates of focal layers, and effective receptive fields.

Each has its data, from the records, and a drawing of that data and nothing else.
"""

import itertools
import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

from matplotlib.artist import Artist
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from necklace.plotting import COLOURS, FONT_SIZE, GREY, MOST_ROWS, add_legend, row_axes, text_width
from necklace.results.results import Row

# From near to far, and the global context.
NEAR_TO_FAR = ("#CFE3F3", "#8FBFE0", "#4A94C8", "#1B6CA3", "#0B4470", "#062A47")
GLOBAL = COLOURS[1]
PARTS = ("backbone", "backbone+neck")


def gates_data(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """The shares of the focal layers' contexts, on val, with the weights that val chose; only of rows with such layers.

    Returns:
        For each row and focal layer `name`, `layer`, `seeds`, `n`, the `contexts`, near to far; in percent over contexts,
        `mean`, `low` and `high` over seeds of the share of the contribution (norm of gate * context), and `mass`, the mean
        share of the sum of |gate|, null without gating.
    """
    data = []
    for row in rows:
        gates = [run.record.gates for run in row.runs if run.record and run.record.gates]
        for layer in gates[0]["layers"] if gates else ():
            seen = [found["layers"][layer] for found in gates if layer in found["layers"]]
            contexts = sorted(seen[0], key=_distance)  # a record's keys are sorted by name
            shares = [[_percent(found[c]["contribution_share"]) for found in seen] for c in contexts]
            masses = [[_percent(found[c]["mass"]) for found in seen] for c in contexts]
            data.append(
                {
                    "name": row.name,
                    "layer": layer,
                    "n": len(seen),
                    "seeds": len(row.runs),
                    "contexts": contexts,
                    "mean": [_mean(values) for values in shares],
                    "low": [min(values, default=None, key=_order) for values in shares],
                    "high": [max(values, default=None, key=_order) for values in shares],
                    "mass": [_mean(values) for values in masses],
                }
            )
    return data


def fields_data(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Effective receptive fields, of the runs that were asked for their pictures; other rows have empty lists.

    Returns:
        For each row `name`, `seeds`, `n`, `theoretical`, the radius of the backbone's theoretical field in pixels (null: the
        whole image), `mass`, the share of the weight that a radius holds, and `mean`, `low` and `high` over seeds of the radius
        in pixels of the backbone before and after training, and of backbone and neck before and after; null where there is
        none.
    """
    data = []
    for row in rows:
        found = [run.pictures["receptive_field"] for run in row.runs if run.pictures]
        radii = [
            [extent["radius"] for field in found if (extent := field.get(part, {}).get(stage))]
            for part in PARTS
            for stage in ("before", "after")
        ]
        side = found[0]["theoretical"] if found else None
        data.append(
            {
                "name": row.name,
                "n": len(found),
                "seeds": len(row.runs),
                "theoretical": None if side is None else side / 2,
                "mass": found[0]["mass"] if found else None,
                "mean": [_mean(values) for values in radii] if found else [],
                "low": [min(values, default=None) for values in radii] if found else [],
                "high": [max(values, default=None) for values in radii] if found else [],
            }
        )
    return data


def draw_gates(data: dict[str, Any]) -> Figure:
    """Draw the data of `gates_data`."""
    rows = data["rows"][:MOST_ROWS]
    layers = Counter(row["name"] for row in data["rows"])
    names = [row["name"] + (f" ({row['layer']})" if layers[row["name"]] > 1 else "") for row in rows]
    figure, axes, places = row_axes(names, [_count(row) for row in rows], 1.3)
    width = 72 * (figure.get_figwidth() - 1.75)
    for y, row in zip(places, rows, strict=True):
        for share, top, height in (("mean", y - 0.13, 0.17), ("mass", y + 0.06, 0.06)):
            left = 0.0
            for level, (context, value) in enumerate(zip(row["contexts"], row[share], strict=True)):
                if value is None:
                    continue
                colour = GLOBAL if context == "global" else NEAR_TO_FAR[min(level, len(NEAR_TO_FAR) - 1)]
                axes.barh(top, value, height, left, align="edge", color=colour, linewidth=0)
                text = f"{value:.0f}"
                if share == "mean" and text_width(text) * 0.8 < value / 100 * width - 2:
                    dark = context != "global" and level > 1
                    place = left + value / 2, top + height / 2
                    ink = "white" if dark else "black"
                    axes.text(*place, text, ha="center", va="center", fontsize=FONT_SIZE - 1.5, color=ink)
                left += value
    axes.set(xlim=(0, 100), xlabel="share of each level in %: near to far, then global")
    levels = max(sum(context != "global" for context in row["contexts"]) for row in rows)
    entries: list[tuple[Artist, list[str]]] = [
        (Patch(color=NEAR_TO_FAR[min(level, len(NEAR_TO_FAR) - 1)]), [f"level {level + 1}"]) for level in range(levels)
    ]
    entries.append((Patch(color=GLOBAL), ["global"]))
    entries.append((Line2D([], [], color=GREY, linewidth=6), ["thick: contribution"]))
    entries.append((Line2D([], [], color=GREY, linewidth=2), ["thin: sum of |gate|"]))
    add_legend(figure, entries, len(data["rows"]))
    return figure


def draw_fields(data: dict[str, Any]) -> Figure:
    """Draw the data of `fields_data`."""
    rows = data["rows"][:MOST_ROWS]
    figure, axes, places = row_axes([row["name"] for row in rows], [_count(row) for row in rows], 1.5)
    looks = {"backbone": (COLOURS[0], -0.07), "backbone+neck": (COLOURS[6], 0.07)}
    for y, row in zip(places, rows, strict=True):
        values = zip(*[iter(row["mean"])] * 2, strict=True)
        for (before, after), (colour, shift) in zip(values, looks.values(), strict=False):
            known = [value for value in (before, after) if value is not None]
            axes.plot(known, [y + shift] * len(known), color=colour, linewidth=1, zorder=2)
            # The open dot is the larger one, so that both are seen where training changed nothing.
            for value, face, size in ((before, "white", 7), (after, colour, 4)):
                if value is not None:
                    axes.plot(value, y + shift, "o", color=colour, markerfacecolor=face, markersize=size, zorder=3)
        if not row["mean"]:
            axes.annotate("no pictures", (0.5, y), xycoords=("axes fraction", "data"), ha="center", va="center", color=GREY)
    theories = {row["theoretical"] for row in rows if row["mean"] and row["theoretical"] is not None}
    for theory in theories:
        axes.axvline(theory, color=GREY, linestyle=":", linewidth=1, zorder=1)
    shares = {row["mass"] for row in rows if row["mass"] is not None}
    share = f"{100 * min(shares):.0f} %" if len(shares) == 1 else "most"
    axes.set(xlabel=f"radius in pixels that holds {share} of the weight")
    axes.set_xlim(left=0)
    axes.grid(axis="x", alpha=0.3)
    entries: list[tuple[Artist, list[str]]] = [
        (Line2D([], [], color=colour, marker="o", markersize=4), [what]) for what, (colour, _) in looks.items()
    ]
    open_dot = Line2D([], [], color=GREY, marker="o", markersize=7, markerfacecolor="white", linestyle="")
    entries.append((open_dot, ["before training (filled: after); mean over seeds"]))
    if theories:
        entries.append((Line2D([], [], color=GREY, linestyle=":"), ["theoretical radius of the backbone"]))
    add_legend(figure, entries, len(data["rows"]))
    return figure


def _distance(context: str) -> tuple[bool, int]:
    """From near to far: `level1 k3`, `level2 k5`, ..., `global`."""
    return context == "global", int("".join(itertools.takewhile(str.isdigit, context.removeprefix("level"))) or 0)


def _count(row: dict[str, Any]) -> str:
    return f"n = {row['n']}/{row['seeds']}" if row["n"] != row["seeds"] else ""


def _percent(share: float | None) -> float | None:
    return None if share is None else 100 * share


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(f"{math.fsum(known) / len(known):.7g}") if known else None


def _order(value: float | None) -> float:
    return -math.inf if value is None else value
