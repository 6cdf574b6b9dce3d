import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from necklace.results.figure_data import figure_data
from necklace.results.results import Control
from necklace.results.stats import Difference, Interval
from tests.synthetic import example, example_results, example_row

NAMES = ("differences", "controls", "params", "latency", "curves", "sizes")


def test_differences_by_hand() -> None:
    none: list[float | None] = [0.50, 0.60, 0.70]
    every = figure_data(
        example_results(
            example_row("none", none),
            replace(
                example_row("sppf", [0.51, 0.62, 0.73], baseline=none),
                images=Interval(0.012345678, 0.03),
                control=Control("conv", Difference(2, -0.02, Interval(-0.05, 0.01), None, None, 0.0, None)),
            ),
            example_row("focal", [0.55, None, None], baseline=none),
            example_row("conv", [None, None, None], baseline=none),
            noise=0.1,
        )
    )
    assert every["controls"] == {
        "metric": "test/acc",
        "rows": [{"name": "sppf", "control": "conv", "n": 2, "seeds": 3, "mean": -2.0, "t": [-5.0, 1.0]}],
    }
    data = every["differences"]
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
        example_results(
            example_row("none", [0.5, 0.7], params=100, latency=None),
            example_row("dear", [0.6], params=200, latency=3.0),  # as good as none, and dearer
            example_row("spp", [0.7], params=200, latency=2.0),
            example_row("sppf", [0.7], params=200, latency=1.0),
            example_row("worse", [0.69], params=300, latency=0.5),
            example_row("best", [0.9], params=400, latency=5.0),
            example_row("failed", [None], params=500),
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
    rows = [example_row(str(number), [better / 10], params=cost) for number, (cost, better) in enumerate(points)]
    marked = [found["front"] for found in figure_data(example_results(*rows))["params"]["rows"]]
    assert marked == [
        not any(c <= cost and b >= better and (c, b) != (cost, better) for c, b in points) for cost, better in points
    ]


def test_curves_by_hand() -> None:
    curves = [[0.1, 0.2, None, 0.4], [0.3, 0.3, 0.5, 0.5, 0.6]]
    data = figure_data(example_results(example_row("none", [0.5, 0.6], curves=curves), example_row("sppf", [None, None])))[
        "curves"
    ]
    assert data == {
        "metric": "val/acc",
        "baseline": "none",
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
    data = figure_data(
        example_results(
            example_row("none", [0.5, None], sizes={64: [0.4, 0.0], 32: [0.5, 0.0]}), example_row("sppf", [0.6, 0.7])
        )
    )
    assert data["sizes"] == {
        "metric": "test/acc",
        "baseline": "none",
        "rows": [
            {"name": "none", "n": 1, "seeds": 2, "side": [32, 64], "mean": [50, 40], "low": [50, 40], "high": [50, 40]},
            {"name": "sppf", "n": 0, "seeds": 2, "side": [], "mean": [], "low": [], "high": []},
        ],
    }


def test_only_figures_with_data() -> None:
    none: list[float | None] = [0.5, 0.6]
    assert figure_data(example_results(example_row("none", [None, None]))) == {}
    assert set(figure_data(example_results(example_row("none", none, latency=None)))) == {"params"}
    assert set(figure_data(example_results(example_row("none", none), example_row("sppf", none, baseline=none)))) == {
        "params",
        "latency",
        "differences",
    }
    assert set(figure_data(example())) == set(NAMES)
