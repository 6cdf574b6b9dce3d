# The runs made here have what may be missing elsewhere.
# pyright: reportOptionalMemberAccess=false, reportOptionalSubscript=false, reportOptionalOperand=false
# pyright: reportArgumentType=false, reportOperatorIssue=false
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from necklace.results import analysis
from necklace.results.analysis import analyse
from necklace.study.store import StudyRun
from tests.conftest import synthetic_record
from tests.synthetic import ROWS, SEEDS, by_name, synthetic_run, synthetic_runs, synthetic_study


def test_rows_are_paired_by_seed() -> None:
    results = analyse(synthetic_study())
    accuracies = {row.name: [run.record.metrics["test/acc"] for run in row.runs] for row in results.rows}
    spp, none = by_name(results)["spp"], by_name(results)["none"]
    gains = np.subtract(accuracies["spp"], accuracies["none"])
    assert spp.difference.mean == pytest.approx(gains.mean())
    half = stats.t.ppf(0.975, 2) * gains.std(ddof=1) / np.sqrt(3)
    assert spp.difference.interval.low == pytest.approx(gains.mean() - half)
    assert spp.difference.p == pytest.approx(stats.ttest_rel(accuracies["spp"], accuracies["none"]).pvalue)
    assert none.difference is None
    assert none.images is None
    assert results.noise == pytest.approx(np.std(accuracies["none"], ddof=1))
    assert spp.images.low < spp.difference.mean < spp.images.high
    assert none.cost.latency_ms == 1.5
    assert spp.cost.latency_ms is None
    assert spp.cost.neck_params == 10_432


def test_holm_runs_over_all_compared_rows() -> None:
    results = analyse(synthetic_study())
    raw = [row.difference.p for row in results.rows if row.difference]
    adjusted = [row.p_holm for row in results.rows if row.difference]
    # Holm's definition: the k-th smallest p, times the number of those not smaller, never below an earlier one.
    steps = [min(1.0, (len(raw) - rank) * p) for rank, p in enumerate(sorted(raw))]
    assert sorted(adjusted) == pytest.approx(np.maximum.accumulate(steps))
    assert by_name(results)["none"].p_holm is None


def test_a_lost_cell_costs_its_pair_and_shows() -> None:
    runs = synthetic_runs()
    runs[4] = synthetic_run("spp", 1, lose="failed")
    results = analyse(synthetic_study(runs))
    spp = by_name(results)["spp"]
    assert spp.summary.n == spp.difference.n == 2
    assert len(spp.runs) == 3
    assert spp.runs[1].failure == "ValueError: the loss is nan"


def test_a_lost_baseline_leaves_no_difference() -> None:
    runs = [synthetic_run(row, seed, lose="missing" if row == "none" else None) for row in ROWS for seed in SEEDS]
    results = analyse(synthetic_study(runs))
    assert by_name(results)["spp"].difference is None
    assert results.noise is None


def test_a_row_is_held_against_the_control_of_its_own_size() -> None:
    runs = synthetic_runs()
    right = {seed: np.random.default_rng([seed, 5]).random(200) < 0.75 for seed in SEEDS}
    made = [synthetic_record(["neck=conv"], seed, right[seed], 10_398, name=f"conv_s{seed}") for seed in SEEDS]
    far = [synthetic_record(["neck=conv"], seed, right[seed], 18_000, name=f"far_s{seed}") for seed in SEEDS]
    for name, records in (("conv, params as sppf", made), ("conv, params as x", far)):
        runs += [StudyRun(name, seed, {}, r.name, "done", None, r, {}) for seed, r in zip(SEEDS, records, strict=True)]
    controls = {"conv, params as sppf": "params", "conv, params as x": "params"}
    results = analyse(synthetic_study(runs, rows=(*ROWS, *controls), controls=controls))
    rows = by_name(results)
    # spp has sppf's size; both focal rows are further than 2 % from either control, and a control has none itself.
    assert {name for name, row in rows.items() if row.control} == {"spp", "sppf"}
    for name in ("spp", "sppf"):
        assert rows[name].control.name == "conv, params as sppf"
        own = [run.record.metrics["test/acc"] for run in rows[name].runs]
        base = [record.metrics["test/acc"] for record in made]
        assert rows[name].control.difference.mean == pytest.approx(np.mean(np.subtract(own, base)))
        assert rows[name].control.difference.p == pytest.approx(stats.ttest_rel(own, base).pvalue)
    assert any("spp to 'conv, params as sppf'; sppf to 'conv, params as sppf'" in note for note in results.notes)
    # Matched by MACs, the control of 10,398 parameters is none of a neck with twice its MACs.
    for c in runs:
        if c.row.startswith("conv"):
            c.record.cost["neck"]["macs"] *= 2
    by_macs = synthetic_study(runs, rows=(*ROWS, *controls), controls=dict.fromkeys(controls, "macs"))
    assert not any(row.control for row in analyse(by_macs).rows)


def test_other_test_images_are_not_paired() -> None:
    runs = synthetic_runs()
    digest = {"train": "a" * 64, "val": "b" * 64, "test": "d" * 64}
    runs = [synthetic_run("spp", c.seed, digest=digest) if c.row == "spp" else c for c in runs]
    assert by_name(analyse(synthetic_study(runs, axes=("neck", "data"))))["spp"].images is None
    assert by_name(analyse(synthetic_study(runs, axes=("neck", "data"))))["sppf"].images is not None


def test_the_learning_rate_is_chosen_on_val_and_not_on_test() -> None:
    runs = []
    for row in ROWS:
        for rate, val, test in ((0.001, 0.4, 0.9), (0.003, 0.6, 0.5)):
            for seed in SEEDS:
                correct = np.random.default_rng(seed).permutation(200) < 200 * test
                record = synthetic_record([*ROWS[row][0], f"optimizer.lr={rate}"], seed, correct)
                record.metrics["val/acc"] = val
                runs.append(StudyRun(row, seed, {"optimizer.lr": rate}, record.name, "done", None, record, {}))
    results = analyse(synthetic_study(runs, axes=("neck", "neck.focal_level", "optimizer.lr")))
    assert {row.chosen["optimizer.lr"] for row in results.rows} == {0.003}
    assert by_name(results)["spp"].summary.mean == pytest.approx(0.5)
    # Of a value that was not chosen, a missing run is reported all the same.
    loser = next(k for k, c in enumerate(runs) if c.row == "spp" and c.choice["optimizer.lr"] == 0.001)
    gone = [replace(c, record=None, state="failed", failure="no") if k == loser else c for k, c in enumerate(runs)]
    notes = analyse(synthetic_study(gone, axes=("neck", "neck.focal_level", "optimizer.lr"))).notes
    assert "spp, seed 0, optimizer.lr=0.001 (not chosen): failed: no" in notes
    # A value of which a seed is missing does not win over one that has them all.
    short = [c for c in runs if not (c.row == "spp" and c.choice["optimizer.lr"] == 0.003 and c.seed == 2)]
    lost = replace(next(c for c in runs if c not in short), record=None, state="missing")
    results = analyse(synthetic_study([*short, lost], axes=("neck", "neck.focal_level", "optimizer.lr")))
    assert by_name(results)["spp"].chosen == {"optimizer.lr": 0.001}


def test_the_metric_by_size_is_the_mean_over_seeds() -> None:
    runs = synthetic_runs()
    for c in runs:
        c.record.metrics["test/acc@24"] = 0.1 * c.seed
        c.record.metrics["test/acc@8"] = 0.5
    assert by_name(analyse(synthetic_study(runs)))["spp"].by_size == {8: 0.5, 24: pytest.approx(0.1)}


def test_a_study_that_was_checked_is_not_checked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    study = synthetic_study(dropped=("a row was dropped",))
    checked = analyse(study)
    monkeypatch.setattr(analysis, "check_comparable", lambda study: pytest.fail("checked again"))
    assert analyse(study, []) == checked
    notes = analyse(study, ["device.name differs: a; b"]).notes
    assert notes[notes.index("a row was dropped") + 1] == "device.name differs: a; b"
