# The cells made here have what may be missing elsewhere.
# pyright: reportOptionalMemberAccess=false, reportOptionalSubscript=false, reportOptionalOperand=false
# pyright: reportArgumentType=false, reportOperatorIssue=false
import hashlib
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from necklace.study.analysis import analyse
from necklace.study.archive import Archive, ArchivedCell
from necklace.study.fairness import Unfair, differences
from tests.conftest import synthetic_record

ROWS = {
    "none": (["neck=none"], 0),
    "spp": (["neck=spp"], 10_432),
    "sppf": (["neck=sppf"], 10_432),
    "focal, focal_level=1": (["neck=focal", "neck.focal_level=1"], 14_000),
    "focal, focal_level=2": (["neck=focal", "neck.focal_level=2"], 19_011),
}
RATES = {"none": 0.3, "spp": 0.8, "sppf": 0.8, "focal, focal_level=1": 0.35, "focal, focal_level=2": 0.3}
SEEDS = (0, 1, 2)
COST = {"latency_ms": 1.5, "train_images_per_s": 1200.0, "peak_memory_mib": 800.2}
COST |= {"cell_hash": "0", "code": "0", "device": "a processor", "threads": 2}


def cell(row: str, seed: int, lose: str | None = None, **fields) -> ArchivedCell:
    overrides, params = ROWS[row]
    rng = np.random.default_rng([seed, int(1000 * RATES[row]), row.startswith("focal")])  # spp and sppf: the same outcomes
    weights = {"weights_hash": hashlib.sha256(f"{row} {seed}".encode()).hexdigest(), "cell": f"{row}_s{seed}"}
    record = synthetic_record(overrides, seed, rng.random(200) < RATES[row], params, **weights | fields)
    curve = {"epoch": [0.0, 1.0], "val/acc": [0.25, record.figures["val/acc"]]}
    if lose:
        failure = "ValueError: the loss is nan" if lose == "failed" else None
        return ArchivedCell(row, seed, {}, f"{row}_s{seed}", lose, failure, None, {})
    return ArchivedCell(row, seed, {}, f"{row}_s{seed}", "done", None, record, curve)


def archive(cells: list[ArchivedCell] | None = None, **changes) -> Archive:
    content = {
        "name": "necks",
        "question": "Which neck joins what lies far apart?",
        "baseline": "none",
        "metric": "test/acc",
        "rows": tuple(ROWS),
        "seeds": SEEDS,
        "overrides": (),
        "axes": ("neck", "neck.focal_level"),
        "same": ("spp", "sppf"),
        "controls": {},
        "tolerance": 0.02,
        "allow": (),
        "arguments": (),
        "dropped": (),
        "cells": tuple(cells if cells is not None else [cell(row, seed) for row in ROWS for seed in SEEDS]),
        "costs": {"none": COST},
    }
    return Archive(**content | changes)


def by_name(results):
    return {row.name: row for row in results.rows}


def test_rows_are_paired_by_seed() -> None:
    results = analyse(archive())
    accuracies = {row.name: [run.record.figures["test/acc"] for run in row.runs] for row in results.rows}
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
    results = analyse(archive())
    raw = [row.difference.p for row in results.rows if row.difference]
    adjusted = [row.p_holm for row in results.rows if row.difference]
    # Holm's definition: the k-th smallest p, times the number of those not smaller, never below an earlier one.
    steps = [min(1.0, (len(raw) - rank) * p) for rank, p in enumerate(sorted(raw))]
    assert sorted(adjusted) == pytest.approx(np.maximum.accumulate(steps))
    assert by_name(results)["none"].p_holm is None


def test_a_lost_cell_costs_its_pair_and_shows() -> None:
    cells = [cell(row, seed) for row in ROWS for seed in SEEDS]
    cells[4] = cell("spp", 1, lose="failed")
    results = analyse(archive(cells))
    spp = by_name(results)["spp"]
    assert spp.summary.n == spp.difference.n == 2
    assert len(spp.runs) == 3
    assert spp.runs[1].failure == "ValueError: the loss is nan"


def test_a_lost_baseline_leaves_no_difference() -> None:
    cells = [cell(row, seed, lose="missing" if row == "none" else None) for row in ROWS for seed in SEEDS]
    results = analyse(archive(cells))
    assert by_name(results)["spp"].difference is None
    assert results.noise is None


def test_the_same_function_twice_is_numerical_noise() -> None:
    results = analyse(archive())
    assert results.same.difference.mean == 0
    assert results.same.gaps == {0: 0.0, 1: 0.0, 2: 0.0}
    assert "nothing, on 3 of 3 seeds" in results.notes[0]
    assert f"{100 * results.noise:.2f} points" in results.notes[0]
    cells = [cell(row, seed) for row in ROWS for seed in SEEDS]
    other = synthetic_record(["neck=sppf"], 2, np.random.default_rng(9).random(200) < 0.7)
    cells[8] = replace(cells[8], record=other)
    note = analyse(archive(cells)).notes[0]
    gap = 100 * (other.figures["test/acc"] - cells[5].record.figures["test/acc"])
    assert f"{gap:+.2f} (seed 2)" in note
    assert "+0.00 (seed 0)" in note
    half = stats.t.ppf(0.975, 2) * abs(gap) / 3  # of 0, 0 and the gap: sd = gap / sqrt(3), over sqrt(3) seeds
    assert f"95 % t interval holds, {gap / 3 - half:+.2f} to {gap / 3 + half:+.2f}" in note
    # One of two rows makes half of the gaps' variance; below it no spread between seeds is a floor.
    alone = np.sqrt(gap**2 / 3 / 2)
    assert 100 * results.noise < alone
    assert f"less than one run's numerical noise ({alone:.2f}, from the pair)" in note
    cells[8] = replace(cells[8], record=replace(other, initial_hash="1" * 64))
    unlike = analyse(archive(cells))
    assert "do not start from the same weights" in unlike.notes[0]
    assert unlike.same is None


def test_a_pair_with_two_learning_rates_is_no_measure_of_numerical_noise() -> None:
    cells = []
    for row in ROWS:
        for rate in (0.001, 0.003):
            for seed in SEEDS:
                right = np.random.default_rng([seed, int(1e4 * rate)]).random(200) < 0.6
                record = synthetic_record([*ROWS[row][0], f"optimizer.lr={rate}"], seed, right)
                record.figures["val/acc"] = 0.6 if (rate == 0.001) == (row == "spp") else 0.5
                cells.append(ArchivedCell(row, seed, {"optimizer.lr": rate}, record.cell, "done", None, record, {}))
    results = analyse(archive(cells, axes=("neck", "neck.focal_level", "optimizer.lr")))
    assert results.notes[0] == "spp and sppf were given different optimizer.lr: no measure of numerical noise."
    assert results.same is None


def test_a_row_is_held_against_the_control_of_its_own_size() -> None:
    cells = [cell(row, seed) for row in ROWS for seed in SEEDS]
    right = {seed: np.random.default_rng([seed, 5]).random(200) < 0.75 for seed in SEEDS}
    made = [synthetic_record(["neck=conv"], seed, right[seed], 10_398, cell=f"conv_s{seed}") for seed in SEEDS]
    far = [synthetic_record(["neck=conv"], seed, right[seed], 18_000, cell=f"far_s{seed}") for seed in SEEDS]
    for name, records in (("conv, params as sppf", made), ("conv, params as x", far)):
        cells += [ArchivedCell(name, seed, {}, r.cell, "done", None, r, {}) for seed, r in zip(SEEDS, records, strict=True)]
    controls = {"conv, params as sppf": "params", "conv, params as x": "params"}
    results = analyse(archive(cells, rows=(*ROWS, *controls), controls=controls))
    rows = by_name(results)
    # spp has sppf's size; both focal rows are further than 2 % from either control, and a control has none itself.
    assert {name for name, row in rows.items() if row.control} == {"spp", "sppf"}
    for name in ("spp", "sppf"):
        assert rows[name].control.name == "conv, params as sppf"
        own = [run.record.figures["test/acc"] for run in rows[name].runs]
        base = [record.figures["test/acc"] for record in made]
        assert rows[name].control.difference.mean == pytest.approx(np.mean(np.subtract(own, base)))
        assert rows[name].control.difference.p == pytest.approx(stats.ttest_rel(own, base).pvalue)
    assert any("spp to 'conv, params as sppf'; sppf to 'conv, params as sppf'" in note for note in results.notes)
    # Matched by MACs, the control of 10,398 parameters is none of a neck with twice its MACs.
    for c in cells:
        if c.row.startswith("conv"):
            c.record.cost["neck"]["macs"] *= 2
    by_macs = archive(cells, rows=(*ROWS, *controls), controls=dict.fromkeys(controls, "macs"))
    assert not any(row.control for row in analyse(by_macs).rows)


def test_a_comparison_whose_runs_are_lost_counts() -> None:
    whole = by_name(analyse(archive()))
    cells = [cell(row, s, lose="missing" if row.startswith("focal") and s else None) for row in ROWS for s in SEEDS]
    results = analyse(archive(cells))
    # Without the two focal rows' p values, those of spp and sppf are not multiplied by less than before.
    assert by_name(results)["spp"].p_holm == pytest.approx(4 * whole["spp"].difference.p)
    assert any(note.startswith("No stars with n = 1 or 3: over 4 comparisons") and "8 seeds" in note for note in results.notes)
    one = analyse(archive([cell(row, 0) for row in ROWS], seeds=(0,)))
    assert any(note.startswith("No stars with n = 1: over 4 comparisons") for note in one.notes)


def test_equal_differences_have_no_interval_and_say_why() -> None:
    cells = [cell(row, seed) for row in ROWS for seed in SEEDS]
    for k in (6, 7, 8):  # sppf: 20 of 200 images above none
        accuracy = cells[k - 6].record.figures["test/acc"] + 0.1
        cells[k] = replace(cells[k], record=replace(cells[k].record, figures=cells[k].record.figures | {"test/acc": accuracy}))
    results = analyse(archive(cells))
    assert by_name(results)["sppf"].difference.interval is None
    assert "No interval for sppf: the same difference on every seed says nothing of its spread." in results.notes


def test_a_users_own_neck_has_code_of_its_own_and_old_code_shows() -> None:
    cells = [cell(row, seed, code=f"code with {row}") for row in ROWS for seed in SEEDS]
    assert not any("code" in note for note in analyse(archive(cells)).notes)
    cells[7] = replace(cells[7], state="stale")
    with pytest.raises(Unfair, match=r"code differs.*code with sppf \(sppf, seed 1\)"):
        analyse(archive(cells))
    assert (
        "1 of 15 cells are stale: the code has changed since they were trained."
        in analyse(archive(cells, allow=("code",))).notes
    )
    every = [replace(c, state="stale", record=replace(c.record, code="old")) for c in cells]
    assert any("15 of 15 cells are stale" in note for note in analyse(archive(every)).notes)


def test_stars_and_short_rows_are_told_apart() -> None:
    seeds = tuple(range(9))
    cells = [cell(row, seed) for row in ROWS for seed in seeds]
    cells = [replace(c, record=None, state="missing") if c.row == "sppf" and c.seed > 1 else c for c in cells]
    notes = analyse(archive(cells, seeds=seeds)).notes
    assert any(note.startswith("No stars with n = 2: over 4 comparisons") for note in notes)


def test_other_test_images_are_not_paired() -> None:
    cells = [cell(row, seed) for row in ROWS for seed in SEEDS]
    digest = {"train": "a" * 64, "val": "b" * 64, "test": "d" * 64}
    cells = [cell("spp", c.seed, digest=digest) if c.row == "spp" else c for c in cells]
    assert by_name(analyse(archive(cells, axes=("neck", "data"))))["spp"].images is None
    assert by_name(analyse(archive(cells, axes=("neck", "data"))))["sppf"].images is not None


def test_what_follows_from_an_axis_is_free_with_it() -> None:
    records = [cell("none", 0).record, cell("none", 0, pretrained=[0, 70], steps=11).record]
    assert set(differences(records, ["neck"])) == {"pretrained", "steps"}
    assert differences(records, ["backbone.depth", "epochs"]) == {}
    threads = [cell("none", 0).record, cell("none", 0, device={"kind": "cpu", "name": "a processor", "threads": 2}).record]
    assert set(differences(threads, ["neck"])) == {"device.threads"}


def test_no_star_where_n_cannot_support_one() -> None:
    results = analyse(archive())
    assert by_name(results)["spp"].p_holm < 0.05  # by t alone it would have one
    assert any("No stars with n = 3: over 4 comparisons" in note and "8 seeds could" in note for note in results.notes)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"world_size": 2}, "world_size"),
        ({"versions": {"python": "3.11.0", "torch": "2.13.0"}}, "versions.torch"),
        ({"steps": 11}, "steps"),
        ({"pretrained": [39, 40]}, "pretrained"),
        ({"device": {"kind": "cuda", "name": "a GPU", "threads": 1}}, "device.kind"),
        ({"digest": {"train": "x", "val": "b" * 64, "test": "c" * 64}}, "data.digest.train"),
    ],
)
def test_what_differs_outside_the_axes_is_an_error_that_names_it(changes: dict, field: str) -> None:
    cells = [cell(row, seed) for row in ROWS for seed in SEEDS]
    cells[7] = cell("sppf", 1, **changes)
    with pytest.raises(Unfair, match=rf"{field} differs.*sppf, seed 1") as error:
        analyse(archive(cells))
    assert "--allow" in str(error.value)
    allow = ("device.kind", "device.name") if field == "device.kind" else (field,)
    results = analyse(archive(cells, allow=allow))
    assert any(note.startswith(f"{field} differs") for note in results.notes)


@pytest.mark.parametrize(
    "override", ["batch_size=32", "epochs=9", "schedule=cosine", "trainer.precision=bf16-mixed", "data.val_fraction=0.2"]
)
def test_a_mixed_config_fails(override: str) -> None:
    cells = [cell(row, seed) for row in ROWS for seed in SEEDS]
    record = synthetic_record(["neck=sppf", override], 1, np.arange(200) < 100)
    cells[7] = replace(cells[7], record=record)
    with pytest.raises(Unfair, match=override.partition("=")[0]):
        analyse(archive(cells))


def test_axes_may_differ_and_nothing_else() -> None:
    records = [cell(row, 0).record for row in ROWS]
    assert differences(records, ["neck"]) == {}
    assert set(differences(records[:2], ["optimizer"])) == {"neck._target_", "neck.kernel_sizes", "neck.out_channels"}
    assert "absent" in differences(records[2:4], ["optimizer"])["neck.focal_level"]
    sizes = [
        synthetic_record([f"data/sizes={name}"], 0, np.arange(8) < 4, steps=k) for k, name in enumerate(("fixed", "native"))
    ]
    assert differences(sizes, ["data/sizes"]) == {}
    assert "steps" in differences(sizes, ["neck"])


def test_seeds_without_effect_are_an_error() -> None:
    cells = [cell(row, seed) for row in ROWS for seed in SEEDS]
    cells[1] = replace(cells[1], record=replace(cells[1].record, weights_hash=cells[0].record.weights_hash))
    with pytest.raises(Unfair, match="'none': seeds 0 and 1"):
        analyse(archive(cells))


def test_equal_accuracies_of_different_seeds_are_no_error() -> None:
    cells = [
        replace(cell(row, seed), record=synthetic_record(ROWS[row][0], seed, np.ones(200, bool)))
        for row in ROWS
        for seed in SEEDS
    ]
    results = analyse(archive(cells))
    assert by_name(results)["spp"].difference.mean == 0
    assert results.noise == 0


def test_the_learning_rate_is_chosen_on_val_and_not_on_test() -> None:
    cells = []
    for row in ROWS:
        for rate, val, test in ((0.001, 0.4, 0.9), (0.003, 0.6, 0.5)):
            for seed in SEEDS:
                correct = np.random.default_rng(seed).permutation(200) < 200 * test
                record = synthetic_record([*ROWS[row][0], f"optimizer.lr={rate}"], seed, correct)
                record.figures["val/acc"] = val
                cells.append(ArchivedCell(row, seed, {"optimizer.lr": rate}, record.cell, "done", None, record, {}))
    results = analyse(archive(cells, axes=("neck", "neck.focal_level", "optimizer.lr")))
    assert {row.chosen["optimizer.lr"] for row in results.rows} == {0.003}
    assert by_name(results)["spp"].summary.mean == pytest.approx(0.5)
    # Of a value that was not chosen, a lost cell is told all the same.
    loser = next(k for k, c in enumerate(cells) if c.row == "spp" and c.choice["optimizer.lr"] == 0.001)
    gone = [replace(c, record=None, state="failed", failure="no") if k == loser else c for k, c in enumerate(cells)]
    notes = analyse(archive(gone, axes=("neck", "neck.focal_level", "optimizer.lr"))).notes
    assert "spp, seed 0, optimizer.lr=0.001 (not chosen): failed: no" in notes
    # A value of which a seed is missing does not win over one that has them all.
    short = [c for c in cells if not (c.row == "spp" and c.choice["optimizer.lr"] == 0.003 and c.seed == 2)]
    lost = replace(next(c for c in cells if c not in short), record=None, state="missing")
    results = analyse(archive([*short, lost], axes=("neck", "neck.focal_level", "optimizer.lr")))
    assert by_name(results)["spp"].chosen == {"optimizer.lr": 0.001}


def test_the_metric_by_size_is_the_mean_over_seeds() -> None:
    cells = [cell(row, seed) for row in ROWS for seed in SEEDS]
    for c in cells:
        c.record.figures["test/acc@24"] = 0.1 * c.seed
        c.record.figures["test/acc@8"] = 0.5
    assert by_name(analyse(archive(cells)))["spp"].by_size == {8: 0.5, 24: pytest.approx(0.1)}


def test_gates_that_were_not_finite_are_named_below_the_table() -> None:
    mark = {"layer": "neck", "context": "level2 k5", "epoch": 0, "step": 85, "positions": 3}
    gates = {"epoch": 1, "step": 170, "layers": {}, "nonfinite": [mark]}
    cells = [cell(row, seed) for row in ROWS for seed in SEEDS]
    cells[-1] = cell("focal, focal_level=2", 2, gates=gates)
    (note,) = [note for note in analyse(archive(cells)).notes if "NaN" in note]
    assert note == "focal, focal_level=2, seed 2: the gates of neck, level2 k5 were NaN or infinite at step 85."
