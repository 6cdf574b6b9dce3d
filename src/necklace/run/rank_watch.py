"""A thread in each process of a run that several train: it sees when another one is in trouble, and ends this one if need be.

A process that waits for others learns of their end only where the connection says so. One that hangs learns nothing. This
thread does, says where its process stands, and sees to it that FAILED is written and nothing is left behind.
"""

import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import replace

from necklace.run.rank_reports import RankReports, Report, State

POLL_S = 0.25
# How long the main thread has to react by itself, so that it can end in good order: where another rank has lost the connection,
# and where one has waited for too long, so that this one hangs.
GRACE_S = 20.0
LATE_S = 2.0
TROUBLE: tuple[State, ...] = ("raised", "broken", "stopped")


class RankWatch(threading.Thread):
    """Watches the other ranks of a run, by their reports.

    Args:
        mine: This rank's report.
        reports: All reports.
        codes: Gives the exit codes of other ranks' processes, by rank, where they are known.
        end: Ends this process, which does not react; called from this thread, and again while it returns.

    Attributes:
        is_trouble: Whether another rank is in trouble.
    """

    def __init__(
        self, mine: Report, reports: RankReports, codes: Callable[[], Mapping[int, int]], end: Callable[[], None]
    ) -> None:
        super().__init__(daemon=True, name="ranks")
        self._mine, self._reports, self._codes, self._end = mine, reports, codes, end
        self._stopped, self._lock = threading.Event(), threading.Lock()
        self._since: float | None = None
        self._grace = GRACE_S

    @property
    def is_trouble(self) -> bool:
        """Whether another rank is in trouble."""
        return self._since is not None

    def run(self) -> None:
        """Look at the others until this rank is done, or in trouble itself."""
        while not self._stopped.wait(POLL_S):
            self._look()
            if self._since is not None and time.monotonic() - self._since > self._grace and not self._stopped.is_set():
                self._end()

    def say(self, state: State, words: str, trace: str) -> None:
        """Report how this rank fares, for good, and watch no longer."""
        with self._lock:
            self._stopped.set()
            self._reports.write(replace(self._mine, state=state, at=time.time(), words=words, trace=trace))

    def stop(self) -> None:
        """Watch no longer."""
        self._stopped.set()

    def _look(self) -> None:
        others = [each for each in self._reports.read().values() if each.rank != self._mine.rank]
        troubled = [each for each in others if each.state in TROUBLE or (each.state == "training" and each.is_gone())]
        if not troubled and not any(self._codes().values()):
            return
        if any(each.is_late for each in troubled):
            self._grace = LATE_S
        if self._since is None:
            self._since = time.monotonic()
            frame = sys._current_frames().get(threading.main_thread().ident or 0)
            stack = "".join(traceback.format_stack(frame)) if frame else ""
            with self._lock:
                if not self._stopped.is_set():
                    self._reports.write(replace(self._mine, state="silent", at=time.time(), trace=stack))
