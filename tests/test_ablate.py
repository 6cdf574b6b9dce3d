"""Whole studies through the command: what is killed, raced or broken ends as if it had not been."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
USER = Path(__file__).parent / "user"
# Moments that tests/user/deadly.py can end everything at.
PHASES = ("step", "history", "in checkpoint", "after best", "after last", "before record", "in record", "after record")
pytestmark = pytest.mark.slow

STUDY = {
    "question": "Does it end well?",
    "baseline": "deadly, width=8",
    "seeds": [0, 1],
    "overrides": {
        "data.source.train": 100,
        "data.source.test": 20,
        "data.size": 24,
        "backbone.width": 4,
        "epochs": 2,
        "batch_size": 32,
        "logger": "none",
    },
    "cells": [{"neck": "deadly", "neck.width": [8, 12, 16]}],
}


def ablate(folder: Path, *arguments: str) -> subprocess.Popen:
    # One thread whatever the slots: in how many parts a sum is taken changes its rounding, and with it the weights.
    command = [
        sys.executable,
        str(ROOT / "ablate.py"),
        "tiny",
        "hydra.launcher.threads=1",
        *arguments,
        "--config-dir",
        str(USER),
    ]
    environment = os.environ | {"PYTHONPATH": str(USER), "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "start_new_session": True}
    # Under a shell's `&`, Ctrl-C would be ignored by all that follows.
    hears = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)  # noqa: E731
    return subprocess.Popen(command, cwd=folder, env=environment, preexec_fn=hears, **pipes)


def finish(process: subprocess.Popen) -> str:
    try:
        output, _ = process.communicate(timeout=240)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    return output


def new_study(folder: Path, **changes) -> Path:
    (folder / "experiments" / "tiny").mkdir(parents=True)
    (folder / "experiments" / "tiny" / "study.yaml").write_text(yaml.safe_dump(STUDY | changes))
    return folder


def outcome(folder: Path) -> dict[str, tuple]:
    """What each cell came to, in all that must not depend on when it was interrupted."""
    records = [json.loads(path.read_text()) for path in (folder / "outputs" / "tiny").glob("*/record.json")]
    curves = {path.parent.name: path.read_text() for path in (folder / "outputs" / "tiny").glob("*/history.csv")}
    return {
        record["cell"]: (
            record["weights_hash"],
            record["figures"],
            record["test_correct"],
            record["steps"],
            [line.rpartition(",")[0] for line in curves[record["cell"]].splitlines()],  # the last column is the seconds
        )
        for record in records
    }


def fits(folder: Path) -> list[str]:
    path = folder / "fits"
    return path.read_text().splitlines() if path.exists() else []


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = new_study(tmp_path_factory.mktemp("undisturbed"))
    process = ablate(folder)
    output = finish(process)
    assert process.returncode == 0, output
    assert len(fits(folder)) == len(outcome(folder)) == 6
    return folder


def test_a_study_killed_at_ten_moments_ends_as_if_it_had_not_been(undisturbed: Path, tmp_path: Path) -> None:
    folder = new_study(tmp_path)
    draw = random.Random(0)
    # Few cells may be done before the last moment: what comes about once in a cell is waited for once.
    often = ("step", "history", "in checkpoint", "after last")
    moments = [(phase, draw.randint(1, 2) if phase in often else 1) for phase in PHASES]
    moments += [("step", draw.randint(3, 4)), ("in checkpoint", draw.randint(3, 4))]
    draw.shuffle(moments)
    for phase, number in moments:
        (folder / "kill").write_text(f"{phase} {number}")
        (folder / "reached").unlink(missing_ok=True)
        process = ablate(folder, "hydra.launcher.slots=1")
        (folder / "pid").write_text(str(process.pid))
        output = finish(process)
        assert process.returncode == -signal.SIGKILL, f"{phase} {number}\n{output}"
    (folder / "kill").unlink()
    process = ablate(folder, "hydra.launcher.slots=1")
    output = finish(process)
    assert process.returncode == 0, output
    assert outcome(folder) == outcome(undisturbed)
    assert not list(folder.glob("outputs/tiny/*/FAILED"))
    verified = ablate(folder, "--verify")
    assert "are what the 6 records give" in finish(verified)
    assert verified.returncode == 0


def test_two_lost_records_are_two_runs(undisturbed: Path) -> None:
    before, cells = outcome(undisturbed), sorted(undisturbed.glob("outputs/tiny/*/record.json"))
    lines = len(fits(undisturbed))
    cells[1].unlink()
    cells[4].unlink()
    output = finish(ablate(undisturbed))
    assert "2 to run" in output
    assert sorted(fits(undisturbed)[lines:]) == sorted(
        str(path.parent.relative_to(undisturbed)) for path in (cells[1], cells[4])
    )
    assert outcome(undisturbed) == before
    assert "6 done" in finish(ablate(undisturbed, "--plan"))


def test_two_at_once_share_the_work(undisturbed: Path, tmp_path: Path) -> None:
    folder = new_study(tmp_path)
    both = [ablate(folder) for _ in range(2)]
    outputs = [finish(process) for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    assert len(fits(folder)) == 6
    assert outcome(folder) == outcome(undisturbed)


def test_a_cell_that_raises_is_one_row_of_the_table(tmp_path: Path) -> None:
    cells = [{"neck": "deadly", "neck.width": [8, 12]}, {"neck": "deadly", "neck.width": 16, "neck.raises": True}]
    folder = new_study(tmp_path, cells=cells, seeds=[0])
    process = ablate(folder)
    output = finish(process)
    assert process.returncode == 1
    assert len(outcome(folder)) == 2
    (failed,) = folder.glob("outputs/tiny/*/FAILED")
    assert "Traceback" in failed.read_text()
    assert "this neck raises" in failed.read_text()
    assert "this neck raises" in output
    table = (folder / "experiments" / "tiny" / "table.md").read_text()
    row = next(line for line in table.splitlines() if "raises=True" in line)
    assert "| 0/1 | failed |" in row
    # It is not run again unless asked to.
    lines = len(fits(folder))
    assert "1 failed" in finish(ablate(folder))
    assert len(fits(folder)) == lines
    finish(ablate(folder, "--retry-failed"))
    assert len(fits(folder)) == lines + 1


def test_a_cell_that_dies_alone_is_marked_and_goes_on_when_asked_to(undisturbed: Path, tmp_path: Path) -> None:
    folder = new_study(tmp_path)
    (folder / "kill").write_text("after last 2")
    process = ablate(folder, "hydra.launcher.slots=1")
    output = finish(process)
    assert process.returncode == 1
    (failed,) = folder.glob("outputs/tiny/*/FAILED")
    assert "SIGKILL" in failed.read_text()
    assert "SIGKILL" in output
    assert len(outcome(folder)) == 5
    (folder / "kill").unlink()
    process = ablate(folder, "--retry-failed")
    assert finish(process)
    assert process.returncode == 0
    assert outcome(folder) == outcome(undisturbed)
    record = json.loads((failed.parent / "record.json").read_text())
    assert record["resumed"] == 1


def test_ctrl_c_stops_cleanly_and_the_rest_goes_on_later(undisturbed: Path, tmp_path: Path) -> None:
    folder = new_study(tmp_path)
    process = ablate(folder, "hydra.launcher.slots=1")
    deadline = time.time() + 120
    while len(fits(folder)) < 2 and time.time() < deadline:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    output = finish(process)
    assert process.returncode == 1
    assert "stopped; the same command goes on from here" in output
    assert "Traceback" not in output
    assert not list(folder.glob("outputs/tiny/*/FAILED"))
    assert len(list(folder.glob("outputs/tiny/*/record.json"))) < 6
    assert finish(ablate(folder)) != ""
    assert outcome(folder) == outcome(undisturbed)
