"""Variance components: the intervals against their coverage, and the rows that they are made of."""

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from necklace.results.analysis import analyse
from necklace.results.figure_data import figure_data
from necklace.results.figures import render
from necklace.results.noise import components, noise_notes, ratio_interval, sd_interval
from necklace.results.results import Results
from necklace.results.rulings import sentences
from necklace.study.store import StudyRun
from tests.conftest import synthetic_record
from tests.synthetic import synthetic_study

STREAMS = {
    "vary=init": {"order": 0, "augment": 0},
    "vary=order": {"init": 0, "augment": 0},
    "vary=rounding": {"init": 0, "order": 0, "augment": 0, "rounding": "seed"},
    "vary=all": {},
}


def study(values: dict[str, list[float]]) -> Results:
    """A study with a row for each source, of these accuracies for seeds from 1 on."""
    runs = []
    for row, own in values.items():
        for seed, value in enumerate(own, 1):
            streams = {name: seed if at == "seed" else at for name, at in STREAMS[row].items()}
            usual: dict[str, Any] = {"init": None, "order": None, "augment": None, "rounding": 0}
            correct = np.arange(1000) < round(1000 * value)
            record = synthetic_record(["neck=none"], seed, correct, weights_hash=f"{len(runs):04x}", name=f"{row}_s{seed}")
            config = record.config | {"streams": usual | streams}
            identity = record.identity | ({"streams": streams} if streams else {})
            metrics = record.metrics | {"test/acc": value}
            record = replace(record, config=config, identity=identity, metrics=metrics)
            runs.append(StudyRun(row, seed, {}, record.name, "done", None, record))
    seeds = tuple(range(1, 1 + max(map(len, values.values()))))
    return analyse(synthetic_study(runs, rows=tuple(values), baseline="vary=all", seeds=seeds, axes=("streams",), same=None))


def test_intervals_cover_as_often_as_they_say() -> None:
    random = np.random.default_rng(0)
    sd_hits = ratio_hits = 0
    for _ in range(2000):
        own, whole = 0.5 + 0.002 * random.standard_normal(8), 0.5 + 0.004 * random.standard_normal(8)
        of_sd, of_ratio = sd_interval(own), ratio_interval(own, whole)
        assert of_sd is not None
        assert of_ratio is not None
        sd_hits += of_sd.low <= 0.002 <= of_sd.high
        ratio_hits += of_ratio.low <= 0.25 <= of_ratio.high
    assert sd_hits / 2000 == pytest.approx(0.95, abs=0.015)
    assert ratio_hits / 2000 == pytest.approx(0.95, abs=0.015)


def test_intervals_by_hand() -> None:
    values = np.array([0.1, 0.2, 0.3, 0.4, 0.5])  # variance 0.025; chi-square quantiles of 4 degrees: 0.484419 and 11.14329
    found = sd_interval(values)
    assert found is not None
    assert (found.low**2, found.high**2) == pytest.approx((0.1 / 11.14329, 0.1 / 0.484419), rel=1e-5)
    assert sd_interval(np.array([0.2, 0.2])) is None
    with pytest.raises(ValueError, match="1 values: at least 2"):
        sd_interval(np.array([0.2]))


def test_components_find_the_planted_sources() -> None:
    random = np.random.default_rng(1)
    spreads = {"vary=init": 0.02, "vary=order": 0.005, "vary=rounding": 0.001, "vary=all": 0.0206}
    made = {row: list(0.5 + sd * random.standard_normal(30)) for row, sd in spreads.items()}
    results = study(made)
    found = {one.row: one for one in components("test/acc", results.rows)}
    assert {row: one.streams for row, one in found.items()} == {
        "vary=init": ("init",),
        "vary=order": ("order",),
        "vary=rounding": ("rounding",),
        "vary=all": ("init", "order", "augment"),
    }
    for row, sd in spreads.items():
        assert found[row].sd == pytest.approx(float(np.std(made[row], ddof=1)))
        assert found[row].interval.low < sd < found[row].interval.high  # pyright: ignore[reportOptionalMemberAccess]
    assert found["vary=init"].share == pytest.approx(np.var(made["vary=init"]) / np.var(made["vary=all"]))
    assert found["vary=all"].share is None
    text = " ".join(results.notes)
    assert "In vary=init, the seed decides the initial weights; what else is random has a seed of its own" in text
    assert f"vary=rounding: {100 * found['vary=rounding'].sd:.2f} (" in text
    data = figure_data(results)["noise"]
    assert [row["source"] for row in data["rows"]] == [
        "the initial weights",
        "the order of the images",
        "the rounding",
        "all streams",
    ]
    assert render("noise", json.loads(json.dumps(data)), "png")[:4] == b"\x89PNG"


def test_equal_values_and_single_runs_say_nothing() -> None:
    results = study({"vary=init": [0.5, 0.5, 0.5], "vary=all": [0.5, 0.6, 0.7]})
    (init, _) = components("test/acc", results.rows)
    assert (init.sd, init.interval, init.share, init.share_interval) == (0.0, None, 0.0, None)
    assert [one.row for one in components("test/acc", study({"vary=init": [0.4], "vary=all": [0.5, 0.6]}).rows)] == ["vary=all"]


def test_the_answer_of_a_study_of_noise_is_how_far_each_source_spreads() -> None:
    values = {"vary=init": [0.5, 0.51, 0.52], "vary=all": [0.5, 0.52, 0.54]}
    assert sentences(study(values)) == [
        "vary=init: standard deviation in points 1.00 (0.52 to 6.28), 0.25 of the variance of all (0.01 to 9.75), 3 seeds",
        "vary=all: standard deviation in points 2.00 (1.04 to 12.57), 3 seeds",
    ]
    alone = study({"vary=all": [0.5, 0.51]})
    assert sentences(alone) == []


def test_rows_that_vary_alike_have_no_components() -> None:
    results = study({"vary=all": [0.5, 0.6, 0.7]})
    assert components("test/acc", results.rows) == []
    assert noise_notes([]) == []
    assert "noise" not in figure_data(results)
    assert not any("seed decides" in note for note in results.notes)
