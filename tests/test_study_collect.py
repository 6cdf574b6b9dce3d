# pyright: reportOptionalMemberAccess=false
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from necklace.code_version import version_digest
from necklace.run.folder import RunFolder
from necklace.study.collect import Kept, collect
from necklace.study.status import StatusReader
from necklace.study.store import StudyRecords, write_records
from tests.conftest import SMALL, about_run, synthetic_record, write_synthetic
from tests.test_study_plan import plan_of

pytestmark = pytest.mark.usefixtures("hydra_ready")


def finish(plan, index: int, root: Path, **fields) -> None:
    planned = plan.runs[index]
    record = synthetic_record(SMALL, planned.seed, np.random.default_rng(index).random(30) < 0.5)
    write_synthetic(replace(record, **about_run(planned.spec, record) | fields), root)


def test_runs_come_from_outputs_else_from_records_else_from_retired(tmp_path: Path) -> None:
    plan, folder = plan_of(tmp_path), tmp_path / "experiments" / "tiny"
    everything = range(len(plan.runs))
    for index in everything:
        finish(plan, index, plan.root)
    info = plan.info((), ())
    all_here = collect(plan, StatusReader(plan), Kept(folder))
    assert [run.state for run in all_here] == ["done"] * len(plan.runs)
    write_records(StudyRecords(info, all_here, {}), folder)
    # The last two retire; then nothing is left in outputs/.
    write_records(StudyRecords(info, all_here[:-2], {}), folder)
    plan.root.rename(tmp_path / "elsewhere")
    kept = Kept(folder)
    assert kept.info == info
    assert len(kept.listed) == len(plan.runs) - 2
    found = collect(plan, StatusReader(plan), kept)
    assert [(run.row, run.seed, run.state, run.record, run.curve) for run in found] == [
        (run.row, run.seed, run.state, run.record, run.curve) for run in all_here
    ]


def test_a_kept_run_of_other_code_is_stale_and_a_damaged_one_is_named(tmp_path: Path) -> None:
    plan, folder = plan_of(tmp_path), tmp_path / "experiments" / "tiny"
    for index in range(len(plan.runs)):
        finish(plan, index, plan.root, **({"code": {"necklace.run.fit": "old"}} if index == 1 else {}))
    write_records(StudyRecords(plan.info((), ()), collect(plan, StatusReader(plan), Kept(folder)), {}), folder)
    plan.root.rename(tmp_path / "elsewhere")
    states = [run.state for run in collect(plan, StatusReader(plan), Kept(folder))]
    assert states == ["done", "stale", *["done"] * (len(plan.runs) - 2)]
    # One that has failed here since is still the result that it was.
    RunFolder(plan.root / plan.runs[2].spec.name).mark_failed("MemoryError: \n")
    assert [run.state for run in collect(plan, StatusReader(plan), Kept(folder))] == states
    lost, cut, foreign = (folder / "records" / f"{plan.runs[index].spec.name}.json" for index in (0, 2, 3))
    lost.unlink()
    cut.write_bytes(cut.read_bytes()[:-9])
    foreign.write_bytes((folder / "records" / f"{plan.runs[4].spec.name}.json").read_bytes())
    found = collect(plan, StatusReader(plan), Kept(folder))
    assert [run.state for run in found] == ["damaged", "stale", "damaged", "damaged", *["done"] * (len(plan.runs) - 4)]
    assert [run.record is None for run in found[:4]] == [True, False, True, True]
    for run, path, words in ((found[0], lost, "not there"), (found[2], cut, "not JSON"), (found[3], foreign, "of another run")):
        assert str(path) in str(run.failure)
        assert words in str(run.failure)


def test_what_was_found_with_todays_code_stays_and_what_was_found_with_other_code_goes(tmp_path: Path) -> None:
    plan, folder = plan_of(tmp_path), tmp_path / "experiments" / "tiny"
    for index in range(len(plan.runs)):
        finish(plan, index, plan.root, **({"code": {"necklace.run.fit": "old"}} if index < 2 else {}))
    runs = list(collect(plan, StatusReader(plan), Kept(folder)))
    codes = [version_digest(run.spec.code) for run in plan.runs]
    today, other, unasked = (
        {"code": code, "commit": "0f25db1", "weights": weights, "equal": "yes"}
        for code, weights in ((codes[0], runs[0].record.weights_hash), (codes[1], "another's"), (codes[2], ""))
    )
    runs[:3] = [replace(run, again=again) for run, again in zip(runs, (today, other, unasked), strict=False)]
    write_records(StudyRecords(plan.info((), ()), tuple(runs), {}), folder)
    expected = [today, {}, *[{}] * (len(plan.runs) - 2)]
    assert [run.again for run in collect(plan, StatusReader(plan), Kept(folder))] == expected
    plan.root.rename(tmp_path / "elsewhere")
    assert [run.again for run in collect(plan, StatusReader(plan), Kept(folder))] == expected


def test_a_damaged_study_json_is_passed_over(tmp_path: Path) -> None:
    plan, folder = plan_of(tmp_path), tmp_path / "experiments" / "tiny"
    for index in range(len(plan.runs)):
        finish(plan, index, plan.root)
    before = collect(plan, StatusReader(plan), Kept(folder))
    write_records(StudyRecords(plan.info((), ()), before, {}), folder)
    plan.root.rename(tmp_path / "elsewhere")
    (folder / "records" / "study.json").write_bytes(b"")
    kept = Kept(folder)
    assert kept.info is None
    assert str(kept.problem).startswith(f"{folder / 'records' / 'study.json'}: not JSON")
    found = collect(plan, StatusReader(plan), kept)
    assert [(run.row, run.seed, run.state, run.record) for run in found] == [
        (run.row, run.seed, run.state, run.record) for run in before
    ]


def test_results_are_read_only_where_they_are_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan, folder = plan_of(tmp_path), tmp_path / "experiments" / "tiny"
    for index in range(len(plan.runs)):
        finish(plan, index, plan.root)
    write_records(StudyRecords(plan.info((), ()), collect(plan, StatusReader(plan), Kept(folder)), {}), folder)
    monkeypatch.setattr("necklace.study.collect.with_record", lambda *_: pytest.fail("outputs/ has the run"))
    assert len(collect(plan, StatusReader(plan), Kept(folder))) == len(plan.runs)


def test_a_run_of_todays_code_in_records_counts_and_not_one_of_other_code_in_outputs(tmp_path: Path) -> None:
    plan, folder = plan_of(tmp_path), tmp_path / "experiments" / "tiny"
    for index in range(len(plan.runs)):
        finish(plan, index, plan.root, fit_seconds=7.0)
    write_records(StudyRecords(plan.info((), ()), collect(plan, StatusReader(plan), Kept(folder)), {}), folder)
    plan.root.rename(tmp_path / "elsewhere")
    finish(plan, 0, plan.root, code={"necklace.run.fit": "old"})
    found = collect(plan, StatusReader(plan), Kept(folder))
    assert [(run.state, run.record.fit_seconds) for run in found] == [("done", 7.0)] * len(plan.runs)
    # Where that in records/ is of other code too, this machine's counts.
    (folder / "records" / f"{plan.runs[0].spec.name}.json").unlink()
    assert collect(plan, StatusReader(plan), Kept(folder))[0].state == "stale"
