# The runs made here have what may be missing elsewhere.
# pyright: reportOptionalMemberAccess=false, reportOptionalSubscript=false, reportOptionalOperand=false
# pyright: reportArgumentType=false, reportOperatorIssue=false
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from necklace.results.analysis import analyse
from necklace.study.rules import Rules, Setting
from necklace.study.store import StudyRun
from tests.conftest import synthetic_record
from tests.synthetic import ROWS, SEEDS, by_name, synthetic_run, synthetic_runs, synthetic_study


def test_the_same_function_twice_is_numerical_noise() -> None:
    results = analyse(synthetic_study())
    assert results.same.difference.mean == 0
    assert results.same.gaps == {0: 0.0, 1: 0.0, 2: 0.0}
    assert "nothing, on 3 of 3 seeds" in results.notes[0]
    assert f"{100 * results.noise:.2f} points" in results.notes[0]
    runs = synthetic_runs()
    other = synthetic_record(["neck=sppf"], 2, np.random.default_rng(9).random(200) < 0.7)
    runs[8] = replace(runs[8], record=other)
    note = analyse(synthetic_study(runs)).notes[0]
    gap = 100 * (other.metrics["test/acc"] - runs[5].record.metrics["test/acc"])
    assert f"{gap:+.2f} (seed 2)" in note
    assert "+0.00 (seed 0)" in note
    half = stats.t.ppf(0.975, 2) * abs(gap) / 3  # of 0, 0 and the gap: sd = gap / sqrt(3), over sqrt(3) seeds
    assert f"95 % t interval, {gap / 3 - half:+.2f} to {gap / 3 + half:+.2f}" in note
    # One of two rows makes half of the gaps' variance; below it no spread between seeds is a floor.
    alone = np.sqrt(gap**2 / 3 / 2)
    assert 100 * results.noise < alone
    assert f"less than one run's numerical noise ({alone:.2f}, from the pair)" in note
    runs[8] = replace(runs[8], record=replace(other, initial_hash="1" * 64))
    unlike = analyse(synthetic_study(runs))
    assert "do not start from the same weights" in unlike.notes[0]
    assert unlike.same is None


def test_a_floor_that_is_narrow_beside_other_rows_says_so() -> None:
    def notes(none: list[int], focal: list[int]) -> list[str]:
        right = {"none": none, "focal, focal_level=1": focal}
        runs = [
            StudyRun(row, s, {}, f"{row}{s}", "done", None, synthetic_record(ROWS[row][0], s, np.arange(200) < of[s]))
            for row, of in right.items()
            for s in range(len(of))
        ]
        study = synthetic_study(runs, rows=tuple(right), seeds=tuple(range(len(none))), same=None)
        return [note for note in analyse(study).notes if "not that of every row" in note]

    steady = [100, 101, 102, 101, 99]
    assert notes(steady, [20, 100, 180, 150, 60]) == [
        "The noise floor is not that of every row: focal, focal_level=1 has a spread between seeds of 32.48 points."
    ]
    assert notes(steady, [96, 101, 105, 100, 98]) == []  # three times as wide, which five seeds have by chance in 1 of 38
    assert notes([100, 110], [80, 140]) == []  # six times as wide, but of two seeds each
    assert notes([100] * 5, [20, 100, 180, 150, 60]) == []  # and none of a baseline that has none


def test_a_pair_of_equal_weights_measures_no_noise() -> None:
    runs = synthetic_runs()
    for seed, (spp, sppf) in enumerate(zip(runs[3:6], runs[6:9], strict=True)):
        assert (spp.row, sppf.row, sppf.seed) == ("spp", "sppf", seed)
        runs[6 + seed] = replace(sppf, record=replace(sppf.record, weights_hash=spp.record.weights_hash))
    results = analyse(synthetic_study(runs))
    said = "spp and sppf ended in equal weights, bit for bit, on every seed: no measure of numerical noise."
    assert results.notes[0] == said
    assert results.same is None
    assert f"{100 * results.noise:.2f} points" in results.notes[1]
    runs[8] = replace(runs[8], record=replace(runs[8].record, weights_hash="2" * 64))
    assert "nothing, on 3 of 3 seeds" in analyse(synthetic_study(runs)).notes[0]


def test_a_pair_with_two_learning_rates_is_no_measure_of_numerical_noise() -> None:
    runs = []
    for row in ROWS:
        for rate in (0.001, 0.003):
            for seed in SEEDS:
                right = np.random.default_rng([seed, int(1e4 * rate)]).random(200) < 0.6
                record = synthetic_record([*ROWS[row][0], f"optimizer.lr={rate}"], seed, right)
                record.metrics["val/acc"] = 0.6 if (rate == 0.001) == (row == "spp") else 0.5
                runs.append(StudyRun(row, seed, {"optimizer.lr": rate}, record.name, "done", None, record, {}))
    results = analyse(synthetic_study(runs, axes=("neck", "neck.focal_level", "optimizer.lr")))
    assert results.notes[0] == "spp and sppf were given different optimizer.lr: no measure of numerical noise."
    assert results.same is None


def test_a_comparison_whose_runs_are_lost_counts() -> None:
    whole = by_name(analyse(synthetic_study()))
    runs = [synthetic_run(row, s, lose="missing" if row.startswith("focal") and s else None) for row in ROWS for s in SEEDS]
    results = analyse(synthetic_study(runs))
    # Without the two focal rows' p values, those of spp and sppf are not multiplied by less than before.
    assert by_name(results)["spp"].p_holm == pytest.approx(4 * whole["spp"].difference.p)
    assert any(note.startswith("No stars with n = 1 or 3: over 4 comparisons") and "8 seeds" in note for note in results.notes)
    one = analyse(synthetic_study([synthetic_run(row, 0) for row in ROWS], seeds=(0,)))
    assert any(note.startswith("No stars with n = 1: over 4 comparisons") for note in one.notes)


def test_equal_differences_have_no_interval_and_say_why() -> None:
    runs = synthetic_runs()
    for k in (6, 7, 8):  # sppf: 20 of 200 images above none
        accuracy = runs[k - 6].record.metrics["test/acc"] + 0.1
        runs[k] = replace(runs[k], record=replace(runs[k].record, metrics=runs[k].record.metrics | {"test/acc": accuracy}))
    results = analyse(synthetic_study(runs))
    assert by_name(results)["sppf"].difference.interval is None
    assert "No interval for sppf: the same difference on every seed says nothing of its spread." in results.notes


def test_stars_and_short_rows_are_distinguished() -> None:
    seeds = tuple(range(9))
    runs = synthetic_runs(seeds)
    runs = [replace(c, record=None, state="missing") if c.row == "sppf" and c.seed > 1 else c for c in runs]
    notes = analyse(synthetic_study(runs, seeds=seeds)).notes
    assert any(note.startswith("No stars with n = 2: over 4 comparisons") for note in notes)


def test_no_star_where_n_cannot_support_one() -> None:
    results = analyse(synthetic_study())
    assert by_name(results)["spp"].p_holm < 0.05  # by t alone it would have one
    assert any("No stars with n = 3: over 4 comparisons" in note and "8 seeds could" in note for note in results.notes)


def test_gates_that_were_not_finite_are_named_below_the_table() -> None:
    mark = {"layer": "neck", "context": "level2 k5", "epoch": 0, "step": 85, "positions": 3}
    gates = {"epoch": 1, "step": 170, "layers": {}, "nonfinite": [mark]}
    runs = synthetic_runs()
    runs[-1] = synthetic_run("focal, focal_level=2", 2, gates=gates)
    (note,) = [note for note in analyse(synthetic_study(runs)).notes if "NaN" in note]
    assert note == "focal, focal_level=2, seed 2: the gates of neck, level2 k5 were NaN or infinite at step 85."


def test_what_the_data_lacks_is_said_once_and_where_it_holds() -> None:
    runs = synthetic_runs()
    skipped = [
        ["test/a/x.jpg", "image file is truncated (3 bytes not processed)"],
        ["train/a/y.txt", "not an image by its extension"],
    ]
    for number, run in enumerate(runs):
        notes = ["test: 1 file skipped (1 truncated)"] + (["val: no image of class cat"] if number in (0, 1, 2, 4) else [])
        runs[number] = replace(run, record=replace(run.record, data=run.record.data | {"skipped": skipped, "notes": notes}))
    results = analyse(synthetic_study(runs))
    assert [note for note in results.notes if "skipped" in note or "no image" in note] == [
        "Data: 2 files skipped (1 not an image by its extension, 1 truncated).",
        "Test: 1 file skipped (1 truncated).",
        "Val: no image of class cat (none; spp, seed 1).",
    ]
    before = analyse(synthetic_study())  # records without notes, as earlier versions wrote them
    assert not any("skipped" in note for note in before.notes)


def test_a_study_of_one_row_has_no_word_on_verdicts() -> None:
    study = synthetic_study([synthetic_run("none", seed) for seed in SEEDS], rows=("none",), same=None)
    alone = replace(study, rules=Rules((Setting("fixed", 0.5, 0.05, records=1),)))
    assert [note[:15] for note in analyse(alone).notes] == ["The noise floor", "Latency, traini"]
