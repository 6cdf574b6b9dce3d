import json
from dataclasses import replace

import pytest

from necklace.plotting import MOST_ROWS
from necklace.results.figure_data import figure_data
from necklace.results.figures import draw, render
from necklace.results.inside_figures import fields_data, gates_data
from tests.synthetic import CONTEXTS, example, example_row, field_of, gates_of, illustrated, with_pictures


def test_shares_of_the_contribution_by_hand() -> None:
    focal = with_pictures(
        example_row("focal", [0.5, 0.6, None]),
        [gates_of((0.5, 0.25, 0.25), (0.2, 0.3, 0.5)), gates_of((0.6, 0.1, 0.3), (0.4, 0.3, 0.3)), None],
        [{}, {}, {}],
    )
    bare = with_pictures(example_row("bare", [0.5]), [gates_of((0.5, 0.5, 0.0), (None, None, None), ("a", "b"))], [{}])
    (first, second, third) = gates_data([example_row("none", [0.5]), focal, bare])
    assert first["mean"] == pytest.approx([55, 17.5, 27.5])
    assert first["low"] == pytest.approx([50, 10, 25])
    assert first["high"] == pytest.approx([60, 25, 30])
    assert first["mass"] == pytest.approx([30, 30, 40])
    assert (first["name"], first["layer"], first["n"], first["seeds"]) == ("focal", "neck", 2, 3)
    assert first["contexts"] == list(CONTEXTS)
    assert [(found["name"], found["layer"]) for found in (second, third)] == [("bare", "a"), ("bare", "b")]
    assert second["mass"] == [None, None, None]


def test_radii_by_hand() -> None:
    neck = with_pictures(
        example_row("sppf", [0.5, 0.6, None]),
        [None] * 3,
        [field_of(10, 8.5, 20, 22.5), field_of(11, 9.5, None, 23.5), field_of(1, 1)],
    )
    alone = with_pictures(example_row("none", [0.5]), [None], [field_of(10, 9, theoretical=None)])
    (first, second, third) = fields_data([neck, alone, example_row("old", [0.5])])
    assert first["mean"] == [10.5, 9.0, 20.0, 23.0]
    assert first["low"] == [10, 8.5, 20, 22.5]
    assert first["high"] == [11, 9.5, 20, 23.5]
    assert (first["n"], first["seeds"], first["theoretical"], first["mass"]) == (2, 3, 12.5, 0.95)
    assert second["mean"] == [10.0, 9.0, None, None]
    assert second["theoretical"] is None
    assert (third["n"], third["mean"]) == (0, [])


def test_without_gates_and_pictures_there_is_no_figure() -> None:
    assert not {"gates", "fields"} & figure_data(example()).keys()


def test_bars_are_as_long_as_their_data_says() -> None:
    data = figure_data(illustrated())["gates"]
    axes = draw("gates", data).axes[0]
    thick = [patch for patch in axes.patches if patch.get_height() > 0.1]  # pyright: ignore[reportAttributeAccessIssue]
    thin = [patch for patch in axes.patches if patch.get_height() < 0.1]  # pyright: ignore[reportAttributeAccessIssue]
    for bars, what in ((thick, "mean"), (thin, "mass")):
        widths = [bar.get_width() for bar in bars]  # pyright: ignore[reportAttributeAccessIssue]
        assert widths == pytest.approx([value for found in data["rows"] for value in found[what]])
        ends = [bar.get_x() + bar.get_width() for bar in bars[2::3]]  # pyright: ignore[reportAttributeAccessIssue]
        assert ends == pytest.approx([100] * len(data["rows"]))
    assert "n = 2/3" in axes.get_yticklabels()[2].get_text()


def test_radii_are_drawn_where_their_data_says() -> None:
    data = figure_data(illustrated())["fields"]
    axes = draw("fields", data).axes[0]
    dots = [float(line.get_xdata()[0]) for line in axes.lines if line.get_marker() == "o"]  # pyright: ignore[reportArgumentType,reportIndexIssue]
    assert dots == [value for found in data["rows"] for value in found["mean"] if value is not None]
    dotted = [line for line in axes.lines if line.get_linestyle() == ":"]
    assert [line.get_xdata()[0] for line in dotted] == [12.5]  # pyright: ignore[reportArgumentType,reportIndexIssue]
    assert [text.get_text() for text in axes.texts] == ["no pictures"]


@pytest.mark.parametrize("name", ["gates", "fields"])
def test_any_number_of_rows_of_any_name_is_drawn_inside_the_picture(name: str) -> None:
    names = ("a$b_c$d$", "W" * 300, "emoji 🦄 漢字", "<b>&'\"", "", *(f"row {number}" for number in range(50)))
    base = illustrated()
    odd = replace(base, rows=tuple(replace(base.rows[5 + i % 3], name=text) for i, text in enumerate(names)))
    data = json.loads(json.dumps(figure_data(odd)[name]))
    assert data == figure_data(odd)[name]
    assert len(data["rows"]) == 55
    figure = draw(name, data)
    assert figure.get_figheight() < 30
    assert f"{MOST_ROWS} of 55 rows are drawn" in [text.get_text() for text in figure.legends[0].get_texts()]
    figure.draw_without_rendering()
    box, whole = figure.get_tightbbox(), figure.bbox
    assert min(box.x0, box.y0) > -0.02
    assert box.x1 < whole.width / figure.dpi + 0.02
    assert box.y1 < whole.height / figure.dpi + 0.02
    assert "a$b_c$d$" in [text.get_text() for text in figure.axes[0].get_yticklabels()]
    assert render(name, data, "svg") == render(name, data, "svg")
