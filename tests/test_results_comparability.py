# The runs made here have what may be missing elsewhere.
# pyright: reportOptionalMemberAccess=false, reportOptionalSubscript=false, reportOptionalOperand=false
# pyright: reportArgumentType=false, reportOperatorIssue=false
from dataclasses import replace

import numpy as np
import pytest

from necklace.results.analysis import analyse
from necklace.results.comparability import NotComparable, changed_code, check_comparable, differences, equal_rows
from necklace.study.store import StudyRun
from tests.conftest import synthetic_record
from tests.synthetic import ROWS, SEEDS, by_name, synthetic_run, synthetic_runs, synthetic_study


def test_a_users_own_neck_has_code_of_its_own_and_old_code_shows() -> None:
    runs = [synthetic_run(row, seed, code={"necklace.run.fit": "new", f"mine.{row}": row}) for row in ROWS for seed in SEEDS]
    assert not any("code" in note for note in analyse(synthetic_study(runs)).notes)
    runs[7] = with_code(runs[7], {"necklace.run.fit": "old", "mine.sppf": "sppf"})
    with pytest.raises(NotComparable, match=r"code differs in necklace\.run\.fit: .*and 12 more\); \w+ \(sppf, seed 1\)"):
        analyse(synthetic_study(runs))
    notes = analyse(synthetic_study(runs, allow=("code",))).notes
    assert "1 of 15 runs are stale: the code has changed since they were trained." in notes
    assert any(note.startswith("code differs in necklace.run.fit") for note in notes)
    every = [with_code(run, {"necklace.run.fit": "old"}) for run in runs]
    notes = analyse(synthetic_study(every)).notes
    assert any("15 of 15 runs are stale" in note for note in notes)
    assert not any("code differs" in note for note in notes)


def test_stale_runs_that_were_trained_again_with_equal_weights_are_named() -> None:
    runs = [with_code(run, {"necklace.run.fit": "old"}) for run in synthetic_runs()]
    for at, commit, equal in ((0, "0123456789", "yes"), (4, "0123456789", "yes"), (6, "0123456789", "no"), (5, "<b>", "yes")):
        runs[at] = replace(runs[at], again={"code": "digest", "commit": commit, "equal": equal})
    runs[7] = replace(runs[7], state="done", again={"code": "digest", "commit": "", "equal": "yes"})  # not what we write
    notes = analyse(synthetic_study(runs)).notes
    words = [f"{run.row}, seed {run.seed}" for run in runs]
    both = f"equal weights, bit for bit ({words[0]}; {words[4]}), other weights or metrics ({words[6]})"
    assert f"Trained again with the code of commit 0123456: {both}." in notes
    assert f"Trained again with other code: equal weights, bit for bit ({words[5]})." in notes
    assert not any(words[7] in note for note in notes if "again" in note)


def test_rows_that_are_evaluated_in_other_views_may_end_in_equal_weights() -> None:
    def found(shifts: dict[str, int]) -> dict[str, bool]:
        runs = []
        for row, shift in shifts.items():
            for seed in SEEDS:
                run = synthetic_run(row, seed, weights_hash=f"of {seed}")
                views = {name: getattr(run.record, name) | {"shift": shift} for name in ("config", "identity")}
                runs.append(replace(run, record=replace(run.record, **views)))
        return equal_rows(synthetic_study(runs, rows=tuple(shifts), same=None))

    assert found({"none": 0, "spp": 1}) == {}
    assert found({"none": 1, "spp": 1})


def with_code(run: StudyRun, code: dict[str, str]) -> StudyRun:
    """A stale run that this code has trained."""
    return replace(run, state="stale", record=replace(run.record, code=code))


def test_code_of_one_row_may_be_old_as_long_as_all_its_runs_have_it() -> None:
    runs = [synthetic_run(row, seed, code={"fit": "new", "necks." + row: "new"}) for row in ROWS for seed in SEEDS]
    rows = {row: [at for at, run in enumerate(runs) if run.row == row] for row in ROWS}
    old = {"fit": "new", "necks.spp": "old"}
    for at in rows["spp"]:
        runs[at] = with_code(runs[at], old)
    assert changed_code(runs) == []
    assert any("3 of 15 runs are stale" in note for note in analyse(synthetic_study(runs)).notes)
    # Part of a row with other code, in a module of its own or with a module more.
    runs[rows["sppf"][0]] = with_code(runs[rows["sppf"][0]], {"fit": "new", "necks.sppf": "old"})
    assert changed_code(runs) == ["necks.sppf"]
    runs[rows["sppf"][0]] = with_code(runs[rows["sppf"][0]], {"fit": "new", "necks.sppf": "new", "moved": "new"})
    assert changed_code(runs) == ["moved"]
    with pytest.raises(NotComparable, match=r"code differs in moved: .*sppf, seed 0"):
        analyse(synthetic_study(runs))


def test_code_that_two_rows_share_has_to_be_the_same() -> None:
    code = {"none": {"fit": "1"}, "spp": {"fit": "1", "options": "old"}, "sppf": {"fit": "1", "options": "new"}}
    runs = [synthetic_run(row, seed, code=code[row]) for row in code for seed in SEEDS]
    assert changed_code(runs) == ["options"]
    assert changed_code([run for run in runs if run.row != "spp"]) == []
    assert changed_code([]) == []


def test_code_of_an_earlier_schema_is_only_like_itself() -> None:
    earlier = [synthetic_run("none", seed, code={"schema 3": "abc"}) for seed in SEEDS]
    assert changed_code(earlier) == []
    assert changed_code([*earlier, synthetic_run("spp", 0, code={"schema 3": "def"})]) == ["schema 3"]
    assert changed_code([*earlier, synthetic_run("spp", 0, code={"fit": "1"})]) == ["fit", "schema 3"]


def test_in_a_set_of_runs_other_code_is_printed_and_allowed() -> None:
    runs = synthetic_runs()
    runs[7] = replace(runs[7], record=replace(runs[7].record, code=runs[7].record.code | {"necklace.model": "old"}))
    notes = check_comparable(synthetic_study(runs, axes=None, baseline=None, same=None))
    (note,) = [note for note in notes if note.startswith("code differs")]
    assert note.startswith("code differs in necklace.model: ")


def test_what_follows_from_an_axis_is_free_with_it() -> None:
    records = [synthetic_run("none", 0).record, synthetic_run("none", 0, pretrained=[0, 70], steps=11).record]
    assert set(differences(records, ["neck"])) == {"pretrained", "steps"}
    assert differences(records, ["backbone.depth", "epochs"]) == {}
    threads = [
        synthetic_run("none", 0).record,
        synthetic_run("none", 0, device={"kind": "cpu", "name": "a processor", "threads": 2}).record,
    ]
    assert set(differences(threads, ["neck"])) == {"device.threads"}


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
    runs = synthetic_runs()
    runs[7] = synthetic_run("sppf", 1, **changes)
    with pytest.raises(NotComparable, match=rf"{field} differs.*sppf, seed 1") as error:
        analyse(synthetic_study(runs))
    assert "--allow" in str(error.value)
    allow = ("device.kind", "device.name") if field == "device.kind" else (field,)
    results = analyse(synthetic_study(runs, allow=allow))
    assert any(note.startswith(f"{field} differs") for note in results.notes)


@pytest.mark.parametrize(
    "override", ["batch_size=32", "epochs=9", "schedule=cosine", "trainer.precision=bf16-mixed", "data.val_fraction=0.2"]
)
def test_a_mixed_config_fails(override: str) -> None:
    runs = synthetic_runs()
    record = synthetic_record(["neck=sppf", override], 1, np.arange(200) < 100)
    runs[7] = replace(runs[7], record=record)
    with pytest.raises(NotComparable, match=override.partition("=")[0]):
        analyse(synthetic_study(runs))


def test_an_option_that_came_later_had_its_value_in_earlier_records() -> None:
    plain, drawn = (synthetic_record(list(own), 0, np.arange(8) < 4) for own in ((), ("data.sampler=balanced",)))
    old = replace(plain, config={**plain.config, "data": {k: v for k, v in plain.config["data"].items() if k != "sampler"}})
    assert differences([plain, drawn], ["neck"])["data.sampler"] == differences([old, drawn], ["neck"])["data.sampler"]
    assert differences([old, drawn], ["neck"])["data.sampler"] == ['"shuffle"', '"balanced"']
    coarse = synthetic_record(["data=cifar100", "data.labels=coarse"], 0, np.arange(8) < 4)
    assert differences([plain, coarse], ["neck"])["data.labels"] == ["absent", '"coarse"']


def test_axes_may_differ_and_nothing_else() -> None:
    records = [synthetic_run(row, 0).record for row in ROWS]
    assert differences(records, ["neck"]) == {}
    assert set(differences(records[:2], ["optimizer"])) == {"neck._target_", "neck.kernel_sizes", "neck.out_channels"}
    assert "absent" in differences(records[2:4], ["optimizer"])["neck.focal_level"]
    sizes = [
        synthetic_record([f"data/sizes={name}"], 0, np.arange(8) < 4, steps=k) for k, name in enumerate(("fixed", "native"))
    ]
    assert differences(sizes, ["data/sizes"]) == {}
    assert "steps" in differences(sizes, ["neck"])


def test_seeds_without_effect_are_an_error() -> None:
    runs = synthetic_runs()
    runs[1] = replace(runs[1], record=replace(runs[1].record, weights_hash=runs[0].record.weights_hash))
    with pytest.raises(NotComparable, match="'none': seeds 0 and 1"):
        analyse(synthetic_study(runs))


def with_weights_of(runs: list[StudyRun], row: str, other: str, seeds: tuple[int, ...] = SEEDS) -> list[StudyRun]:
    """The runs, those of a row with the weights of another's on these seeds."""
    weights = {run.seed: run.record.weights_hash for run in runs if run.row == other}
    return [
        replace(run, record=replace(run.record, weights_hash=weights[run.seed]))
        if run.row == row and run.seed in seeds
        else run
        for run in runs
    ]


def test_two_rows_of_equal_weights_are_refused_unless_declared() -> None:
    rows = "focal, focal_level=1", "focal, focal_level=2"
    runs = with_weights_of(synthetic_runs(), *rows)
    with pytest.raises(NotComparable, match=f"row '{rows[0]}' and row '{rows[1]}' ended with the same weights on all 3 seeds"):
        analyse(synthetic_study(runs))
    assert analyse(synthetic_study(runs, same=rows)).rows
    assert analyse(synthetic_study(with_weights_of(synthetic_runs(), "sppf", "spp"))).rows  # declared
    assert analyse(synthetic_study(with_weights_of(synthetic_runs(), *rows, seeds=(0, 1)))).rows  # not on every seed
    (note,) = [
        text for text in check_comparable(synthetic_study(runs, axes=None, baseline=None, same=None)) if "weights" in text
    ]
    assert rows[0] in note


def test_two_necks_that_compute_the_same_are_a_finding() -> None:
    runs = with_weights_of(synthetic_runs(), "sppf", "spp")
    notes = check_comparable(synthetic_study(runs, same=None))
    assert notes == ["row 'spp' and row 'sppf' ended with the same weights on all 3 seeds."]


def test_rows_that_are_only_tested_differently_may_share_their_weights() -> None:
    runs = [run for run in synthetic_runs() if run.row in ("none", "spp")]
    at_64 = ["neck=spp", "data.eval_sizes=[64]"]
    more = [
        StudyRun("spp at 64", seed, {}, f"64_s{seed}", "done", None, synthetic_record(at_64, seed, np.arange(200) < 100))
        for seed in SEEDS
    ]
    axes = ("neck", "data.eval_sizes")
    study = synthetic_study([*runs, *with_weights_of([*runs, *more], "spp at 64", "spp")[-3:]], axes=axes, same=None)
    assert check_comparable(study) == []


def test_equal_accuracies_of_different_seeds_are_no_error() -> None:
    runs = [
        replace(synthetic_run(row, seed), record=synthetic_record(ROWS[row][0], seed, np.ones(200, bool)))
        for row in ROWS
        for seed in SEEDS
    ]
    results = analyse(synthetic_study(runs))
    assert by_name(results)["spp"].difference.mean == 0
    assert results.noise == 0
