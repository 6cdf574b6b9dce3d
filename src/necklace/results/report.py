"""A study's report: one HTML file that contains all that it shows and loads nothing from elsewhere."""

import base64
import re
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from necklace.guard.text import printable
from necklace.record import Record
from necklace.results.figure_data import Data, figure_data
from necklace.results.figures import render
from necklace.results.recipe import commits, recipe
from necklace.results.results import Results, metric_by_seed
from necklace.results.table import TableText, mean_text

# Heading and caption of each figure, in the order of the page.
_FIGURES = {
    "differences": (
        "Difference to the baseline",
        "Mean of the differences paired by seed, in percentage points. The thick bar is the 95 % interval over seeds; the thin "
        "bar is the 95 % interval over test images, for these weights.",
    ),
    "controls": (
        "Difference to the control of its own size",
        "The row minus the row of plain convolutions whose neck has as many parameters or multiply-adds: what is left is not a "
        "matter of size. Mean of the differences paired by seed, with the 95 % interval over seeds, in percentage points.",
    ),
    "params": (
        "Against parameters",
        "Filled and joined by the dotted line: no other row is better without costing more. Bars: standard deviation.",
    ),
    "latency": (
        "Against latency",
        "Median time of one forward pass of one image. Filled and joined: no other row is better without costing more.",
    ),
    "curves": ("Learning curves", "Mean over seeds; the band reaches from the lowest to the highest seed."),
    "sizes": (
        "By size of the test images",
        "The same weights on test images of several sizes. Mean over seeds; the band is from the lowest to the highest seed.",
    ),
    "gates": (
        "Gates of the focal layers",
        "Over all of val, with the weights that val chose; mean over seeds. Contribution: the norm of gate times context, "
        "which the modulator adds up. Gates are signed and unbounded, so their own sum says less.",
    ),
    "fields": (
        "Receptive fields",
        "Effective receptive field: how much each pixel weighs in the middle of the feature map (Luo et al. 2016). The square "
        "may lie anywhere. Mean over seeds.",
    ),
}

_PICTURES = {
    "receptive_field": "weight of each pixel in the middle of the feature map",
    "gates": "gates over images of val, before and after training",
    "confusion": "confusion matrix",
    "detections": "true and predicted boxes",
    "precision_recall": "precision against recall, at an IoU of 0.5",
    "errors": "what each kind of error costs (Bolya et al. 2020)",
}


def report_html(results: Results, table: TableText) -> str:
    """The report, the same text for the same results.

    Args:
        results: The results of a study.
        table: Its table; of its notes the report shows those of `results`, and lists failed and missing runs by itself.
    """
    data = figure_data(results)
    runs = [run for row in results.rows for run in row.runs]
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        finalize=lambda value: printable(value) if type(value) is str else value,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template("report.html.j2").render(
        results=results,
        table=table,
        recipe=recipe(results),
        commits=commits(results),
        figures=[
            (name, title, _figure_caption(name, caption, results), _inline(name, data[name], title))
            for name, (title, caption) in _FIGURES.items()
            if name in data
        ],
        pictures=[
            (run.row, run.seed, [(_caption(name), _png(content)) for name, content in run.thumbnails.items()])
            for run in runs
            if run.thumbnails
        ],
        runs=len(runs),
        largest_gap=max(map(abs, results.same.gaps.values())) if results.same else None,
        missing=[run for run in runs if run.record is None],
        by_class=_by_class(results),
        by_class_shows="Accuracy" if _kind(results) == "class_acc" else "Average precision",
    )


def _figure_caption(name: str, caption: str, results: Results) -> str:
    """A figure's caption with what its bands mean."""
    if name not in ("differences", "controls"):
        return caption
    if results.setting:
        caption += " The band is the margin: what lies within it does not matter. A colour is a verdict, over all comparisons."
    if name == "differences":
        caption += f" The {'dotted lines are' if results.setting else 'band is'} the spread of the baseline between seeds."
    if results.anytime:
        caption = caption.replace("the 95 % interval over seeds", "the interval over seeds that holds at any number of them")
    return caption


def _by_class(results: Results) -> list[tuple[str, ...]]:
    """The table of accuracy, or average precision, by class: a header, then for each class its name, test images and rows.

    Empty where no run has these metrics.
    """
    kind = _kind(results)
    records = [run.record for row in results.rows for run in row.runs if run.record]
    names = dict.fromkeys(name for record in records for name in record.data.get("classes", []))
    lines = []
    for name in names:
        values = [metric_by_seed(row.runs, f"test/{kind}/{name}").values() for row in results.rows]
        if any(values):
            counts = {_test_images(record, name) for record in records}
            lines.append((name, counts.pop() if len(counts) == 1 else "", *map(mean_text, values)))
    if lines and kind == "class_acc":
        values = [metric_by_seed(row.runs, "test/balanced_acc").values() for row in results.rows]
        lines.append(("balanced accuracy", "", *map(mean_text, values)))
    header = ("class", "test images", *(row.name for row in results.rows))
    return [header, *lines] if lines else []


def _kind(results: Results) -> str:
    """Which metric of single classes goes with the study's metric: `box_ap`, `ap` or `class_acc`."""
    if results.study.metric.startswith("test/box_"):
        return "box_ap50" if results.study.metric.startswith(("test/box_map50", "test/box_ap50/")) else "box_ap"
    return "ap" if results.study.metric.startswith(("test/map", "test/ap/")) else "class_acc"


def _test_images(record: Record, name: str) -> str:
    """The number of test images of a class; empty in old records."""
    counts = dict(zip(record.data.get("classes", []), record.data.get("class_counts", {}).get("test", []), strict=False))
    return str(counts.get(name, ""))


def _caption(name: str) -> str:
    """The caption of a picture; those of a model with several focal layers are numbered."""
    kind, _, number = name.rpartition("_") if name[-1:].isdigit() else (name, "", "")
    return _PICTURES.get(kind, kind) + (f", focal layer {number}" if number else "")


def _png(content: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(content).decode()}"


def _inline(name: str, data: Data, title: str) -> Markup:
    """The figure as an SVG element that scales with the page.

    Its text is escaped by matplotlib, so that it may stand in the page as it is.
    """
    svg = render(name, data, "svg").decode()
    svg = svg[svg.index("<svg") :]  # an XML declaration has no place inside a page
    svg = re.sub(r' (?:width|height)="[\d.]+pt"', "", svg, count=2)
    # Every figure numbers its parts from 1, and an id may stand once in a page.
    svg = re.sub(r'\b(id="|href="#|url\(#)', rf"\1{name}-", svg)
    return Markup(svg.replace("<svg", f'<svg role="img" aria-label="{title}"', 1))
