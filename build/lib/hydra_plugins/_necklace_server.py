"""The server that cells are forked from, and the launcher's side of the processes: starting, waiting, ending.

multiprocessing's forkserver: it has one thread and has not touched a GPU, so that a fork of it is sound.
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

from hydra_plugins._necklace_cell import Order, run_cell

# All that a cell imports, also what libraries put off until its first steps: a cell need not wait for it, and a file that is
# edited while a study runs is not old in one cell and new in the next. multiprocessing passes over what is missing.
WARM = [
    "necklace.run",
    "necklace.heads",
    "necklace.necks",
    "necklace.schedules",
    "necklace.pictures",
    "necklace.study.costs",
    "necklace.study.execute",
    "necklace.data.cifar",
    "necklace.data.context",
    "necklace.data.folder",
    "necklace.data.glyphs",
    "necklace.data.voc",
    "torch.utils.serialization.config",
    "fsspec.implementations.chained",
    "rich._emoji_codes",
    "wandb.apis.public",
    "wandb.wandb_run",
    "wandb.sdk.launch.inputs.internal",
    "requests",
    "encodings.idna",
    "importlib.resources.readers",
    "opentelemetry.exporter.otlp.proto.http._log_exporter",
    "opentelemetry.exporter.otlp.proto.http.metric_exporter",
    "hydra._internal.logging_config",
    "omegaconf._impl",
    "antlr4.LL1Analyzer",
    "hydra_plugins._necklace_warm",
]
# Libraries that start their threads when they are imported; pyarrow does so by way of its allocator, jemalloc.
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
ONE_THREAD |= {"JE_ARROW_MALLOC_CONF": "background_thread:false"}
# How long a cell may take to stop before it is killed.
PATIENCE_S = 5.0


def start_server() -> None:
    """Start the server, unless it runs; it ends with this process. It imports while the caller goes on."""
    forkserver.set_forkserver_preload(WARM)
    # Without the last two it would look for modules in the working directory, and not where this process does.
    own = ONE_THREAD | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "PYTHONSAFEPATH": "1"}
    kept = {name: os.environ.get(name) for name in own}
    os.environ.update(own)
    try:
        with _deaf_to_ctrl_c(), without_main():
            forkserver.ensure_running()
    finally:
        for name, value in kept.items():
            del os.environ[name]
            if value is not None:
                os.environ[name] = value


class CellProcess:
    """A cell's process, as the launcher sees it.

    Attributes:
        result: What the cell answered, once it has.

    Raises:
        RuntimeError: The server died.
    """

    def __init__(self, order: Order) -> None:
        self.result: JobReturn | None = None
        start_server()
        context = get_context("forkserver")
        self._answer, theirs = context.Pipe(duplex=False)
        self._process = context.Process(target=run_cell, args=(theirs, order))
        try:
            with without_main():
                self._process.start()
        except (EOFError, ConnectionError) as error:
            self._answer.close()
            raise RuntimeError("the server that cells are forked from died; what it printed says why") from error
        finally:
            theirs.close()

    @property
    def events(self) -> list[connection.Connection | int]:
        """What to wait for: its answer and its end."""
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
        """Kill what is left of the process and what it started, and let go of it; gives in words how it ended."""
        self.signal(signal.SIGKILL)
        self._process.join()
        code = self._process.exitcode
        assert code is not None
        self._process.close()
        self._answer.close()
        if code == -signal.SIGKILL:
            return "was killed by SIGKILL, which is what the system does to a process when memory runs out"
        return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"


def wait(cells: Sequence[CellProcess], timeout: float | None) -> None:
    """Wait until a cell answers or ends."""
    connection.wait([event for cell in cells for event in cell.events], timeout)


def stop(cells: Sequence[CellProcess]) -> None:
    """End cells early: kindly, then by force."""
    for cell in cells:
        cell.signal(signal.SIGTERM)
    try:
        deadline = time.monotonic() + PATIENCE_S
        for cell in cells:
            cell.join(max(0.0, deadline - time.monotonic()))
    finally:
        for cell in cells:
            cell.close()


@contextmanager
def without_main() -> Iterator[None]:
    """Hide the running script from multiprocessing, which would execute it in every child; a task that needs it loads it."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


@contextmanager
def _deaf_to_ctrl_c() -> Iterator[None]:
    """Start a process that ignores Ctrl-C from its first moment: what stops is the launcher's to decide."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
