import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from necklace.run.rank_reports import RankReports, Report, cause_of, here, state_of

STACK = '  File "/home/me/neck.py", line 3, in forward\n    time.sleep(1000)\n'
WAITING = '  File "/usr/lib/torch/distributed/distributed_c10d.py", line 5040, in barrier\n    work.wait()\n'
CLOSED = "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:545] Read error [127.0.0.1]:2857: Connection reset by peer"
LATE = "[/pytorch/third_party/gloo/gloo/transport/tcp/unbound_buffer.cc:81] Timed out waiting 600000ms for recv"


def report(rank: int, state: str = "training", at: float = 0.0, words: str = "", trace: str = "") -> Report:
    """Of a rank on another machine, so that nobody looks for its process."""
    return Report(rank, "elsewhere", 1, "1", state, at, words, trace)  # pyright: ignore[reportArgumentType]


def cause(*reports: Report, size: int = 3, codes: dict[int, int] | None = None) -> tuple[str, str, str]:
    found = cause_of({each.rank: each for each in reports}, size, 600.0, codes or {})
    return found.kind, found.words, found.text


def test_the_first_error_of_a_ranks_own_is_the_cause() -> None:
    lost = report(0, "broken", 1.0, CLOSED, f"RuntimeError: {CLOSED}")
    later = report(1, "raised", 3.0, "out of memory", "Traceback\nMemoryError: out of memory\n")
    first = report(2, "raised", 2.0, "unplugged", "Traceback\nOSError: unplugged\n")
    expected = ("raised", "rank 2 of 3: unplugged", "Traceback\nOSError: unplugged\n(rank 2 of 3)\n")
    assert cause(lost, later, first) == expected
    assert cause(lost, later, first, codes={1: -9}) == expected


def test_a_rank_that_was_killed_is_named_with_its_signal_where_that_is_known() -> None:
    lost = report(0, "broken", 1.0, CLOSED)
    assert cause(lost, report(1), report(2, "silent"), codes={1: -9})[1].startswith("rank 1 of 3 was killed (signal 9)")
    assert cause(lost, report(1), report(2, "silent"), codes={1: -11})[1] == "rank 1 of 3 was killed (signal 11, SIGSEGV)"
    assert "rank 2 of 3 ended with exit code 3 before" in cause(lost, report(1, "silent"), codes={2: 3})[1]
    assert cause(lost, report(1), report(2, "silent"))[1].startswith("rank 1 of 3 is gone without a word")


def test_a_rank_that_does_not_answer_is_told_from_those_that_wait_for_it_too() -> None:
    late = report(0, "broken", 1.0, LATE)
    hangs, waits = report(1, "silent", 1.0, trace=STACK), report(2, "silent", 1.0, trace=WAITING)
    kind, words, text = cause(late, hangs, waits)
    assert (kind, words) == ("lost", "rank 1 of 3 did not answer for 600 s (trainer.timeout_s)")
    assert text == f"Where rank 1 stood:\n{STACK}{words}\n"
    assert cause(late, report(1), waits)[1] == words  # it cannot even say where it stands
    assert cause(late, waits)[1] == words  # it has never come
    assert cause(late, replace(waits, rank=1), waits)[1].startswith("ranks 1, 2 of 3 did not answer")


def test_a_stopped_rank_is_no_failure() -> None:
    assert cause(report(0, "broken", 1.0, CLOSED), report(1, "stopped", 1.0), report(2, "silent"))[0] == "stopped"


@pytest.mark.parametrize("words", [CLOSED, LATE, "Application timeout caused pair closure", "NCCL error in: a.cpp:9"])
def test_a_lost_connection_is_told_from_an_error(words: str) -> None:
    assert state_of(RuntimeError(words)) == "broken"
    assert state_of(OSError("Connection reset by peer")) == "raised"
    assert state_of(RuntimeError("shapes do not match")) == "raised"
    assert state_of(KeyboardInterrupt()) == "stopped"


def test_a_process_that_has_ended_is_gone(tmp_path: Path) -> None:
    reports = RankReports(tmp_path / "ranks")
    assert reports.read() == {}
    mine = reports.enter(0)
    assert (mine.pid, mine.host, mine.is_gone()) == (os.getpid(), here(), False)
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        assert replace(mine, pid=other.pid).is_gone()  # another one of that number
        started = Path(f"/proc/{other.pid}/stat").read_text().rpartition(")")[2].split()[19]
        theirs = replace(mine, rank=1, pid=other.pid, started=started)
        assert not theirs.is_gone()
        other.send_signal(signal.SIGKILL)
        os.waitid(os.P_PID, other.pid, os.WEXITED | os.WNOWAIT)
        assert theirs.is_gone()  # before anybody has asked for its exit code
    (tmp_path / "ranks" / "2.json").write_text("{")
    reports.write(theirs)
    assert reports.read() == {0: mine, 1: theirs}
