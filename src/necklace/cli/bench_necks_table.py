"""The table of `necklace bench necks`, and a picture of its ratios."""

from collections.abc import Sequence
from dataclasses import dataclass

from necklace.plotting import COLOURS, plain_axes, plain_style, saved

# Name to the format of its numbers, in the order of `Row.cells`.
COLUMNS = {
    **dict.fromkeys(("size", "type", "neck", "way", "direction"), ""),
    "params": ",d",
    "MMACs": ",.0f",
    **dict.fromkeys(("ms", "quartile 1", "quartile 3", "wall / ms", "ratio"), ".2f"),
    "saved MiB": ".1f",
    "of best %": ".0f",
}


@dataclass(frozen=True)
class Row:
    """One way of computing one neck, in one direction; times in ms of CPU time, or of the GPU.

    `ratio` is to the reference: the faster of timm's two layouts, or the plain form. `saved_mib` is None without a backward.
    """

    size: str
    dtype: str
    neck: str
    way: str
    direction: str
    params: int
    macs: int
    ms: float
    ms_q1: float
    ms_q3: float
    wall_over_ms: float
    ratio: float
    saved_mib: float | None
    share_of_best_rate: float

    def cells(self) -> list[str | float | None]:
        """Its cells below `COLUMNS`."""
        return [
            *(self.size, self.dtype, self.neck, self.way, self.direction, self.params, self.macs / 1e6),
            *(self.ms, self.ms_q1, self.ms_q3, self.wall_over_ms, self.ratio, self.saved_mib, 100 * self.share_of_best_rate),
        ]


def picture(rows: Sequence[Row]) -> bytes:
    """A PNG of the ratio of each of our ways to the neck's reference, forward and forward+backward."""
    compared = {row.neck for row in rows if not row.way.startswith("ours")}
    drawn = [row for row in rows if row.way.startswith("ours") and row.neck in compared]
    names = list(dict.fromkeys((row.size, row.dtype, row.neck, row.way) for row in drawn))
    with plain_style("necks"):
        figure, axes = plain_axes(0.8 + 0.17 * len(names))
        for number, direction in enumerate(dict.fromkeys(row.direction for row in drawn)):
            own = [row for row in drawn if row.direction == direction]
            places = [names.index((row.size, row.dtype, row.neck, row.way)) for row in own]
            axes.plot([row.ratio for row in own], places, "os"[number], color=COLOURS[number], markersize=4, label=direction)
        axes.axvline(1, color=COLOURS[0], linewidth=0.8)
        axes.set_yticks(range(len(names)), [", ".join((*name[2:], name[0], name[1])) for name in names], fontsize=5)
        axes.set_ylim(len(names) - 0.5, -0.5)
        axes.set_xlim(left=0)
        axes.set_xlabel("ratio of times")
        figure.legend(loc="outside lower left", ncols=2)
    return saved(figure, "necks", "png")
