"""What each process of a run says about itself, in files that outlive it; and from these, why such a run has failed.

Where several processes train one run, most of them only learn that a connection broke. The one that knows why writes it into
the run's folder before it lets go of the others.
"""

import json
import os
import re
import signal
import socket
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from necklace.atomic import write_whole
from necklace.guard.private import scrubbed

State = Literal["training", "raised", "broken", "stopped", "silent"]
"""A rank trains; has raised an error; has lost the others, or waited too long for them; was stopped by a signal; or its main
thread did not react while another rank was in trouble."""

# Errors of torch.distributed that say that another rank is in trouble, not what the trouble is.
_LOST = re.compile(
    r"gloo|nccl|c10d|ProcessGroup|TCPStore|Dist(Network|Backend|Store)Error|RanksLost"
    r"|closed by peer|pair closure|Timed out waiting",
    re.IGNORECASE,
)
_LATE = re.compile(r"timed out|timeout", re.IGNORECASE)
# Where a thread stands that waits for other ranks.
_WAITING = re.compile(r"[/\\]torch[/\\](distributed|autograd)[/\\]")


@dataclass(frozen=True)
class Report:
    """What one rank says.

    Attributes:
        rank: The rank.
        host: Its machine, with the space that its process number belongs to.
        pid: Its process.
        started: When the process was started, in the system's own count, to tell it from a later one of the same number.
        state: How it fares.
        at: Seconds since 1970, of its last change.
        words: What it raised, in words to a person.
        trace: The traceback, or where the main thread stands.
    """

    rank: int
    host: str
    pid: int
    started: str
    state: State
    at: float
    words: str = ""
    trace: str = ""

    @property
    def is_late(self) -> bool:
        """Whether it has waited for others for too long."""
        return self.state == "broken" and bool(_LATE.search(self.words))

    @property
    def waits(self) -> bool:
        """Whether its main thread stands in a call that waits for other ranks."""
        frames = [line for line in self.trace.splitlines() if line.startswith('  File "')]
        return bool(frames and _WAITING.search(frames[-1]))

    def is_gone(self) -> bool:
        """Whether its process has ended; False where that cannot be known from here."""
        if self.host != here() or not Path("/proc/self/stat").exists():
            return False
        found = _process(self.pid)
        return found is None or found[0] in "ZX" or found[1] != self.started


@dataclass(frozen=True)
class Cause:
    """Why a run has failed.

    Attributes:
        kind: `raised`: a rank has raised an error. `stopped`: by a signal, which is no failure. `lost`: a rank was killed, or
            did not answer.
        words: To a person.
        text: For FAILED.
    """

    kind: Literal["raised", "stopped", "lost"]
    words: str
    text: str


class RankReports:
    """The reports in a run's folder.

    Args:
        folder: Where they lie, one file for each rank.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def enter(self, rank: int) -> Report:
        """Say that this process trains as a rank.

        Raises:
            OSError: The run's folder cannot be written.
        """
        self.folder.mkdir(exist_ok=True)
        mine = Report(rank, here(), os.getpid(), (_process(os.getpid()) or ("", ""))[1], "training", time.time())
        write_whole(self.folder / f"{rank}.json", json.dumps(asdict(mine)))
        return mine

    def write(self, report: Report) -> None:
        """Replace a rank's report; nothing happens where the folder is gone, or the disk is full."""
        with suppress(OSError):
            write_whole(self.folder / f"{report.rank}.json", json.dumps(scrubbed(asdict(report))))

    def read(self) -> dict[int, Report]:
        """All reports, by rank; files that cannot be read are left out."""
        found = {}
        for path in self.folder.glob("[0-9]*.json"):
            with suppress(OSError, ValueError, TypeError):
                report = Report(**json.loads(path.read_text(encoding="utf-8")))
                found[report.rank] = report
        return dict(sorted(found.items()))


def state_of(error: BaseException) -> State:
    """How a rank fares that has met an error."""
    if not isinstance(error, Exception):
        return "stopped"
    return "broken" if isinstance(error, RuntimeError) and _LOST.search(f"{type(error).__name__}: {error}") else "raised"


def cause_of(reports: Mapping[int, Report], size: int, timeout_s: float, codes: Mapping[int, int]) -> Cause:
    """Why a run of several processes has failed: the first error that is not about a lost connection, else what was lost.

    Args:
        reports: By rank.
        size: Number of ranks.
        timeout_s: For how long a rank waits for the others, in seconds.
        codes: Exit codes, by rank, of processes that have ended, where they are known; below 0 for a signal.
    """
    raised = sorted((each for each in reports.values() if each.state == "raised"), key=lambda each: each.at)
    if raised:
        first, which = raised[0], f"rank {raised[0].rank} of {size}"
        return Cause("raised", f"{which}: {first.words}", f"{first.trace.rstrip()}\n({which})\n")
    if any(each.state == "stopped" for each in reports.values()):
        return Cause("stopped", "stopped", "")
    quiet = [each for each in reports.values() if each.state == "training"]
    killed = {each.rank for each in quiet if each.is_gone()} | {rank for rank in codes if rank not in reports}
    killed |= {each.rank for each in quiet if each.rank in codes}
    if killed:
        words = "; ".join(f"rank {rank} of {size} {_ended(codes.get(rank))}" for rank in sorted(killed))
        return Cause("lost", words, f"{words}\n")
    silent = [each for each in reports.values() if each.state in ("training", "silent")]
    if any(each.is_late for each in reports.values()):
        absent = [rank for rank in range(size) if rank not in reports]
        hanging = [each for each in silent if not each.waits]
        return _late(hanging if hanging or absent else silent, absent, size, timeout_s)
    if quiet:  # on another machine
        words = "; ".join(f"rank {each.rank} of {size} {_ended(None)}" for each in quiet)
        return Cause("lost", words, f"{words}\n")
    broken = sorted((each for each in reports.values() if each.state == "broken"), key=lambda each: each.at)
    if not broken:
        return Cause("lost", "the ranks lost each other", "the ranks lost each other\n")
    which = f"rank {broken[0].rank} of {size}"
    return Cause("lost", f"{which}: {broken[0].words}", f"{broken[0].trace.rstrip()}\n({which})\n")


def _late(silent: Sequence[Report], absent: Sequence[int], size: int, timeout_s: float) -> Cause:
    """The cause where ranks did not answer in time."""
    ranks = sorted([*absent, *(each.rank for each in silent)])
    if not ranks:
        which = "no rank knows for which other"
    else:
        which = f"rank{'s' * (len(ranks) > 1)} {', '.join(map(str, ranks))} of {size}"
    words = f"{which} did not answer for {timeout_s:g} s (trainer.timeout_s)"
    stacks = [f"Where rank {each.rank} stood:\n{each.trace.rstrip()}\n" for each in silent if each.trace]
    return Cause("lost", words, "".join([*stacks, f"{words}\n"]))


def _ended(code: int | None) -> str:
    """How a process ended that said nothing."""
    if code is None:
        return "is gone without a word: killed (signal 9, as the system does when memory runs out), or crashed"
    if code == -signal.SIGKILL:
        return "was killed (signal 9), which is what the system does to a process when memory runs out"
    if code < 0:
        return f"was killed (signal {-code}, {signal.Signals(-code).name})"
    return f"ended with exit code {code} before it could say why; what it printed may tell"


def here() -> str:
    """This machine, and the space that numbers of processes belong to: that of a container is its own."""
    with suppress(OSError):
        return f"{socket.gethostname()} {os.readlink('/proc/self/ns/pid')}"
    return socket.gethostname()


def _process(pid: int) -> tuple[str, str] | None:
    """The state of a process and when it was started, as /proc has them; None if there is none."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    return fields[0], fields[19]
