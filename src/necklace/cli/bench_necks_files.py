"""What `necklace bench necks` writes: a table to read, the same as CSV, and a picture of the ratios."""

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from rich.console import Console

from necklace.atomic import write_whole
from necklace.plotting import COLOURS, plain_axes, plain_style, saved


@dataclass(frozen=True)
class Row:
    """One way of computing one neck, in one direction; times in ms of CPU time, or of the GPU."""

    neck: str
    way: str
    size: str
    dtype: str
    device: str
    direction: str
    params: int
    macs: int
    ms: float
    ms_q1: float
    ms_q3: float
    wall_over_ms: float
    ratio: float
    reference: str
    saved_mib: float
    share_of_best_rate: float


@dataclass(frozen=True)
class Header:
    """How the rows came about.

    Attributes:
        command: The command.
        machine: The machine and the versions.
        load: The machine's load before and after.
        kept_memory: Whether the allocator keeps what is freed.
        rates: Precision to GMAC a second of each measured operator.
        rounds: Measured rounds.
    """

    command: str
    machine: str
    load: str
    kept_memory: bool
    rates: dict[str, dict[str, float]]
    rounds: int

    def lines(self, rows: Sequence[Row]) -> list[str]:
        """The header in lines."""
        on_cpu = rows[0].device == "cpu"
        time = "CPU time on one thread" if on_cpu else "GPU time"
        busiest = f", wall time at most {max(row.wall_over_ms for row in rows):.2f} of it" if on_cpu else ""
        rates = [
            f"{dtype} " + ", ".join(f"{name} {rate:,.0f}" for name, rate in own.items()) for dtype, own in self.rates.items()
        ]
        return [
            f"Command: {self.command}",
            f"Machine: {self.machine}; {self.load}",
            f"Allocator: {'keeps what is freed (mallopt)' if self.kept_memory else 'as the C library has it'}, for all ways",
            f"Times: {time}{busiest}; median and quartiles of {self.rounds} rounds of all ways in turn",
            f"Best rates in GMAC/s: {', '.join(rates)}; backward counts twice the MACs of forward",
            "Ratio: to the plain form, or to the faster of timm's two layouts; median over rounds",
            "Saved: for backward, without the input and the weights",
        ]


def write_files(out: Path, about: Header, rows: Sequence[Row], console: Console) -> None:
    """Write table.md, necks.csv and necks.png into a folder and print the table.

    Args:
        out: The folder; it is made.
        about: How the rows came about.
        rows: The rows.
        console: Where to print.
    """
    table, header = _table(rows), about.lines(rows)
    out.mkdir(parents=True, exist_ok=True)
    write_whole(out / "table.md", "\n".join(["# necklace bench necks", "", *(f"- {line}" for line in header), "", *table, ""]))
    write_whole(out / "necks.csv", _csv(header, rows))
    write_whole(out / "necks.png", _picture(rows))
    for line in (*header, "", *table, "", f"written to {out}: table.md, necks.csv, necks.png"):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _table(rows: Sequence[Row]) -> list[str]:
    columns = (
        "size",
        "type",
        "neck",
        "way",
        "direction",
        "params",
        "MMACs",
        "ms",
        "quartiles",
        "ratio",
        "saved MiB",
        "of best %",
    )
    lines = [f"| {' | '.join(columns)} |", "|" + " --- |" * 5 + " ---: |" * 7]
    for row in rows:
        cells = (
            *(row.size, row.dtype, row.neck, row.way, row.direction, f"{row.params:,}", f"{row.macs / 1e6:,.0f}"),
            *(f"{row.ms:.2f}", f"{row.ms_q1:.2f}–{row.ms_q3:.2f}", f"{row.ratio:.2f}"),
            *(f"{row.saved_mib:.1f}" if row.saved_mib else "", f"{100 * row.share_of_best_rate:.0f}"),
        )
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _csv(header: Sequence[str], rows: Sequence[Row]) -> str:
    file = io.StringIO()
    file.writelines(f"# {line}\n" for line in header)
    writer = csv.DictWriter(file, [field.name for field in fields(Row)], lineterminator="\n")
    writer.writeheader()
    for row in rows:
        values = asdict(row).items()
        writer.writerow({name: f"{value:.4g}" if isinstance(value, float) else value for name, value in values})
    return file.getvalue()


def _picture(rows: Sequence[Row]) -> bytes:
    """Ratio to the reference of each way that is none, forward and forward+backward."""
    drawn = [row for row in rows if row.way != row.reference and row.way.startswith("ours")]
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
