"""A cell's own process, from the fork to its answer: what the launcher in `necklace_local` runs there.

A module of its own because Hydra executes the modules of this folder again whenever it looks for plugins, which would leave the
functions that a process is sent by name without their identity; it leaves those alone whose name begins with an underscore.
"""

import atexit
import importlib
import os
import pickle
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from inspect import unwrap
from multiprocessing import connection, parent_process, spawn
from multiprocessing.connection import Connection
from operator import attrgetter
from types import FunctionType
from typing import Any
from weakref import finalize

from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, run_job, setup_globals
from hydra.types import HydraContext
from omegaconf import DictConfig

# Other processes of a cell that has answered, such as the other ranks of its group, may take so long to end by themselves.
LINGER_S = 10.0


@dataclass(frozen=True)
class TaskName:
    """Where a task function is to be found: a function with Hydra's decorator does not pickle.

    Attributes:
        module: Its module, or None if that is the script that the user started.
        script: Path of that script.
        name: Its name in there, such as `main`.
    """

    module: str | None
    script: str
    name: str

    @classmethod
    def of(cls, function: Callable[..., Any]) -> "TaskName":
        """The name of a function.

        Raises:
            ValueError: It has none that another process could find it by.
        """
        function = unwrap(function)
        if not isinstance(function, FunctionType) or "<" in function.__qualname__:
            raise ValueError(f"hydra/launcher=local cannot send {function!r} to another process: take a function of a module")
        script = os.path.abspath(getattr(sys.modules["__main__"], "__file__", None) or "")
        return cls(None if function.__module__ == "__main__" else function.__module__, script, function.__qualname__)

    def load(self) -> Callable[..., Any]:
        """The function, without Hydra's decorator."""
        if self.module is None:
            # As multiprocessing would: the script becomes `__main__`, executed under another name and with a `__spec__` of
            # None, by which Lightning knows that the other ranks are to be started by the script's path.
            spawn.import_main_path(self.script)
        module = sys.modules["__main__"] if self.module is None else importlib.import_module(self.module)
        return unwrap(attrgetter(self.name)(module))


@dataclass(frozen=True)
class Order:
    """One cell, as it is sent to its process.

    Attributes:
        task: What to call with the config.
        job: Config and Hydra's state, pickled by `pack`: they may need the module that `task` is in.
        overrides: Those of the cell.
        argv: Command line of a single run of this cell.
        environment: All environment variables.
        cores: The process's cores.
        threads: Threads for torch.
        log: File for all that it prints, or None to leave its output where the launcher's goes.
    """

    task: TaskName
    job: bytes
    overrides: list[str]
    argv: list[str]
    environment: dict[str, str]
    cores: tuple[int, ...]
    threads: int
    log: str | None


def pack(config: DictConfig, context: HydraContext) -> bytes:
    """The pickled part of an order: the composed config, and Hydra's state but for its plugins and OmegaConf's resolvers."""
    return pickle.dumps((config, context, Singleton.get_state()["instances"]))


def run_cell(answer: Connection, order: Order) -> None:
    """Run a cell in this process, which ends with it, and send its JobReturn."""
    _forget_the_server()
    os.setpgid(0, 0)  # so that whatever it starts can be ended with it, and Ctrl-C in the terminal reaches the launcher alone
    launcher = parent_process()
    assert launcher is not None
    if connection.wait([launcher.sentinel], 0):  # interrupted while the server was starting, it did not wait
        return
    threading.Thread(target=_end_with_the_launcher, args=(launcher.sentinel,), daemon=True).start()
    if order.log is not None:
        file = os.open(order.log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        os.dup2(file, 1)
        os.dup2(file, 2)
        os.close(file)
    os.environ.clear()
    os.environ.update(order.environment)
    os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(order.threads)))
    os.sched_setaffinity(0, order.cores)
    sys.argv[:] = order.argv
    try:
        import torch

        torch.set_num_threads(order.threads)
        result = _run(order)
    except BaseException as error:
        result = _failed(order.overrides, error)
    answer.send_bytes(_pickled(result))
    answer.close()
    atexit._run_exitfuncs()  # multiprocessing leaves them out
    _wait_for_children()


def _run(order: Order) -> JobReturn:
    function = order.task.load()
    config, context, instances = pickle.loads(order.job)
    Singleton._instances.update(instances)
    setup_globals()
    result = run_job(function, config, "hydra.sweep.dir", "hydra.sweep.subdir", context)
    if result.status == JobStatus.FAILED:
        error = result._return_value
        # The frames stay in this process; a user who asks for all of the error should still see them.
        error.add_note("In the cell's process:\n" + "".join(traceback.format_exception(error)).rstrip())
    return result


def _forget_the_server() -> None:
    """Leave to the server what it has to do at its end, such as to remove temporary folders of what it imported."""
    atexit._clear()
    finalize._registry.clear()  # pyright: ignore[reportAttributeAccessIssue]
    finalize._registered_with_atexit = False  # pyright: ignore[reportAttributeAccessIssue]


def _failed(overrides: list[str], error: BaseException) -> JobReturn:
    text = "".join(traceback.format_exception(error)).rstrip()
    result = JobReturn(overrides=overrides, status=JobStatus.FAILED)
    result.return_value = error if isinstance(error, Exception) else RuntimeError(text)
    return result


def _pickled(result: JobReturn) -> bytes:
    """A JobReturn that the launcher can read: many an exception pickles and cannot be made again from what was pickled."""
    try:
        data = pickle.dumps(result)
        pickle.loads(data)
    except Exception as error:
        if result.status == JobStatus.FAILED:
            result.return_value = RuntimeError("".join(traceback.format_exception(result._return_value)).rstrip())
        else:
            result.return_value = RuntimeError(f"the cell ran, but what it returned cannot be sent to the launcher: {error}")
            result.status = JobStatus.FAILED
        data = pickle.dumps(result)
    return data


def _end_with_the_launcher(sentinel: int) -> None:
    """Kill this process and all that it started when the launcher is gone, however it went."""
    connection.wait([sentinel])
    os.killpg(0, signal.SIGKILL)


def _wait_for_children() -> None:
    deadline = time.monotonic() + LINGER_S
    while time.monotonic() < deadline:
        try:
            if os.waitpid(-1, os.WNOHANG)[0] == 0:
                time.sleep(0.01)
        except ChildProcessError:
            return
