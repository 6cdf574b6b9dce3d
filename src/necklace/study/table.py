"""The tables of a study: one row for each of its rows, and runs.csv with one line for each cell."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from necklace.study.archive import Archive
from necklace.study.results import Results, Row
from necklace.study.stats import Difference, Interval, star


@dataclass(frozen=True)
class Layout:
    """A table as text, whatever it is written in.

    Attributes:
        headers: One for each column.
        rows: As many texts each as there are headers.
        notes: Sentences under the table.
        caption: What the columns mean.
    """

    headers: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...]
    caption: str


def layout(results: Results) -> Layout:
    """Lay out a study's rows: metrics in percent, differences in percentage points, no column without content."""
    compared = max(1, sum(row.name != results.baseline for row in results.rows))
    total = len(results.seeds)
    columns: list[tuple[str, list[str]]] = [
        ("row", [row.name for row in results.rows]),
        ("n", [_count(row, total) for row in results.rows]),
        (f"{results.metric} %", [_mean(row) for row in results.rows]),
    ]
    if results.baseline is not None:
        bca = [_interval(row.difference.bca if row.difference else None) for row in results.rows]
        columns += [
            ("difference", [_difference(row, compared) for row in results.rows]),
            ("95 % t", [_interval(row.difference.interval if row.difference else None) for row in results.rows]),
            *([("95 % BCa", bca)] if any(bca) else []),
            ("p (Holm)", ["" if row.p_holm is None else f"{row.p_holm:.2g}" for row in results.rows]),
            ("P(better)", [f"{row.difference.p_better:.2f}" if row.difference else "" for row in results.rows]),
            ("effect", [_effect(row) for row in results.rows]),
            ("95 % images", [_interval(row.images) for row in results.rows]),
            ("to control", [_to_control(row) for row in results.rows]),
            (
                "95 % t to control",
                [_interval(row.control.difference.interval if row.control else None) for row in results.rows],
            ),
        ]
    costs = [row.cost for row in results.rows]
    columns += [
        ("params", [f"{cost.params:,}" if cost else "" for cost in costs]),
        ("of neck", [_share(f"{cost.neck_params:,}", cost.neck_params, cost.params) if cost else "" for cost in costs]),
        ("MACs (M)", [f"{cost.macs / 1e6:.2f}" if cost else "" for cost in costs]),
        ("of neck", [_share(f"{cost.neck_macs / 1e6:.2f}", cost.neck_macs, cost.macs) if cost else "" for cost in costs]),
        ("latency ms", [_number(cost and cost.latency_ms, 2) for cost in costs]),
        ("train images/s", [_number(cost and cost.train_images_per_s, 0) for cost in costs]),
        ("peak MiB", [_number(cost and cost.peak_memory_mib, 0) for cost in costs]),
        ("chosen", [", ".join(f"{key}={value}" for key, value in row.chosen.items()) for row in results.rows]),
    ]
    columns = [column for column in columns if any(column[1])]
    return Layout(
        headers=tuple(header for header, _ in columns),
        rows=tuple(zip(*(texts for _, texts in columns), strict=True)),
        notes=(*results.notes, *_lost(results)),
        caption=_caption(results),
    )


def _caption(results: Results) -> str:
    if results.baseline is None:
        return f"{results.metric}: mean and standard deviation over seeds."
    control = (
        "to control: the difference to the matched row that has the neck's size. "
        if any(row.control for row in results.rows)
        else ""
    )
    return (
        f"{results.metric}: mean and standard deviation over seeds. Difference to '{results.baseline}' in percentage points, "
        "paired by seed, with the t interval of its mean; p: paired t test, Holm's correction over rows (* below 0.05, where n "
        "can carry it); P(better): share of the seeds; effect: mean over standard deviation of the differences, corrected for "
        "small n; images: the interval for these weights, over test images, without correction. "
        f"{control}Costs are for one image; "
        "latency at batch 1; peak memory of a process that trains."
    )


def _count(row: Row, total: int) -> str:
    n = row.summary.n if row.summary else 0
    return str(n) if n == total else f"{n}/{total}"


def _mean(row: Row) -> str:
    if row.summary is None:
        return "failed" if any(run.failure for run in row.runs) else "missing"
    spread = "" if row.summary.sd is None else f" ± {100 * row.summary.sd:.2f}"
    return f"{100 * row.summary.mean:.2f}{spread}"


def _difference(row: Row, compared: int) -> str:
    if row.difference is None:
        return ""
    starred = star(row.p_holm, row.difference.n, compared)
    return f"{_signed(row.difference.mean)}{'*' if starred else ''}{_pairs(row, row.difference)}"


def _to_control(row: Row) -> str:
    return f"{_signed(row.control.difference.mean)}{_pairs(row, row.control.difference)}" if row.control else ""


def _pairs(row: Row, difference: Difference) -> str:
    """How many seeds a difference is over, where the row has more."""
    return f" (n = {difference.n})" if row.summary and difference.n != row.summary.n else ""


def _effect(row: Row) -> str:
    return "" if row.difference is None or row.difference.effect_size is None else f"{row.difference.effect_size:.2f}"


def _interval(interval: Interval | None) -> str:
    return "" if interval is None else f"{_signed(interval.low)} to {_signed(interval.high)}"


def _signed(share: float) -> str:
    return f"{100 * share:+.2f}".replace("-0.00", "+0.00")


def _share(text: str, part: int, whole: int) -> str:
    return f"{text} ({100 * part / max(whole, 1):.1f} %)"


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:,.{digits}f}"


def _lost(results: Results) -> list[str]:
    """A sentence for each cell that is not there."""
    lost = [run for row in results.rows for run in row.runs if run.record is None]
    return [f"{run.row}, seed {run.seed}: {f'failed: {run.failure}' if run.failure else 'missing'}" for run in lost]


def markdown(table: Layout, title: str) -> str:
    """The table in Markdown, with caption and notes."""

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"

    rule = "|" + "|".join(["---"] + ["---:"] * (len(table.headers) - 1)) + "|"
    notes = [f"- {note}".replace("\n", " ") for note in table.notes]
    body = [line(table.headers), rule, *map(line, table.rows)]
    return "\n".join([f"# {title}", "", *body, "", table.caption, *(["", *notes] if notes else []), ""])


def latex(table: Layout, title: str) -> str:
    """The table in LaTeX, for the package booktabs."""
    rows = [" & ".join(map(_latex, row)) + r" \\" for row in table.rows]
    notes = [rf"\par\footnotesize {_latex(' '.join(note.split()))}" for note in table.notes]
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{_latex(title)}. {_latex(table.caption)}}}",
            rf"\begin{{tabular}}{{l{'r' * (len(table.headers) - 1)}}}",
            r"\toprule",
            " & ".join(map(_latex, table.headers)) + r" \\",
            r"\midrule",
            *rows,
            r"\bottomrule",
            r"\end{tabular}",
            *notes,
            r"\end{table}",
            "",
        ]
    )


_LATEX = {"\\": r"\textbackslash{}", "±": r"$\pm$", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}"}
_LATEX |= {">": r"\textgreater{}", "|": r"\textbar{}"} | {character: f"\\{character}" for character in "&%$#_{}"}


def _latex(text: str) -> str:
    escaped = "".join(_LATEX.get(character, character) for character in text)
    # A hyphen in front of a number would be typeset as a hyphen.
    return " ".join(f"${word}$" if word[:1] in "+-" and word[1:2].isdigit() else word for word in escaped.split(" "))


SHORT = ("row", "n", "difference", "95 % t", "params")


def terminal(table: Layout, title: str) -> Table:
    """The columns that fit a terminal: the metric, its difference to the baseline and the parameters."""
    shown = Table(title=Text(title), box=SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    kept = [number for number, header in enumerate(table.headers) if header in SHORT or header.endswith(" %")]
    for number in kept:
        shown.add_column(table.headers[number], justify="right" if number else "left", no_wrap=number > 0)
    for row in table.rows:
        shown.add_row(*(Text(row[number]) for number in kept))
    return shown


def runs_csv(archive: Archive) -> str:
    """One line for each cell, finished or not."""
    names = sorted({name for cell in archive.cells if cell.record for name in cell.record.figures})
    options = list(dict.fromkeys(key for cell in archive.cells for key in cell.choice))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    fixed = ("best_epoch", "epochs", "steps", "params", "macs", "neck_params", "neck_macs", "fit_seconds", "images_per_s")
    ends = ("weights_hash", "git_sha", "git_dirty", "failure")
    writer.writerow(["row", "seed", *options, "cell", "state", *names, *fixed, *ends])
    for cell in archive.cells:
        record = cell.record
        start = [cell.row, cell.seed, *(cell.choice.get(key, "") for key in options), cell.cell, cell.state]
        if record is None:
            writer.writerow([*start, *[""] * (len(names) + len(fixed) + 3), cell.failure or ""])
            continue
        git, neck = record.git or {"sha": "", "dirty": ""}, record.cost["neck"]
        writer.writerow(
            [
                *start,
                *(record.figures.get(name, "") for name in names),
                record.best_epoch,
                record.epochs,
                record.steps,
                record.total("params"),
                record.total("macs"),
                neck["params"],
                neck["macs"],
                f"{record.fit_seconds:.1f}",
                f"{record.images_per_s:.1f}",
                record.weights_hash,
                git["sha"],
                git["dirty"],
                "",
            ]
        )
    return text.getvalue()
