from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock

import necklace.run.folder
from necklace.run.folder import RunFolder
from necklace.study.status import StatusReader
from tests.conftest import SMALL, about_run, synthetic_record, write_synthetic
from tests.test_study_plan import plan_of

pytestmark = pytest.mark.usefixtures("hydra_ready")


def finished(plan, index: int, **fields) -> Path:
    planned = plan.runs[index]
    record = synthetic_record(SMALL, planned.seed, np.random.default_rng(index).random(30) < 0.5)
    return write_synthetic(replace(record, **about_run(planned.spec, record) | fields), plan.root)


def test_each_state(tmp_path: Path) -> None:
    plan = plan_of(tmp_path)
    runs = plan.runs
    finished(plan, 0)
    finished(plan, 1, code={"necklace.run.fit": "another"})
    RunFolder(plan.root / runs[2].spec.name).mark_failed("Traceback\nValueError: no\n")
    (plan.root / ".locks").mkdir()
    (plan.root / ".locks" / f"{runs[4].spec.hash}.lock").touch()  # left behind, held by nobody
    with FileLock(plan.root / ".locks" / f"{runs[3].spec.hash}.lock"):
        found = StatusReader(plan).all()
    states = ["done", "stale", "failed", "running", "missing", "missing", "missing", "missing"]
    assert [at.state for at in found] == states
    assert found[2].failure == "ValueError: no"
    assert found[4].folder.path == plan.root / runs[4].spec.name


def test_a_record_is_read_once_until_it_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_of(tmp_path)
    folder = finished(plan, 0)
    reads: list[Path] = []
    read = necklace.run.folder.read_record
    monkeypatch.setattr(necklace.run.folder, "read_record", lambda path: reads.append(path) or read(path))
    status = StatusReader(plan)
    for _ in range(3):
        assert status.all()[0].state == status.of(plan.runs[0]).state == "done"
    assert len(reads) == 1
    again = finished(plan_of(tmp_path / "other"), 0, code={})
    (again / "record.json").replace(folder / "record.json")
    assert status.of(plan.runs[0]).state == "stale"
    assert len(reads) == 2


def test_a_record_that_cannot_be_used_is_named_and_the_others_are_read(tmp_path: Path) -> None:
    plan = plan_of(tmp_path)
    finished(plan, 0, hash="0123456789")
    for index, content in ((1, b""), (2, b"\x00" * 900), (3, None), (4, b'{"schema": 99}')):
        path = finished(plan, index) / "record.json"
        path.write_bytes(path.read_bytes()[:-200] if content is None else content)
    finished(plan, 5)
    status = StatusReader(plan)
    found = status.all()
    assert [at.state for at in found] == [*["damaged"] * 5, "done", "missing", "missing"]
    words = (
        "its config, identity and hash do not belong together",
        "not JSON",
        "not JSON",
        "not JSON",
        "schema: 99: not a record of a schema",
    )
    for at, each in zip(found, words, strict=False):
        assert at.record is None
        assert at.failure is not None
        assert at.failure.startswith(f"{at.folder.record_path}: {each}")
    finished(plan_of(tmp_path / "other"), 0)
    again = tmp_path / "other" / "outputs"
    next(again.rglob("record.json")).replace(found[0].folder.record_path)
    assert status.of(plan.runs[0]).state == "done"
