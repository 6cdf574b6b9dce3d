"""A study's report: one HTML file that holds all it shows and fetches nothing."""

import base64
import re
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from necklace.record import write_whole
from necklace.study.figures import figure_data, render
from necklace.study.results import Results
from necklace.study.table import Layout

# Heading and caption of each figure, in the order of the page.
_FIGURES = {
    "differences": (
        "Difference to the baseline",
        "Mean of the differences paired by seed, in percentage points. The thick bar says where the mean over many seeds may "
        "lie; the thin bar keeps these weights and says the same for many test images. The band is the spread of the baseline "
        "between seeds.",
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
        "What the gates let through",
        "Over all of val, with the weights that val chose; mean over seeds. Contribution: the norm of gate times context, "
        "which the modulator adds up. Gates are signed and unbounded, so their own sum says less.",
    ),
    "fields": (
        "How far the networks look",
        "Effective receptive field: how much each pixel weighs in the middle of the feature map (Luo et al. 2016). The square "
        "may lie anywhere. Mean over seeds.",
    ),
}

_PICTURES = {
    "receptive_field": "weight of each pixel in the middle of the feature map",
    "gates": "gates over images of val, before and after training",
    "confusion": "confusion matrix",
}


def write_report(results: Results, table: Layout, path: Path) -> None:
    """Write the report, the same bytes for the same results.

    Args:
        results: What the study found.
        table: Its table; of its notes the report shows those of `results`, and lists failed and missing runs by itself.
        path: An .html file in a folder that exists; written whole or not at all.
    """
    data = figure_data(results)
    runs = [run for row in results.rows for run in row.runs]
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    page = environment.get_template("report.html.j2").render(
        results=results,
        table=table,
        figures=[(name, *texts, _inline(name, data[name], texts[0])) for name, texts in _FIGURES.items() if name in data],
        pictures=[
            (run.row, run.seed, [(_caption(name), _png(content)) for name, content in run.thumbnails.items()])
            for run in runs
            if run.thumbnails
        ],
        runs=len(runs),
        largest_gap=max(map(abs, results.same.gaps.values())) if results.same else None,
        lost=[run for run in runs if run.record is None],
    )
    write_whole(path, page)


def _caption(name: str) -> str:
    """What a picture shows; those of a model with several focal layers are numbered."""
    kind, _, number = name.rpartition("_") if name[-1:].isdigit() else (name, "", "")
    return _PICTURES.get(kind, kind) + (f", focal layer {number}" if number else "")


def _png(content: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(content).decode()}"


def _inline(name: str, data: dict, title: str) -> Markup:
    """The figure as an SVG element that scales with the page.

    Its text is escaped by matplotlib, so that it may stand in the page as it is.
    """
    svg = render(name, data, "svg").decode()
    svg = svg[svg.index("<svg") :]  # an XML declaration has no place inside a page
    svg = re.sub(r' (?:width|height)="[\d.]+pt"', "", svg, count=2)
    # Every figure numbers its parts from 1, and an id may stand once in a page.
    svg = re.sub(r'\b(id="|href="#|url\(#)', rf"\1{name}-", svg)
    return Markup(svg.replace("<svg", f'<svg role="img" aria-label="{title}"', 1))
