import traceback
from dataclasses import replace
from pathlib import Path

import pytest
from filelock import FileLock

from necklace.run.folder import RunBusy, RunFolder, check_writable
from tests.conftest import SMALL, spec_of


def test_a_failure_is_read_from_the_last_frame_on(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    assert folder.failure() is None

    def fail(error: Exception) -> str | None:
        try:
            try:
                raise KeyError("first")
            except KeyError as first:
                raise error from first
        except Exception:
            folder.mark_failed(traceback.format_exc())
        return folder.failure()

    assert fail(ZeroDivisionError("my neck\nis broken")) == "ZeroDivisionError: my neck is broken"
    noted = FloatingPointError("the loss is nan")
    noted.add_note("gates: neck, global")
    assert fail(noted) == "FloatingPointError: the loss is nan gates: neck, global"
    folder.mark_failed("RuntimeError: the process died\n")  # by the launcher, without a traceback
    assert folder.failure() == "RuntimeError: the process died"
    folder.mark_failed("")
    assert folder.failure() == "FAILED is empty"


def test_a_run_is_held_by_one_process(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "runs" / "none_s0_0123456789")
    folder.path.mkdir(parents=True)
    assert not folder.is_held()
    with folder.held(None):
        assert folder.lock_path.name == "0123456789.lock"
        assert folder.is_held()
    assert not folder.is_held()  # the file stays, held by nobody
    with FileLock(folder.lock_path), pytest.raises(RunBusy, match="another process is training it"), folder.held(None):
        pass


def test_a_folder_is_found_by_the_hash_whatever_its_label(tmp_path: Path) -> None:
    spec = spec_of([*SMALL, f"outputs={tmp_path}"])
    assert RunFolder.of(spec).path == tmp_path / "runs" / spec.name
    other = tmp_path / "runs" / f"called_otherwise_{spec.hash}"
    other.mkdir(parents=True)
    assert RunFolder.of(spec).path == other


def test_a_checkpoint_of_other_code_is_not_continued(tmp_path: Path) -> None:
    spec = spec_of([*SMALL, f"outputs={tmp_path}"])
    folder = RunFolder.of(spec)
    folder.path.parent.mkdir(parents=True)
    notes: list[str] = []
    folder.prepare(spec, notes.append)
    folder.checkpoints.mkdir()
    folder.last.write_text("a checkpoint")
    (folder.checkpoints / ".last.ckpt.123").write_text("half of one")
    folder.mark_failed("ValueError: no")
    folder.prepare(spec, notes.append)
    assert folder.last.exists()
    assert sorted(path.name for path in folder.checkpoints.iterdir()) == ["last.ckpt"]
    assert not folder.failed_path.exists()
    assert not notes
    folder.prepare(replace(spec, code={"necklace.run.fit": "0"}), notes.append)
    assert not folder.last.exists()
    assert notes == [f"{folder.path}: its checkpoint was written by other code; starting from the first epoch"]


def test_outputs_that_cannot_be_written_are_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match=r"outputs=.*file: cannot write to .*file/runs"):
        check_writable(tmp_path / "file" / "runs")
