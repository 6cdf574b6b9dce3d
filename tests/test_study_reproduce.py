# The runs made here have what may be missing elsewhere.
# pyright: reportOptionalMemberAccess=false, reportArgumentType=false, reportCallIssue=false
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from necklace.code_version import code_version, version_digest
from necklace.run.runner import run
from necklace.study.excerpts import read_curve
from necklace.study.reproduce import reproduce, with_repetitions
from necklace.study.store import StudyRecords, StudyRun
from tests.conftest import spec_of
from tests.synthetic import synthetic_study


def test_runs_are_trained_again_bitwise(train_run: Callable, tmp_path: Path) -> None:
    runs = []
    for neck in ("none", "sppf"):
        record, where = train_run(f"neck={neck}")
        runs.append(StudyRun(neck, 0, {}, record.name, "done", None, record, read_curve(where)))
    made: StudyRecords = synthetic_study(runs, rows=("none", "sppf"), seeds=(0,), same=None, costs={})
    for repetition in reproduce(made, 2, tmp_path / "scratch", [], np.random.default_rng(0)):
        assert repetition.why_not_bitwise is None
        assert repetition.same_weights
        assert repetition.difference == 0
        assert repetition.holds
    # A record that claims more than the run gives does not hold, here or on another machine.
    better = replace(runs[0].record, metrics={**runs[0].record.metrics, "test/acc": runs[0].record.metrics["test/acc"] + 0.05})
    there = replace(better, device={**better.device, "name": "another"})
    for record, tolerance, holds in ((better, 0.1, False), (there, 0.1, True), (there, 0.01, False)):
        claimed = StudyRecords(replace(made.info, tolerance=tolerance), (replace(runs[0], record=record),), {})
        (repetition,) = reproduce(claimed, 1, tmp_path / f"{tolerance}{holds}{record is there}", [], np.random.default_rng(0))
        assert repetition.holds is holds
    older = replace(runs[0], record=replace(runs[0].record, code={"necklace.run.fit": "0"}))
    old = StudyRecords(replace(made.info, tolerance=0.0), (older,), {})
    (repetition,) = reproduce(old, 1, tmp_path / "code", [], np.random.default_rng(0))
    assert (repetition.why_not_bitwise, repetition.holds, repetition.same_weights) == ("another code", True, True)
    (told,) = with_repetitions(old, [repetition]).runs
    assert code_version(runs[0].record.config) == runs[0].record.code
    of_today = {"code": version_digest(runs[0].record.code), "weights": older.record.weights_hash}
    commit = told.again["commit"]
    assert (told.state, told.again) == ("stale", {**of_today, "commit": commit, "equal": "yes"})
    before = replace(older, state="stale", again={"code": "that of another day"})
    other = replace(repetition, name="another run")
    assert [run.again for run in with_repetitions(replace(old, runs=(before,)), [other]).runs] == [{}]
    differs = replace(repetition, equal=False)
    assert [run.again["equal"] for run in with_repetitions(replace(old, runs=(told,)), [differs]).runs] == ["no"]
    far = replace(differs, record=replace(differs.record, device={**differs.record.device, "name": "another"}))
    assert [run.again for run in with_repetitions(replace(old, runs=(told,)), [far]).runs] == [{}]
    mine = replace(older, record=replace(older.record, code={"my_neck": "0"}))
    assert with_repetitions(replace(old, runs=(mine,)), [repetition]).runs == (mine,)  # its module is not here
    assert with_repetitions(made, [replace(repetition, why_not_bitwise="another device")]) is made
    with pytest.raises(ValueError, match=r"data\.KEY=VALUE only"):
        reproduce(made, 1, tmp_path, ["hydra.launcher.slots=1"], np.random.default_rng(0))
    with pytest.raises(ValueError, match="data has no such option"):
        list(reproduce(made, 1, tmp_path, ["data.rot=x"], np.random.default_rng(0)))
    two = replace(made, runs=(replace(runs[0], record=replace(runs[0].record, world_size=2)),))
    with pytest.raises(ValueError, match="2 processes trained it"):
        reproduce(two, 1, tmp_path, [], np.random.default_rng(0))
    with pytest.raises(ValueError, match="--reproduce 3: must be between 1 and the 2 runs"):
        reproduce(made, 3, tmp_path, [], np.random.default_rng(0))


def test_data_that_moved_is_found_again(tmp_path: Path) -> None:
    for split in ("train", "test"):
        for name in ("dark", "light"):
            (tmp_path / "here" / split / name).mkdir(parents=True)
            for number in range(20):
                shade = number + (200 if name == "light" else 0)
                Image.new("RGB", (24, 24), (shade, shade, shade)).save(tmp_path / "here" / split / name / f"{number}.png")
    settings = ["data=folder", f"data.root={tmp_path / 'here'}", "data.size=24", "backbone.width=4", "epochs=1", "batch_size=8"]
    settings += ["logger=none", f"outputs={tmp_path / 'outputs'}"]
    record = run(spec_of(settings))
    where = tmp_path / "outputs" / "runs" / record.name
    moved = shutil.move(tmp_path / "here", tmp_path / "there")
    curve = read_curve(where)
    made = synthetic_study(
        [StudyRun("none", 0, {}, record.name, "done", None, record, curve)], rows=("none",), seeds=(0,), same=None, costs={}
    )
    (repetition,) = reproduce(made, 1, tmp_path / "scratch", [f"data.root={moved}"], np.random.default_rng(0))
    assert repetition.holds
