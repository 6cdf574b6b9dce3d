"""Ctrl-C and SIGTERM at different moments of real commands."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from necklace.cli.stopping import ENDED, STOPPED, at_once, stoppable
from tests.conftest import SMALL
from tests.warm import WarmProcess

ROOT = Path(__file__).parents[1]


def environment(cwd: Path) -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1", "HOME": str(cwd)}


def stopped(
    command: list[str], cwd: Path, moment: Callable[[], bool], number: signal.Signals = signal.SIGINT
) -> tuple[int, str, str]:
    """The exit code and output of a command that gets a signal when `moment` says so; Ctrl-C with all that it has started."""
    pipe = subprocess.PIPE
    streams: Any = {"stdout": pipe, "stderr": pipe, "text": True}
    hears = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)  # noqa: E731
    # In the background of a shell, where these tests may run, Ctrl-C is ignored, which a process inherits.
    process = subprocess.Popen(command, cwd=cwd, env=environment(cwd), start_new_session=True, preexec_fn=hears, **streams)
    send(number, process.pid, moment, lambda: process.poll() is None)
    output, errors = process.communicate(timeout=60)
    return process.returncode, output, errors


def stopped_training(*arguments: str, cwd: Path, number: signal.Signals) -> tuple[int, str]:
    """The exit code of `train.py`, and what it says, where it gets a signal once it has saved a checkpoint."""
    process = WarmProcess(ROOT / "train.py", *arguments, cwd=cwd, env=environment(cwd))
    send(number, process.pid, lambda: bool(list(cwd.glob("outputs/runs/*/checkpoints/last.ckpt"))), process.is_alive)
    ended = process.finish(60)
    return ended.returncode, ended.stderr


def send(number: signal.Signals, pid: int, moment: Callable[[], bool], lives: Callable[[], bool]) -> None:
    """Send a signal when `moment` says so."""
    deadline = time.monotonic() + 120
    while not moment():
        assert lives()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    if number == signal.SIGINT:
        os.killpg(pid, number)
    else:
        os.kill(pid, number)


def after(seconds: float) -> Callable[[], bool]:
    began = time.monotonic()
    return lambda: time.monotonic() - began > seconds


@pytest.mark.slow
@pytest.mark.parametrize(("seconds", "number"), [(0.9, signal.SIGINT), (2.0, signal.SIGTERM)])
def test_an_import_that_is_interrupted_is_no_traceback(tmp_path: Path, seconds: float, number: signal.Signals) -> None:
    command = [sys.executable, str(ROOT / "train.py"), *SMALL, "epochs=500"]
    code, _, errors = stopped(command, tmp_path, after(seconds), number)
    assert (code, errors) == (128 + number, f"{STOPPED}\n")


@pytest.mark.slow
@pytest.mark.parametrize(("number", "expected"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_training_that_is_interrupted_goes_on_from_there(tmp_path: Path, number: signal.Signals, expected: int) -> None:
    ended = stopped_training("-m", "seed=0,1", *SMALL, "epochs=300", cwd=tmp_path, number=number)
    assert ended == (expected, f"{STOPPED}\n")
    (folder,) = tmp_path.glob("outputs/runs/*_s0_*")
    assert (folder / "checkpoints" / "last.ckpt").exists()
    assert not (folder / "FAILED").exists()
    assert not (folder / "record.json").exists()


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["import", "training"])
def test_a_job_of_slurm_that_is_warned_is_queued_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str) -> None:
    asked = tmp_path / "asked"
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "scontrol").write_text(f'#!/bin/sh\necho "$@" >>{asked}\n')
    (programs / "scontrol").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    for name, value in {"SLURM_JOB_ID": "9", "SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "3"}.items():
        monkeypatch.setenv(name, value)
    command = [sys.executable, str(ROOT / "train.py"), *SMALL, "epochs=300"]
    if moment == "import":
        ended = stopped(command, tmp_path, after(0.9), signal.SIGUSR1)[::2]
    else:
        ended = stopped_training(*SMALL, "epochs=300", cwd=tmp_path, number=signal.SIGUSR1)
    assert ended == (138, f"{STOPPED}; job 7_3 is queued again\n")
    assert asked.read_text() == "requeue 7_3\n"
    assert not list(tmp_path.rglob("FAILED"))
    # Only this signal: by SIGTERM a person cancels as well.
    if moment == "import":
        assert stopped(command, tmp_path, after(0.9), signal.SIGTERM)[::2] == (143, f"{STOPPED}\n")
        assert asked.read_text() == "requeue 7_3\n"


@pytest.mark.slow
@pytest.mark.parametrize(("line", "seconds"), [("inspect outputs/runs/x", 3.0), ("dashboard x", 0.5), ("bench gates", 2.0)])
def test_other_commands_end_in_a_line(tmp_path: Path, line: str, seconds: float) -> None:
    # What they are about to read never comes.
    for name in ("outputs/runs/x/record.json", "experiments/x/study.yaml"):
        (tmp_path / name).parent.mkdir(parents=True)
        os.mkfifo(tmp_path / name)
    command = [sys.executable, "-m", "necklace.cli.main", *line.split()]
    code, _, errors = stopped(command, tmp_path, after(seconds))
    assert (code, errors) == (130, f"{ENDED}\n")


@pytest.fixture
def hearing() -> Iterator[Any]:
    """Python's own answer to Ctrl-C, which the background of a shell takes away."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield signal.default_int_handler
    signal.signal(signal.SIGINT, before)


def test_within_a_command_ctrl_c_is_answered_once_and_the_handler_comes_back(
    hearing: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    before = hearing
    with pytest.raises(SystemExit) as end, stoppable():
        raise KeyboardInterrupt
    assert end.value.code == 130
    assert capfd.readouterr().err == f"{STOPPED}\n"
    with at_once():
        assert signal.getsignal(signal.SIGINT) is not before
    assert signal.getsignal(signal.SIGINT) is before
    with pytest.raises(SystemExit) as end, stoppable(ENDED):
        os.kill(os.getpid(), signal.SIGTERM)
    assert end.value.code == 143
    assert capfd.readouterr().err == f"{ENDED}\n"
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    with pytest.raises(ValueError, match="as it is"), stoppable():
        raise ValueError("as it is")


ENDING = """
import atexit, os, sys
from necklace.cli.stopping import ending_quickly, stop_at_once, stoppable
stop_at_once()
atexit.register(print, "closed")
with stoppable(), ending_quickly():
    print("said")
    %s
"""


@pytest.mark.parametrize(
    ("end", "code", "errors"),
    [
        ("pass", 0, ""),
        ("sys.exit()", 0, ""),
        ("sys.exit(3)", 3, ""),
        ("sys.exit('error: no')", 1, "error: no"),
        ("raise ValueError('no')", 1, "ValueError: no"),
        ("sys.stdout.close()", 0, ""),
        ("import signal; os.kill(os.getpid(), signal.SIGINT)", 130, "stopped; the same command goes on from here"),
        (
            "import signal\n    try: os.kill(os.getpid(), signal.SIGTERM)\n    except KeyboardInterrupt: pass",
            143,
            "stopped; the same command goes on from here",
        ),
    ],
)
def test_the_end_of_a_command_is_whole_and_has_its_code(end: str, code: int, errors: str) -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    command = [sys.executable, "-c", ENDING % end]
    hears = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)  # noqa: E731
    ended = subprocess.run(command, capture_output=True, text=True, env=environment, preexec_fn=hears, timeout=60)
    assert ended.returncode == code
    assert ended.stderr.strip().endswith(errors)
    if "close" not in end:
        assert ended.stdout == "said\nclosed\n"
