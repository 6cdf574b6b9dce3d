"""The server that jobs are forked from, and the launcher's side of their processes: start, wait, stop.

A process that starts cold imports for some eight seconds; the server imports once. It is multiprocessing's forkserver: it has
one thread and has not touched a GPU, so that a fork of it is sound.
"""

import os
import pickle
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import connection, forkserver, get_context
from types import ModuleType

from hydra.core.utils import JobReturn

from necklace.launcher.job import Job
from necklace.launcher.preload import FREEZE, PRELOAD
from necklace.launcher.worker import Conditions, run_worker

# Libraries that start their threads when they are imported; pyarrow does so by way of its allocator, jemalloc.
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
ONE_THREAD |= {"JE_ARROW_MALLOC_CONF": "background_thread:false"}
# How long a job's process may take to stop before it is killed.
PATIENCE_S = 5.0
# Modules that callers have asked for: a server that is started again, after one that died, imports them as well.
_asked_for: dict[str, None] = {}


def start_server(preload: Sequence[str] = ()) -> None:
    """Start the server, unless it runs; it ends with this process. It imports while the caller continues.

    Args:
        preload: Modules for the server to import on top of the launcher's own. A server that runs already does without them.
    """
    _asked_for.update(dict.fromkeys(preload))
    forkserver.set_forkserver_preload([*PRELOAD, *_asked_for, FREEZE])
    # Without the last two it would look for modules in the working directory, and not where this process does.
    own = ONE_THREAD | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "PYTHONSAFEPATH": "1"}
    kept = {name: os.environ.get(name) for name in own}
    os.environ.update(own)
    try:
        with _ignoring_ctrl_c(), without_main():
            forkserver.ensure_running()
    finally:
        for name, value in kept.items():
            del os.environ[name]
            if value is not None:
                os.environ[name] = value


class WorkerProcess:
    """A job's process, as the launcher sees it.

    Attributes:
        result: The job's answer, once it has come.

    Raises:
        RuntimeError: The server died.
    """

    def __init__(self, job: Job, conditions: Conditions) -> None:
        self.result: JobReturn | None = None
        start_server()
        context = get_context("forkserver")
        self._answer, sender = context.Pipe(duplex=False)
        self._process = context.Process(target=run_worker, args=(sender, job, conditions))
        try:
            with without_main():
                self._process.start()
        except (EOFError, ConnectionError) as error:
            self._answer.close()
            raise RuntimeError("the server that runs are forked from died; what it printed says why") from error
        finally:
            sender.close()

    @property
    def events(self) -> list[connection.Connection | int]:
        """Objects to wait for: its answer and its end."""
        return [self._process.sentinel, *(() if self._answer.closed else (self._answer,))]

    def collect(self) -> bool:
        """Read the answer if there is one; gives whether the process has ended."""
        ended = self._process.exitcode is not None  # asked first: what has ended has sent all that it will
        if not self._answer.closed and self._answer.poll():
            with suppress(EOFError):
                self.result = pickle.loads(self._answer.recv_bytes())
            self._answer.close()
        return ended

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the process and all that it started."""
        pid = self._process.pid
        assert pid is not None
        with suppress(ProcessLookupError):
            os.killpg(pid, number)
            return
        if self._process.exitcode is None:  # it has not made its group yet
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    def join(self, timeout: float | None) -> None:
        """Wait for the process to end."""
        self._process.join(timeout)

    def close(self) -> str:
        """Kill the rest of the process and all that it started, and close it; gives in words how it ended."""
        self.signal(signal.SIGKILL)
        self._process.join()
        code = self._process.exitcode
        assert code is not None
        self._process.close()
        self._answer.close()
        if code == -signal.SIGKILL:
            return "was killed by SIGKILL, which is what the system does to a process when memory runs out"
        return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"


def wait(processes: Sequence[WorkerProcess], timeout: float | None) -> None:
    """Wait until a process answers or ends, or for `timeout` seconds."""
    connection.wait([event for process in processes for event in process.events], timeout)


def stop(processes: Sequence[WorkerProcess]) -> None:
    """End processes early: first by SIGTERM, then by force."""
    for process in processes:
        process.signal(signal.SIGTERM)
    try:
        deadline = time.monotonic() + PATIENCE_S
        for process in processes:
            process.join(max(0.0, deadline - time.monotonic()))
    finally:
        for process in processes:
            process.close()


@contextmanager
def without_main() -> Iterator[None]:
    """Hide the running script from multiprocessing, which would execute it in every child; a job that needs it loads it."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


@contextmanager
def _ignoring_ctrl_c() -> Iterator[None]:
    """Start a process that ignores Ctrl-C from its first moment: the launcher decides what stops."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
