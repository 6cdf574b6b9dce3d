import io
import json
from dataclasses import replace
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.colors import to_rgb
from PIL import Image

from necklace.plotting import LABEL, LEGEND, drawable, fitted_lines, text_width
from necklace.results.figure_data import figure_data
from necklace.results.figures import MOST_ROWS, draw, render, write_figures
from tests.synthetic import example, example_results, example_row

NAMES = ("differences", "controls", "params", "latency", "curves", "sizes")
SMALL_PLOTS = ("curves", "sizes")  # with more than six rows


@given(name=st.text(max_size=400), width=st.sampled_from([60, LABEL, LEGEND]), most=st.integers(1, 3))
def test_a_name_fits_whatever_it_is(name: str, width: float, most: int) -> None:
    lines = fitted_lines(name, width, most)
    assert len(lines) <= most
    assert all(text_width(line) <= width for line in lines)
    whole, shown = "".join(drawable(name).split()), "".join(lines).replace(" ", "")
    if "…" in shown and "…" not in name:
        start, _, end = shown.partition("…")
        assert len(start) + len(end) > 2
        assert len(start + end) < len(whole)
    elif "…" not in name:
        assert len(shown) == len(whole)


def test_the_forest_is_drawn_where_its_data_says() -> None:
    data = figure_data(example())["differences"]
    axes = draw("differences", data).axes[0]
    drawn = [np.asarray(line.get_xydata()) for line in axes.lines]
    for y, found in zip(axes.get_yticks(), data["rows"], strict=True):
        at = [line[:, 0].tolist() for line in drawn if np.allclose(line[:, 1], y)]
        assert at == ([found["t"], [found["mean"]]] if found["mean"] is not None else [])
        below = [line[:, 0].tolist() for line in drawn if np.allclose(line[:, 1], y + 0.1)]
        assert below == ([found["images"]] if found["images"] else [])
    assert axes.patches[0].get_extents().transformed(axes.transData.inverted()).x1 == pytest.approx(data["noise"])
    texts = [text.get_text() for text in axes.get_yticklabels()]
    assert texts[-2].endswith("\nn = 2/3")
    assert texts[-1].endswith("\nn = 0/3")
    assert [text.get_text() for text in axes.texts] == ["no run has finished"]


def test_differences_to_controls_are_drawn_where_their_data_says() -> None:
    data = figure_data(example())["controls"]
    axes = draw("controls", data).axes[0]
    drawn = [np.asarray(line.get_xydata()) for line in axes.lines[1:]]
    for y, found in zip(axes.get_yticks(), data["rows"], strict=True):
        assert [line[:, 0].tolist() for line in drawn if np.allclose(line[:, 1], y)] == [found["t"], [found["mean"]]]
    names = [" ".join(text.get_text().split()) for text in axes.get_yticklabels()]
    assert names == ["spp to conv, match=params of sppf", "sppf to conv, match=params of sppf"]


def test_each_of_many_rows_has_a_plot_of_its_own() -> None:
    data = figure_data(example())
    for name, across in (("curves", "epoch"), ("sizes", "side")):
        figure = draw(name, data[name])
        shown = [axes for axes in figure.axes if axes.get_visible()]
        rows = data[name]["rows"]
        known = [found["mean"] for found in rows if found["mean"]]
        for axes, found in zip(shown, rows, strict=True):
            lines = [np.asarray(line.get_ydata()).tolist() for line in axes.lines]
            own = [found["mean"]] if found["mean"] else []
            assert lines == [*known, *([rows[0]["mean"]] if found is not rows[0] else []), *own]
            greys = {line.get_color() for line in axes.lines[: len(known)]}
            assert len(greys) == 1
            assert not greys & {line.get_color() for line in axes.lines[len(known) :]}
            assert len(axes.collections) == len(own)
            if own:
                assert np.asarray(axes.lines[-1].get_xdata()).tolist() == found[across]
            assert axes.get_ylim() == shown[0].get_ylim()
            assert " ".join(axes.get_title(loc="left").split()).startswith(found["name"])


def test_bands_and_points_are_drawn_where_their_data_says() -> None:
    data = figure_data(example())
    few = figure_data(replace(example(), rows=example().rows[3:]))
    for name, across in (("curves", "epoch"), ("sizes", "side")):
        (axes,) = draw(name, few[name]).axes
        rows = [found for found in few[name]["rows"] if found["mean"]]
        assert [np.asarray(line.get_ydata()).tolist() for line in axes.lines] == [found["mean"] for found in rows]
        assert [np.asarray(line.get_xdata()).tolist() for line in axes.lines] == [found[across] for found in rows]
        for band, found in zip(axes.collections, rows, strict=True):
            corners = {(x, y) for x, y in np.asarray(band.get_paths()[0].vertices).tolist()}
            assert corners == {*zip(found[across], found["low"], strict=True), *zip(found[across], found["high"], strict=True)}
    for name in ("params", "latency"):
        axes = draw(name, data[name]).axes[0]
        rows = [found for found in data[name]["rows"] if found["mean"] is not None]
        assert [container[0].get_xydata().tolist() for container in axes.containers] == [[[r["x"], r["mean"]]] for r in rows]
        bars = [container[2][0].get_segments()[0][:, 1] for container in axes.containers]
        assert np.allclose([np.diff(bar)[0] / 2 for bar in bars], [found["sd"] for found in rows])
        filled = [container[0].get_markerfacecolor() != "white" for container in axes.containers]
        assert filled == [found["front"] for found in rows]


def test_equal_points_are_both_seen() -> None:
    axes = draw("params", figure_data(example())["params"]).axes[0]
    spp, sppf = axes.containers[3][0], axes.containers[4][0]
    assert spp.get_xydata().tolist() == sppf.get_xydata().tolist()
    assert sppf.get_markersize() < 0.6 * spp.get_markersize()
    assert sppf.get_zorder() > spp.get_zorder()
    assert to_rgb(spp.get_color()) != to_rgb(sppf.get_color())


@pytest.mark.parametrize("name", NAMES)
def test_equal_data_gives_equal_bytes(name: str) -> None:
    data = figure_data(example())[name]
    again = json.loads(json.dumps(data))
    assert again == data
    png, svg = render(name, data, "png"), render(name, data, "svg")
    # A user's own settings, and whatever else was drawn before, do not show.
    with matplotlib.rc_context({"font.size": 20, "axes.grid": True, "lines.linewidth": 5, "svg.hashsalt": "other"}):
        draw("params", figure_data(example())["params"])
        assert render(name, again, "png") == png
        assert render(name, again, "svg") == svg
    assert b"matplotlib.org" not in svg
    assert b"<metadata" not in svg
    with Image.open(io.BytesIO(png)) as image:
        assert not {"Software", "Creation Time"} & image.info.keys()
    mean = data["rows"][1]["mean"]
    data["rows"][1]["mean"] = [9.0] * len(mean) if isinstance(mean, list) else 9.0
    assert render(name, data, "png") != png


@pytest.mark.parametrize(
    ("name", "taken"), [*((name, slice(10)) for name in NAMES), ("curves", slice(6)), ("sizes", slice(1, 7))]
)
def test_any_name_is_drawn_inside_the_picture(name: str, taken: slice) -> None:
    # Warnings are errors here, so that a glyph the font lacks would fail; $ would start a formula, _ would leave the legend.
    names = (
        "none",
        "_private",
        "a$b_c$d$",
        "$\\frac{$",
        "W" * 300,
        "emoji 🦄 漢字",
        "long words " * 30,
        "tab\tand\nline",
        "<b>&'\"",
        "",
    )
    base = example()
    control = base.rows[3].control
    rows = (replace(base.rows[i % 8], name=text, control=control) for i, text in enumerate(names[taken]))
    data = figure_data(replace(base, rows=tuple(rows)))[name]
    figure = draw(name, data)
    figure.draw_without_rendering()
    whole = figure.bbox
    axes = figure.axes[0]
    texts = [text.get_text() for text in [*figure.legends[0].get_texts(), *axes.get_yticklabels()]]
    texts += [plot.get_title(loc="left") for plot in figure.axes]
    shown = "\n".join(texts)
    assert "_private" in shown
    assert "a$b_c$d$" in shown
    assert "emoji U+1F984" in shown
    assert "WW…" in shown.replace("\n", "")
    box = figure.get_tightbbox()  # of all that is seen, in inches
    assert min(box.x0, box.y0) > -0.02
    assert box.x1 < whole.width / figure.dpi + 0.02
    assert box.y1 < whole.height / figure.dpi + 0.02
    small = len(figure.axes) > 1
    for plot in (axes.get_window_extent() for axes in figure.axes):
        assert plot.width > 0.4 * whole.width
        assert plot.height > (0.7 if small else 1.5) * figure.dpi
        assert figure.legends[0].get_window_extent().y1 < plot.y0
    assert small or figure.legends[0].get_window_extent().y1 < axes.xaxis.label.get_window_extent().y0 + 1
    assert b"\xf0\x9f\xa6\x84" not in render(name, data, "svg")


@pytest.mark.parametrize("name", NAMES)
def test_hundreds_of_rows_leave_a_picture_that_can_be_opened(name: str) -> None:
    base = example()
    control = base.rows[3].control
    many = replace(base, rows=tuple(replace(base.rows[i % 8], name=f"row {i}", control=control) for i in range(300)))
    data = figure_data(many)[name]
    assert len(data["rows"]) == 300
    figure = draw(name, data)
    assert figure.get_figheight() < 30
    assert f"{MOST_ROWS} of 300 rows are drawn" in [text.get_text() for text in figure.legends[0].get_texts()]


def test_costs_far_apart_have_a_log_axis() -> None:
    far = figure_data(example_results(example_row("none", [0.5], params=1000), example_row("vit", [0.6], params=80_000_000)))[
        "params"
    ]
    near = figure_data(example_results(example_row("none", [0.5], params=1000), example_row("conv", [0.6], params=1500)))[
        "params"
    ]
    free = figure_data(example_results(example_row("none", [0.5], params=0), example_row("conv", [0.6], params=1500)))["params"]
    assert [draw("params", data).axes[0].get_xscale() for data in (far, near, free)] == ["log", "linear", "linear"]


def test_files_are_whole_and_old_ones_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "figures"
    write_figures(example(), folder)
    assert {path.name for path in folder.iterdir()} == {f"{name}.{kind}" for name in NAMES for kind in ("json", "png")}
    for name, data in figure_data(example()).items():
        assert json.loads((folder / f"{name}.json").read_text()) == data
        assert (folder / f"{name}.png").read_bytes() == render(name, data, "png")
    before = {path: path.read_bytes() for path in folder.iterdir()}
    (folder / "mine.png").write_text("kept")

    # A picture that cannot be drawn leaves all files as they were.
    monkeypatch.setitem(draw.__globals__["_DRAW"], "sizes", lambda data: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_figures(replace(example(), rows=example().rows[:3]), folder)
    assert {path: path.read_bytes() for path in before} == before

    write_figures(example_results(example_row("none", [0.5], latency=None)), folder)
    assert {path.name for path in folder.iterdir()} == {"params.json", "params.png", "mine.png"}


def test_an_unknown_figure_is_named() -> None:
    with pytest.raises(
        ValueError, match="no figure is called loss; there are differences, controls, params, latency, curves, sizes"
    ):
        draw("loss", {})
