import dataclasses
import io
import json
import math
from dataclasses import replace
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.colors import to_rgb
from PIL import Image
from scipy import stats

from necklace.canvas import LABEL, LEGEND, fitted_lines, text_width
from necklace.record import Record
from necklace.study.figures import MOST_ROWS, draw, figure_data, render, write_figures
from necklace.study.results import Results, Row, RowCost, Run, SamePair
from necklace.study.stats import Difference, Interval, Summary

NAMES = ("differences", "params", "latency", "curves", "sizes")


def record(figures: dict[str, float]) -> Record:
    empty = {"str": "", "int": 0, "float": 0.0, "list": [], "dict": {}}
    values = {field.name: empty.get(str(getattr(field.type, "__name__", "")), {}) for field in dataclasses.fields(Record)}
    return Record(**values | {"figures": figures, "test_correct": None, "git": None})


def row(
    name: str,
    accuracies: list[float | None],
    params: int = 1000,
    latency: float | None = 1.0,
    curves: list[list[float]] | None = None,
    sizes: dict[int, list[float]] | None = None,
    baseline: list[float | None] | None = None,
    images: Interval | None = None,
    failure: str | None = None,
) -> Row:
    """A row from its accuracy by seed (None: no run), val accuracy by seed and epoch, and accuracy by side and seed."""
    runs = []
    for seed, accuracy in enumerate(accuracies):
        cell = f"{name.replace(' ', '')}_s{seed}_0123abcd"
        if accuracy is None:
            runs.append(Run(name, seed, cell, None, {}, failure))
            continue
        figures = {"test/acc": accuracy} | {f"test/acc@{side}": values[seed] for side, values in (sizes or {}).items()}
        curve = {"epoch": [float(i) for i in range(len(curves[seed]))], "val/acc": curves[seed]} if curves else {}
        runs.append(Run(name, seed, cell, record(figures), curve, None))
    done = [value for value in accuracies if value is not None]
    finished = [seed for seed, value in enumerate(accuracies) if value is not None]
    difference = None
    if baseline:
        pairs = [a - b for a, b in zip(accuracies, baseline, strict=True) if a is not None and b is not None]
        if pairs:
            mean, interval = float(np.mean(pairs)), None
            if len(pairs) > 1:
                half = float(stats.t.ppf(0.975, len(pairs) - 1) * np.std(pairs, ddof=1) / len(pairs) ** 0.5)
                interval = Interval(mean - half, mean + half)
            difference = Difference(len(pairs), mean, interval, None, None, float(np.mean(np.array(pairs) > 0)), None)
    return Row(
        name=name,
        runs=tuple(runs),
        summary=Summary(float(np.mean(done)), float(np.std(done, ddof=1)) if len(done) > 1 else None, len(done))
        if done
        else None,
        difference=difference,
        p_holm=None,
        images=images,
        control=None,
        by_size={side: float(np.mean([values[seed] for seed in finished])) for side, values in (sizes or {}).items() if done},
        cost=RowCost(params, 10 * params, params // 10, params, latency, 900.0, 210.0) if done else None,
        chosen={},
    )


def results(*rows: Row, noise: float | None = None) -> Results:
    seeds = tuple(range(max((len(row.runs) for row in rows), default=0)))
    return Results(
        name="example",
        question="Does a neck help?",
        metric="test/acc",
        baseline="none",
        rows=rows,
        seeds=seeds,
        noise=noise,
        same=None,
        notes=(),
        hardware="2 cores",
        commands=("python ablate.py example",),
    )


def example() -> Results:
    """9 rows of 3 seeds as a study makes them: one failed run, one missing row, SPP equal to SPPF."""
    random = np.random.default_rng(0)
    wanted = {
        "none": (0.700, 700_000, 1.1),
        "conv": (0.712, 1_290_000, 1.3),
        "conv, match=params of sppf": (0.715, 860_000, 1.25),
        "spp": (0.733, 864_512, 1.5),
        "sppf": (0.733, 864_512, 1.42),
        "focal, focal_level=2, focal_window=3": (0.744, 902_144, 2.2),
        "focal, focal_level=2, focal_window=5": (0.741, 905_216, 2.3),
        "focal, focal_level=3, focal_window=5": (0.751, 921_000, 2.9),
        "focal_block, focal_level=2, focal_window=3": (0.749, 1_430_000, 3.6),
    }
    shared = random.normal(0, 0.006, 3)
    rows, first = [], None
    for number, (name, (level, params, latency)) in enumerate(wanted.items()):
        noise = np.zeros(3) if name == "sppf" else random.normal(0, 0.005, 3)
        accuracies: list[float | None] = [round(level + a + b, 4) for a, b in zip(shared, noise, strict=True)]
        if name == "spp":
            accuracies = [round(level + a, 4) for a in shared]
        if number == 7:
            accuracies[1] = None
        if number == 8:
            accuracies = [None] * 3
        epochs = np.arange(12)
        curves = [
            [float(v) for v in (a or 0) * (1 - 0.6 * np.exp(-epochs / 3)) + random.normal(0, 0.008, 12)] for a in accuracies
        ]
        sizes = {side: [(a or 0) - abs(side - 32) * 0.004 + 0.002 * number for a in accuracies] for side in (24, 32, 48, 64)}
        gain = level - 0.7
        failure = "RuntimeError: focal_window 9 is larger than the map of 7 x 7" if number == 7 else None
        images = Interval(gain - 0.011, gain + 0.012) if first and number != 8 else None
        rows.append(row(name, accuracies, params, latency, curves, sizes, first, images, failure))
        first = first or accuracies
    found = results(*rows, noise=rows[0].summary.sd if rows[0].summary else None)
    spp = SamePair("spp", "sppf", {0: 0.0, 1: 0.0, 2: 0.0}, Difference(3, 0.0, None, None, 1.0, 0.5, None))
    return replace(
        found,
        question="Which neck between a small CNN and its classifier helps, at which cost?",
        same=spp,
        notes=("Intervals over 3 seeds are wide: a difference below about 2 points cannot be told from none.",),
        hardware="2 cores of an AMD EPYC 9V74, Debian 12, PyTorch 2.9.1+cpu",
        commands=("python ablate.py example", "python ablate.py example --verify"),
    )


def test_differences_by_hand() -> None:
    none: list[float | None] = [0.50, 0.60, 0.70]
    data = figure_data(
        results(
            row("none", none),
            row("sppf", [0.51, 0.62, 0.73], baseline=none, images=Interval(0.012345678, 0.03)),
            row("focal", [0.55, None, None], baseline=none),
            row("conv", [None, None, None], baseline=none),
            noise=0.1,
        )
    )["differences"]
    # Differences of 1, 2 and 3 points: mean 2, sd 1, and t(0.975, 2) = 4.302653 over the root of 3.
    half = 4.30265273 / math.sqrt(3)
    assert data["rows"][0].pop("t") == pytest.approx([2 - half, 2 + half], rel=1e-6)
    assert data == {
        "metric": "test/acc",
        "baseline": "none",
        "noise": 10.0,
        "rows": [
            {"name": "sppf", "n": 3, "seeds": 3, "finished": 3, "mean": 2.0, "images": [1.234568, 3.0]},
            {"name": "focal", "n": 1, "seeds": 3, "finished": 1, "mean": 5.0, "t": None, "images": None},
            {"name": "conv", "n": 0, "seeds": 3, "finished": 0, "mean": None, "t": None, "images": None},
        ],
    }


def test_the_front_holds_what_nothing_else_beats() -> None:
    data = figure_data(
        results(
            row("none", [0.5, 0.7], params=100, latency=None),
            row("dear", [0.6], params=200, latency=3.0),  # as good as none, and dearer
            row("spp", [0.7], params=200, latency=2.0),
            row("sppf", [0.7], params=200, latency=1.0),
            row("worse", [0.69], params=300, latency=0.5),
            row("best", [0.9], params=400, latency=5.0),
            row("failed", [None], params=500),
        )
    )
    assert [row["name"] for row in data["params"]["rows"] if row["front"]] == ["none", "spp", "sppf", "best"]
    assert [row["name"] for row in data["latency"]["rows"] if row["front"]] == ["sppf", "worse", "best"]
    none, *_, failed = data["params"]["rows"]
    assert none == {"name": "none", "n": 2, "seeds": 2, "x": 100, "mean": 60.0, "sd": 14.14214, "front": True}
    assert failed == {"name": "failed", "n": 0, "seeds": 1, "x": None, "mean": None, "sd": None, "front": False}
    unmeasured = data["latency"]["rows"][0]
    assert (unmeasured["x"], unmeasured["mean"], unmeasured["n"]) == (None, None, 2)


points = st.lists(st.tuples(st.integers(1, 6), st.integers(0, 6)), min_size=1, max_size=12)


@given(points=points)
def test_the_front_is_that_of_its_definition(points: list[tuple[int, int]]) -> None:
    rows = [row(str(number), [better / 10], params=cost) for number, (cost, better) in enumerate(points)]
    marked = [found["front"] for found in figure_data(results(*rows))["params"]["rows"]]
    assert marked == [
        not any(c <= cost and b >= better and (c, b) != (cost, better) for c, b in points) for cost, better in points
    ]


@given(name=st.text(max_size=400), width=st.sampled_from([60, LABEL, LEGEND]), most=st.integers(1, 3))
def test_a_name_fits_whatever_it_is(name: str, width: float, most: int) -> None:
    lines = fitted_lines(name, width, most)
    assert len(lines) <= most
    assert all(text_width(line) <= width for line in lines)
    whole, shown = "".join(name.split()), "".join(lines).replace(" ", "")
    if "…" in shown and "…" not in name:
        start, _, end = shown.partition("…")
        assert len(start) + len(end) > 2
        assert len(start + end) < len(whole)
    elif "…" not in name:
        assert len(shown) == len(whole)


def test_curves_by_hand() -> None:
    curves = [[0.1, 0.2, math.nan, 0.4], [0.3, 0.3, 0.5, 0.5, 0.6]]
    data = figure_data(results(row("none", [0.5, 0.6], curves=curves), row("sppf", [None, None])))["curves"]
    assert data == {
        "metric": "val/acc",
        "rows": [
            # Epochs that both runs have, counted from 1.
            {
                "name": "none",
                "n": 2,
                "seeds": 2,
                "epoch": [1, 2, 4],
                "mean": [20, 25, 45],
                "low": [10, 20, 40],
                "high": [30, 30, 50],
            },
            {"name": "sppf", "n": 0, "seeds": 2, "epoch": [], "mean": [], "low": [], "high": []},
        ],
    }


def test_sizes_by_hand() -> None:
    data = figure_data(results(row("none", [0.5, None], sizes={64: [0.4, 0.0], 32: [0.5, 0.0]}), row("sppf", [0.6, 0.7])))
    assert data["sizes"] == {
        "metric": "test/acc",
        "rows": [
            {"name": "none", "n": 1, "seeds": 2, "side": [32, 64], "mean": [50, 40], "low": [50, 40], "high": [50, 40]},
            {"name": "sppf", "n": 0, "seeds": 2, "side": [], "mean": [], "low": [], "high": []},
        ],
    }


def test_only_figures_with_data() -> None:
    none: list[float | None] = [0.5, 0.6]
    assert figure_data(results(row("none", [None, None]))) == {}
    assert set(figure_data(results(row("none", none, latency=None)))) == {"params"}
    assert set(figure_data(results(row("none", none), row("sppf", none, baseline=none)))) == {
        "params",
        "latency",
        "differences",
    }
    assert set(figure_data(example())) == set(NAMES)


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


def test_bands_and_points_are_drawn_where_their_data_says() -> None:
    data = figure_data(example())
    for name, across in (("curves", "epoch"), ("sizes", "side")):
        axes = draw(name, data[name]).axes[0]
        rows = [found for found in data[name]["rows"] if found["mean"]]
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
    data["rows"][1]["mean"] = data["rows"][2]["mean"]
    assert render(name, data, "png") != png


@pytest.mark.parametrize("name", NAMES)
def test_any_name_is_drawn_inside_the_picture(name: str) -> None:
    # Warnings are errors here, so that a glyph the font lacks would fail; $ would start a formula, _ would leave the legend.
    names = (
        "none",
        "_private",
        "a$b_c$d$",
        "$\\frac{$",
        "W" * 300,
        "long words " * 30,
        "emoji 🦄 漢字",
        "tab\tand\nline",
        "<b>&'\"",
        "",
    )
    base = example()
    odd = replace(base, rows=tuple(replace(base.rows[i % 8], name=text) for i, text in enumerate(names)))
    data = figure_data(odd)[name]
    figure = draw(name, data)
    figure.draw_without_rendering()
    whole = figure.bbox
    axes = figure.axes[0]
    texts = [text.get_text() for text in [*figure.legends[0].get_texts(), *axes.get_yticklabels()]]
    shown = "\n".join(texts)
    assert "_private" in shown
    assert "a$b_c$d$" in shown
    assert "emoji □ □□" in shown
    assert "WW…WW" in shown.replace("\n", "")
    box = figure.get_tightbbox()  # of all that is seen, in inches
    assert min(box.x0, box.y0) > -0.02
    assert box.x1 < whole.width / figure.dpi + 0.02
    assert box.y1 < whole.height / figure.dpi + 0.02
    plot = axes.get_window_extent()
    assert plot.width > 0.4 * whole.width
    assert plot.height > 1.5 * figure.dpi
    assert figure.legends[0].get_window_extent().y1 < axes.xaxis.label.get_window_extent().y0 + 1
    assert b"\xf0\x9f\xa6\x84" not in render(name, data, "svg")


@pytest.mark.parametrize("name", NAMES)
def test_hundreds_of_rows_leave_a_picture_that_can_be_opened(name: str) -> None:
    base = example()
    many = replace(base, rows=tuple(replace(base.rows[i % 8], name=f"row {i}") for i in range(300)))
    data = figure_data(many)[name]
    assert len(data["rows"]) == 300
    figure = draw(name, data)
    assert figure.get_figheight() < 30
    assert f"{MOST_ROWS} of 300 rows are drawn" in [text.get_text() for text in figure.legends[0].get_texts()]


def test_costs_far_apart_have_a_log_axis() -> None:
    far = figure_data(results(row("none", [0.5], params=1000), row("vit", [0.6], params=80_000_000)))["params"]
    near = figure_data(results(row("none", [0.5], params=1000), row("conv", [0.6], params=1500)))["params"]
    free = figure_data(results(row("none", [0.5], params=0), row("conv", [0.6], params=1500)))["params"]
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

    write_figures(results(row("none", [0.5], latency=None)), folder)
    assert {path.name for path in folder.iterdir()} == {"params.json", "params.png", "mine.png"}


def test_an_unknown_figure_is_named() -> None:
    with pytest.raises(ValueError, match="no figure is called loss; there are differences, params, latency, curves, sizes"):
        draw("loss", {})
