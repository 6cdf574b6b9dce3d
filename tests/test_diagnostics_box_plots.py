"""Pictures of boxes: what is in them, with hostile names, and the same bytes twice."""

from collections.abc import Callable

import numpy as np
import pytest
from matplotlib.figure import Figure

from necklace.boxes import IGNORED
from necklace.boxes.errors import KINDS, Errors
from necklace.diagnostics.box_plots import MOST_CURVES, ShownImage, draw_detections, draw_errors, draw_precision_recall
from necklace.plotting import saved
from tests.test_diagnostics_plots import HOSTILE, has, pixels


def shown(height: int, width: int, true: list, found: list) -> ShownImage:
    """A grey image from (box, class, flag) and (box, class, score)."""
    grey = np.full((height, width, 3), 128, np.uint8)
    parts = [
        np.array([entry[k] for entry in entries]).reshape(-1, *([4] if k == 0 else []))
        for entries in (true, found)
        for k in range(3)
    ]
    order = (0, 1, 2, 3, 5, 4)
    return ShownImage(grey, *(parts[k] for k in order))


def test_boxes_lie_where_they_are_and_say_what_they_are() -> None:
    one = shown(
        40, 60, [((5, 5, 20, 25), 0, 0), ((30, 5, 50, 20), 1, IGNORED)], [((6, 4, 21, 26), 0, 0.9), ((0, 30, 9, 39), 1, 0.31)]
    )
    empty = shown(80, 40, [], [])
    figure = draw_detections([one, empty, one], ["cat", "$\\frac{$"], "test", 0.3)
    first, second, *_ = figure.axes
    bounds = [patch.get_bbox().bounds for patch in first.patches]  # pyright: ignore[reportAttributeAccessIssue]
    assert bounds == [(0, 30, 9, 9), (6, 4, 15, 22), (5, 5, 15, 20), (30, 5, 20, 15)]
    assert [patch.get_linewidth() for patch in first.patches] == [2.2, 2.2, 0.8, 0.8]
    assert [patch.get_linestyle() for patch in first.patches] == ["-", "-", "-", ":"]
    assert [text.get_text() for text in first.texts] == ["$\\frac{$ .31", "cat .90"]
    assert first.get_xlim() == (0, 60)
    assert first.get_ylim() == (40, 0)
    assert not second.patches
    assert [text.get_text() for text in figure.legends[0].get_texts()][:2] == ["cat", "$\\frac{$"]
    assert has(pixels(figure), "#0072B2")


def test_many_boxes_have_scores_alone_and_many_classes_names() -> None:
    crowd = shown(40, 60, [], [((k, k, k + 9, k + 9), k % 2, 0.5) for k in range(20)])
    assert {text.get_text() for text in draw_detections([crowd], ["a", "b"], "val", 0.3).axes[0].texts} == {".50"}
    names = [f"class {k}" for k in range(9)]
    assert {text.get_text() for text in draw_detections([crowd], names, "val", 0.3).axes[0].texts} == {
        "class 0 .50",
        "class 1 .50",
    }


@pytest.mark.parametrize("count", [1, 3, MOST_CURVES + 10])
def test_curves(count: int) -> None:
    names = [f"{(HOSTILE * 3)[k]}{k}" for k in range(count)]
    curves = {name: (np.array([0, 0.5, 0.5]), np.array([1, 1, 0.0])) for name in names}
    precisions = {name: 0.5 - k / 100 for k, name in enumerate(names)}
    figure = draw_precision_recall(curves, precisions, "test")
    axes = figure.axes[0]
    assert len(axes.lines) == count
    np.testing.assert_array_equal(axes.lines[-1].get_xdata(), [0, 50, 50])
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert len(legend) == (count if count <= MOST_CURVES else 8)
    assert pixels(figure).shape[0] < 1600


def test_errors_are_bars_in_points() -> None:
    gains: dict[str, float] = dict(zip(KINDS, (0.1, 0.02, 0, 0.3, 0.04, 0.05), strict=True))
    figure = draw_errors(Errors(0.5, dict.fromkeys(KINDS, 1200), gains), "test")
    (axes,) = figure.axes
    assert [round(bar.get_width(), 9) for bar in axes.patches] == [10, 2, 0, 30, 4, 5]  # pyright: ignore[reportAttributeAccessIssue]
    assert [text.get_text() for text in axes.texts] == ["10.0", "2.0", "0.0", "30.0", "4.0", "5.0"]
    assert axes.get_yticklabels()[0].get_text() == "classification\n1,200 boxes"
    assert axes.get_title(loc="left").startswith("test: mAP50 50.0 %")


@pytest.mark.parametrize(
    "draw",
    [
        lambda: draw_errors(Errors(0.0, dict.fromkeys(KINDS, 0), dict.fromkeys(KINDS, 0.0)), "val"),
        lambda: draw_detections([shown(9, 9, [((0, 0, 5, 5), 8, 0)], [((0, 0, 5, 5), 3, 1.0)])] * 3, HOSTILE, "val", 0.3),
    ],
)
def test_the_same_numbers_give_the_same_bytes(draw: Callable[[], Figure]) -> None:
    assert saved(draw(), "any", "png") == saved(draw(), "any", "png")
