"""Runs of two real processes, by gloo: what they decide together, and what is left where one of them fails."""

import signal
import socket
import time
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from necklace.record import read_record
from necklace.run.folder import RunFolder
from tests.conftest import SMALL
from tests.test_cli_train import environment
from tests.warm import WarmProcess

pytestmark = pytest.mark.slow

# `necklace train` where a rank meets its trouble, once, when it is in its second epoch: what is in the file trouble-RANK.
SCRIPT = """
import os, signal, sys, time
from pathlib import Path

import torch.distributed as dist
from necklace.cli import train
from necklace.run.history import History

def stumble(self, trainer, pl_module, batch, batch_idx):
    marker = Path(f"trouble-{dist.get_rank()}")
    if trainer.current_epoch == 1 and batch_idx == 2 and marker.exists():
        how = marker.read_text()
        marker.unlink()
        if how == "raise":
            raise OSError("unplugged")
        if how == "hang":
            time.sleep(1000)
        os.kill(os.getpid(), getattr(signal, how))
        time.sleep(1000)

History.on_train_batch_start = stumble
train.start()
"""
# For those that hang; a machine that is busy with other tests may take its time for a step.
TIMEOUT = ["trainer.timeout_s=3"]


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "script.py"
    path.write_text(SCRIPT)
    return path


def together(script: Path, *arguments: str, late: float = 0.0) -> list[CompletedProcess[str]]:
    """The command as torchrun or another launcher starts it, once for each of two ranks; gives what each prints, and its code.

    Args:
        script: The script; it runs in its folder.
        arguments: Of the command.
        late: Seconds by which the second rank starts later.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    group = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    started = []
    for rank in ("0", "1"):
        env = environment(script.parent) | group | {"RANK": rank, "LOCAL_RANK": rank}
        started.append(WarmProcess(script, *SMALL, "trainer=ddp", *arguments, cwd=script.parent, env=env))
        time.sleep(late)
    return [each.finish(60) for each in started]


def folder_of(script: Path) -> RunFolder:
    (path,) = script.parent.glob("outputs/runs/[!.]*")
    return RunFolder(path)


def test_all_ranks_find_the_finished_run(script: Path) -> None:
    first, second = together(script, "epochs=1")
    assert (first.returncode, second.returncode) == (0, 0), first.stderr + second.stderr
    assert "best epoch" in first.stdout
    assert second.stdout == second.stderr == first.stderr == ""
    folder = folder_of(script)
    record = folder.record()
    assert record is not None
    assert record.world_size == 2
    assert not folder.ranks.exists()
    first, second = together(script, "epochs=1", late=1.0)
    assert (first.returncode, second.returncode) == (0, 0), first.stderr + second.stderr
    assert "This run exists" in first.stdout
    assert second.stdout == second.stderr == ""


@pytest.mark.parametrize(
    ("rank", "how", "cause"),
    [
        (0, "raise", "OSError: unplugged (rank 0 of 2)"),
        (1, "raise", "OSError: unplugged (rank 1 of 2)"),
        (0, "SIGKILL", "rank 0 of 2 is gone without a word: killed (signal 9"),
        (0, "hang", "rank 0 of 2 did not answer for 3 s (trainer.timeout_s)"),
        (1, "hang", "rank 1 of 2 did not answer for 3 s (trainer.timeout_s)"),
    ],
)
def test_a_failed_rank_is_named_with_its_cause_and_the_next_run_is_clean(script: Path, rank: int, how: str, cause: str) -> None:
    (script.parent / f"trouble-{rank}").write_text(how)
    began = time.monotonic()
    results = together(script, *(TIMEOUT if how == "hang" else ()))
    assert time.monotonic() - began < 60
    folder = folder_of(script)
    assert (folder.failure() or "").startswith(cause)
    assert {each.returncode for each in results} <= ({1} if how == "raise" else {1, -signal.SIGKILL})
    assert sum(each.stderr.count("error: ") for each in results) == 1
    if how == "hang":
        assert "in stumble" in folder.failed_path.read_text()
    results = together(script)
    assert [each.returncode for each in results] == [0, 0], results
    record = read_record(folder.record_path)
    assert (record.resumed, record.epochs) == (1, 2)
    assert not folder.failed_path.exists()


def test_a_killed_rank_that_lightning_has_started_is_named_with_its_signal(script: Path) -> None:
    (script.parent / "trouble-1").write_text("SIGKILL")
    result = WarmProcess(script, *SMALL, "trainer=ddp", cwd=script.parent, env=environment(script.parent)).finish(60)
    assert result.returncode == 1
    folder = folder_of(script)
    assert (folder.failure() or "").startswith("rank 1 of 2 was killed (signal 9)")
    assert result.stderr.count("error: rank 1 of 2 was killed (signal 9)") == 1
    assert [each.returncode for each in together(script)] == [0, 0]
    assert read_record(folder.record_path).resumed == 1


def test_a_rank_that_is_stopped_is_no_failure(script: Path) -> None:
    (script.parent / "trouble-1").write_text("SIGINT")
    first, second = together(script)
    assert (first.returncode, second.returncode) == (130, 130)
    folder = folder_of(script)
    assert not folder.failed_path.exists()
    assert [each.returncode for each in together(script)] == [0, 0]
    assert read_record(folder.record_path).resumed == 1


@pytest.mark.parametrize(
    ("wrong", "words"), [("batch_size=0", "batch_size=0: must be"), ("data.source.train=3", "data.source.train=3")]
)
def test_what_cannot_begin_is_said_once(script: Path, wrong: str, words: str) -> None:
    first, second = together(script, wrong)
    assert (first.returncode, second.returncode) == (1, 1)
    assert words in first.stderr
    assert second.stdout == second.stderr == ""
    assert not list(script.parent.glob("outputs/runs/[!.]*"))
