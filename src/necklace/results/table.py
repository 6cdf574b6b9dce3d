"""The tables of a study: one line for each of its rows, and runs.csv with one line for each run."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from necklace.guard.text import in_markdown, on_one_line
from necklace.results.notes import missing_runs
from necklace.results.results import Results, Row
from necklace.results.rulings import sentences
from necklace.results.stats import Difference, Interval, Summary, star, summarise
from necklace.results.verdicts import Verdict, in_words

Column = tuple[str, list[str]]
"""A header, and a text for each row."""


@dataclass(frozen=True)
class TableText:
    """The texts of a table, for Markdown, LaTeX, HTML and the terminal.

    Attributes:
        headers: One for each column.
        rows: As many texts each as there are headers.
        notes: Sentences under the table.
        caption: What the columns mean.
        answer: The verdicts, a sentence for each row.
    """

    headers: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...]
    caption: str
    answer: tuple[str, ...] = ()


def table_text(results: Results) -> TableText:
    """The table of a study: metrics in percent, differences in percentage points, no column without content.

    The answer comes first, then what it costs, then further statistics: a narrow screen shows the first columns.
    """
    every = (*_answer_columns(results), *_cost_columns(results), *_further_columns(results))
    columns = [column for column in every if any(column[1])]
    return TableText(
        headers=tuple(header for header, _ in columns),
        rows=tuple(zip(*(texts for _, texts in columns), strict=True)),
        notes=(*results.notes, *missing_runs(results.rows)),
        caption=_caption(results),
        answer=tuple(sentences(results)),
    )


def _answer_columns(results: Results) -> list[Column]:
    """The metric, and where there is a baseline, the differences to it and to the controls."""
    baseline, rows = results.study.baseline, results.rows
    compared = max(1, sum(row.name != baseline for row in rows))
    columns: list[Column] = [
        ("row", [row.name for row in rows]),
        ("n", [_count(row) for row in rows]),
        (f"{results.study.metric} %", [_mean(row) for row in rows]),
    ]
    if baseline is None:
        return columns
    to_baseline = [in_words(row.verdict) if row.verdict else "" for row in rows]
    to_control = [in_words(row.control.verdict) if row.control and row.control.verdict else "" for row in rows]
    columns += [("difference", [_difference(row, compared, results.anytime) for row in rows])]
    if results.anytime and results.setting:  # a t interval and a p value hold at one n alone
        kind = f"{100 * (1 - results.setting.alpha):g} % anytime"
        return columns + [
            (kind, [_bounds(row.verdict) for row in rows]),
            ("verdict", to_baseline),
            ("to control", [_to_control(row) for row in rows]),
            (f"{kind} to control", [_bounds(row.control.verdict if row.control else None) for row in rows]),
            ("verdict to control", to_control),
        ]
    return columns + [
        ("95 % t", [_interval(row.difference.interval if row.difference else None) for row in rows]),
        ("verdict", to_baseline),
        ("to control", [_to_control(row) for row in rows]),
        ("95 % t to control", [_interval(row.control.difference.interval if row.control else None) for row in rows]),
        ("verdict to control", to_control),
        ("p (Holm)", ["" if row.p_holm is None else f"{row.p_holm:.2g}" for row in rows]),
    ]


def _further_columns(results: Results) -> list[Column]:
    """Other statistics of the differences to the baseline, and the options that were chosen for the rows."""
    rows = results.rows
    differences = [row.difference for row in rows]
    bca = [difference.bca if difference and not results.anytime else None for difference in differences]
    return [
        ("95 % images", [_interval(row.images) for row in rows]),
        ("95 % BCa", [_interval(interval) for interval in bca]),
        ("P(better)", [f"{difference.p_better:.2f}" if difference else "" for difference in differences]),
        ("effect", [_effect(row) for row in rows]),
        ("chosen", [", ".join(f"{key}={value}" for key, value in row.chosen.items()) for row in rows]),
    ]


def _cost_columns(results: Results) -> list[Column]:
    """The costs of the rows' models."""
    costs = [row.cost for row in results.rows]
    return [
        ("params", [f"{cost.params:,}" if cost else "" for cost in costs]),
        ("of neck", [_share(f"{cost.neck_params:,}", cost.neck_params, cost.params) if cost else "" for cost in costs]),
        ("MACs (M)", [f"{cost.macs / 1e6:.2f}" if cost else "" for cost in costs]),
        ("of neck", [_share(f"{cost.neck_macs / 1e6:.2f}", cost.neck_macs, cost.macs) if cost else "" for cost in costs]),
        ("latency ms", [_number(cost and cost.latency_ms, 2) for cost in costs]),
        ("train images/s", [_number(cost and cost.train_images_per_s, 0) for cost in costs]),
        ("peak MiB", [_number(cost and cost.peak_memory_mib, 0) for cost in costs]),
    ]


def _caption(results: Results) -> str:
    """The meaning of the columns."""
    metric = f"{results.study.metric}: mean and standard deviation over seeds."
    if results.study.baseline is None:
        return metric
    control = (
        "to control: the difference to the matched row that has the neck's size. "
        if any(row.control for row in results.rows)
        else ""
    )
    if results.anytime:
        interval = (
            "with an interval that holds at every number of seeds at once, and over all comparisons of the table together; "
        )
    else:
        interval = (
            "with the t interval of its mean; p: paired t test, Holm's correction over rows "
            "(* below 0.05, where n can carry it); "
        )
    return (
        f"{metric} Difference to '{results.study.baseline}' in percentage points, paired by seed, {interval}"
        f"{_meaning_of_verdicts(results)}P(better): share of the seeds; effect: mean over standard deviation of the "
        "differences, corrected for small n; 95 % images: the interval for these weights, over test images, without "
        f"correction. {control}Costs are for one image; "
        f"latency at batch 1{_of_views(results)}; speeds in the precision of the training; "
        "peak memory of a process that trains."
    )


def _of_views(results: Results) -> str:
    """What latency is of, where evaluation averages views of an image."""
    configs = [run.record.config for row in results.rows for run in row.runs if run.record]
    return ", of all views that evaluation averages" if any(one.get("mirror") or one.get("shift") for one in configs) else ""


def _meaning_of_verdicts(results: Results) -> str:
    """What the verdicts mean; empty without any."""
    if results.setting is None:
        return ""
    margin, alpha = results.setting.margin, f"{results.setting.alpha:g}"
    margin = f"{margin:g} point{'s' * (margin != 1)}"
    return (
        f"verdict: equal where the whole interval, over all comparisons together, lies within the margin of {margin}, "
        f"better or worse where it leaves out 0; any of the verdicts is wrong with a probability of at most {alpha}, where the "
        "differences are normally distributed; "
    )


def _count(row: Row) -> str:
    """How many runs count, of those that were asked for, which need not be as many for each row."""
    n = row.summary.n if row.summary else 0
    return str(n) if n == len(row.runs) else f"{n}/{len(row.runs)}"


def _mean(row: Row) -> str:
    if row.summary is None:
        if any(run.record for run in row.runs):
            return "not measured"  # by code of that time, or of a class that test does not show
        if all(run.state == "damaged" for run in row.runs):
            return "set aside"
        return "failed" if any(run.failure for run in row.runs) else "missing"
    return _percent(row.summary)


def mean_text(values: Iterable[float]) -> str:
    """Mean and standard deviation of shares, in percent; empty without values."""
    found = np.array(list(values))
    return _percent(summarise(found)) if len(found) else ""


def _percent(summary: Summary) -> str:
    spread = "" if summary.sd is None else f" ± {100 * summary.sd:.2f}"
    return f"{100 * summary.mean:.2f}{spread}"


def _difference(row: Row, compared: int, anytime: bool) -> str:
    if row.difference is None:
        return ""
    starred = not anytime and star(row.p_holm, row.difference.n, compared)
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


def _bounds(found: Verdict | None) -> str:
    """The interval of a verdict; empty while there is none."""
    return "" if found is None or math.isinf(found.low) else _interval(Interval(found.low / 100, found.high / 100))


def _signed(share: float) -> str:
    return f"{100 * share:+.2f}".replace("-0.00", "+0.00")


def _share(text: str, part: int, whole: int) -> str:
    return f"{text} ({100 * part / max(whole, 1):.1f} %)"


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:,.{digits}f}"


def markdown(table: TableText, title: str) -> str:
    """The answer and the table in Markdown, with caption and notes."""

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(in_markdown(cell).replace("|", "\\|") for cell in cells) + " |"

    rule = "|" + "|".join(["---"] + ["---:"] * (len(table.headers) - 1)) + "|"
    answer, notes = ([f"- {in_markdown(sentence)}" for sentence in given] for given in (table.answer, table.notes))
    body = [line(table.headers), rule, *map(line, table.rows)]
    head = [f"# {in_markdown(title)}", "", *([*answer, ""] if answer else [])]
    return "\n".join([*head, *body, "", in_markdown(table.caption), *(["", *notes] if notes else []), ""])


def latex(table: TableText, title: str) -> str:
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
    escaped = "".join(_LATEX.get(character, character) for character in on_one_line(text))
    # A hyphen in front of a number would be typeset as a hyphen.
    return " ".join(f"${word}$" if word[:1] in "+-" and word[1:2].isdigit() else word for word in escaped.split(" "))


SHORT = ("row", "n", "difference", "95 % t", "params")


def terminal(table: TableText, title: str) -> Table:
    """The columns that fit into a terminal: the metric, its difference to the baseline and the parameters."""
    shown = Table(title=Text(title), box=SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    kept = [number for number, header in enumerate(table.headers) if header in SHORT or header.endswith((" %", " % anytime"))]
    for number in kept:
        shown.add_column(table.headers[number], justify="right" if number else "left", no_wrap=number > 0)
    for row in table.rows:
        shown.add_row(*(Text(row[number]) for number in kept))
    return shown
