"""A job's own process, from the fork to its answer."""

import atexit
import os
import pickle
import signal
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing import connection, parent_process
from multiprocessing.connection import Connection
from weakref import finalize

from hydra.core.utils import JobReturn, JobStatus

from necklace.launcher.hydra_jobs import error_of
from necklace.launcher.job import Job, run_call

# Other processes of a run that has answered, such as the other ranks of its group, may take this long to end by themselves.
LINGER_S = 10.0


@dataclass(frozen=True)
class Conditions:
    """The conditions that a job's process runs under.

    Attributes:
        environment: All environment variables.
        cores: The process's cores.
        threads: Threads for torch.
        log: File for all that it prints, or None to leave its output where the launcher's goes.
    """

    environment: dict[str, str]
    cores: tuple[int, ...]
    threads: int
    log: str | None


def run_worker(answer: Connection, job: Job, conditions: Conditions) -> None:
    """Run a job in this process, which ends with it, and send its JobReturn."""
    _forget_the_server()
    os.setpgid(0, 0)  # so that whatever it starts can be ended with it, and Ctrl-C in the terminal reaches only the launcher
    launcher = parent_process()
    assert launcher is not None
    if connection.wait([launcher.sentinel], 0):  # interrupted while the server was starting, it did not wait
        return
    threading.Thread(target=_end_with_the_launcher, args=(launcher.sentinel,), daemon=True).start()
    try:
        _set(conditions)
        sys.argv[:] = job.argv
        import torch

        torch.set_num_threads(conditions.threads)
        result = _run(job)
    except KeyboardInterrupt:  # SIGTERM, after which the run has closed its files; the terminal's Ctrl-C does not come here
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTERM)
        return
    except BaseException as error:
        result = _failed(job.overrides, error)
    answer.send_bytes(_pickled(result))
    answer.close()
    atexit._run_exitfuncs()  # multiprocessing leaves them out
    _wait_for_children()


def _set(conditions: Conditions) -> None:
    """Put this process under its conditions, but for torch's threads."""
    if conditions.log is not None:
        file = os.open(conditions.log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        os.dup2(file, 1)
        os.dup2(file, 2)
        os.close(file)
    os.environ.clear()
    os.environ.update(conditions.environment)
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = str(conditions.threads)
    os.sched_setaffinity(0, conditions.cores)


def _run(job: Job) -> JobReturn:
    returned = run_call(job.call)
    if isinstance(returned, JobReturn):
        return returned
    result = JobReturn(overrides=list(job.overrides), status=JobStatus.COMPLETED)
    result.return_value = returned
    return result


def _forget_the_server() -> None:
    """Leave to the server what it has to do at its end, such as to remove temporary folders of what it imported."""
    atexit._clear()
    finalize._registry.clear()  # pyright: ignore[reportAttributeAccessIssue]
    finalize._registered_with_atexit = False  # pyright: ignore[reportAttributeAccessIssue]


def _failed(overrides: Sequence[str], error: BaseException) -> JobReturn:
    result = JobReturn(overrides=list(overrides), status=JobStatus.FAILED)
    result.return_value = error if isinstance(error, Exception) else RuntimeError(_text(error))
    return result


def _pickled(result: JobReturn) -> bytes:
    """A JobReturn that the launcher can read: many exceptions pickle and cannot be made again from what was pickled."""
    failure = error_of(result)
    text = "" if failure is None else _text(failure)
    if failure is not None and failure.__traceback__ is not None:
        # Its frames stay in this process, and a user who asks for all of the error should still see them.
        failure.add_note(f"In the run's process:\n{text}")
    try:
        data = pickle.dumps(result)
        pickle.loads(data)
    except Exception as error:
        words = f"the run ended, but what it returned cannot be sent to the launcher: {error}"
        result.return_value = RuntimeError(text or words)
        result.status = JobStatus.FAILED
        data = pickle.dumps(result)
    return data


def _text(error: BaseException) -> str:
    return "".join(traceback.format_exception(error)).rstrip()


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
