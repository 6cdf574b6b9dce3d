"""The overview while runs train, fail and are refused; the files' times are those of a machine whose clock is an hour off."""

import io
import os
import re
import time
from pathlib import Path

import pytest
from rich.console import Console

from necklace.run.folder import RunFolder
from necklace.study.progress import overview
from necklace.study.status import StatusReader
from tests.test_study_plan import plan_of
from tests.test_study_status import finished

pytestmark = pytest.mark.usefixtures("hydra_ready")


def wait_for(text: io.StringIO, words: str, seconds: float = 5.0) -> bool:
    deadline = time.monotonic() + seconds
    while words not in plain(text) and time.monotonic() < deadline:
        time.sleep(0.02)
    return words in plain(text)


def plain(text: io.StringIO) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text.getvalue())


def off(path: Path, hours: float) -> None:
    moment = time.time() + 3600 * hours
    os.utime(path, (moment, moment))


@pytest.mark.parametrize("terminal", [True, False])
@pytest.mark.parametrize("hours", [-1.0, 1.0])
def test_each_run_that_ends_is_told_at_once(tmp_path: Path, terminal: bool, hours: float) -> None:
    plan = plan_of(tmp_path)
    # One failed an hour ago, by whichever clock, and is tried again: that FAILED says nothing.
    before = RunFolder(plan.root / plan.runs[3].spec.name)
    before.mark_failed("ValueError: as before")
    off(before.failed_path, hours)
    status, text = StatusReader(plan), io.StringIO()
    console = Console(file=text, force_terminal=terminal, width=80, soft_wrap=not terminal)
    with overview(status, status.all(), plan.runs, console) as watch:
        running = RunFolder(plan.root / plan.runs[2].spec.name)
        running.path.mkdir()
        running.code_path.write_text("{}")
        running.history_path.write_text("epoch,val/acc\n1,0.25\n")
        off(running.code_path, hours)
        record = finished(plan, 0) / "record.json"
        off(record, hours)
        assert wait_for(text, "[1/8] none, seed 0: test/acc")
        failed = RunFolder(plan.root / plan.runs[1].spec.name)
        failed.mark_failed("Traceback\nValueError: this neck raises\n")
        off(failed.failed_path, hours)
        assert wait_for(text, "[2/8] none, seed 1: FAILED: ValueError: this neck raises")
        watch.refused(plan.runs[4], "data.root=x: is not there")
        watch.refused(plan.runs[4], "once is enough")
        assert wait_for(text, f"[3/8] {plan.runs[4].row}, seed 0: refused: data.root=x: is not there")
        if terminal:
            assert wait_for(text, "tiny: 3 of 8 runs, 2 failed")
            assert wait_for(text, "1/2")  # epochs of the run that trains
            assert wait_for(text, "0.25")
        time.sleep(0.6)
    said = plain(text)
    assert said.count("[1/8]") == said.count("[2/8]") == said.count("[3/8]") == 1
    assert "as before" not in said
    assert "once is enough" not in said


def test_a_curve_that_is_damaged_does_not_end_the_overview(tmp_path: Path) -> None:
    plan = plan_of(tmp_path)
    status, text = StatusReader(plan), io.StringIO()
    with overview(status, status.all(), plan.runs, Console(file=text, force_terminal=True, width=80)):
        running = RunFolder(plan.root / plan.runs[0].spec.name)
        running.path.mkdir(parents=True)
        running.history_path.write_bytes(b"epoch,val/acc\n1,0.\x00")
        running.code_path.write_text("{}")
        assert wait_for(text, "0/2")
