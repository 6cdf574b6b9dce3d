"""What Ctrl-C, SIGTERM and SIGUSR1 do to a command, at any moment: one line, exit code 130, 143 or 138, no traceback.

A batch system ends a job by SIGTERM: what is there then is what Ctrl-C leaves. SIGUSR1 is its warning that a job's time is up
or that it has to make room, where it was asked for one (`sbatch --signal=USR1@60`): the same, and a job of SLURM then asks to
be queued again. Imports nothing that takes time.
"""

import atexit
import gc
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

STOPPED = "stopped; the same command goes on from here"
# Of commands that begin anew.
ENDED = "stopped"
# What a process does on each signal if nobody says otherwise. Where it is ignored, as in a shell's background, it stays so.
USUAL = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL, signal.SIGUSR1: signal.SIG_DFL}
_caught: list[int] = []
_codes: list[int] = []  # with which a command has ended in good order
_words = [STOPPED]


def stop_at_once() -> None:
    """From now on a signal ends this process where it is: for imports, which have nothing to stop in good order.

    An exception out of an import would be a traceback, and some libraries take it for their own failure.
    """
    atexit.register(_end)  # what is registered first is called last
    for number, usual in USUAL.items():
        if signal.getsignal(number) == usual:
            signal.signal(number, _leave)


@contextmanager
def at_once(words: str = STOPPED) -> Iterator[None]:
    """The same within it alone, for imports, which are a quarter faster while no garbage is collected.

    Args:
        words: What is said if a signal comes.
    """
    collects = gc.isenabled()
    gc.disable()
    try:
        with _answering(_leave, _interrupt, words):
            yield
    finally:
        if collects:
            gc.freeze()  # no later collection looks through what was imported, which stays for good
            gc.enable()


@contextmanager
def stoppable(words: str = STOPPED) -> Iterator[None]:
    """Within it, a signal is a KeyboardInterrupt, so that all is closed in good order; then the command ends.

    Args:
        words: What is said if a signal comes.

    Raises:
        SystemExit: With 130 after Ctrl-C, 143 after SIGTERM, 138 after SIGUSR1, also where a library swallowed the interrupt.
    """
    before = len(_caught)
    with _answering(_interrupt, _leave, words):
        try:
            yield
        except BaseException as error:
            # An import takes the interrupt for a failure of its own, and raises something else.
            if not isinstance(error, KeyboardInterrupt) and len(_caught) == before:
                raise
            number = _caught[before] if len(_caught) > before else signal.SIGINT
            _say(number)
            sys.exit(128 + number)
        if len(_caught) > before:  # a library has swallowed the interrupt
            _say(_caught[before])
            sys.exit(128 + _caught[before])


@contextmanager
def _answering(answer: Any, instead_of: Any, words: str) -> Iterator[None]:
    """Within it, signals that are not ignored, nor answered by other code, get this answer, and these words."""
    before = {number: signal.getsignal(number) for number in USUAL}
    changed = {number: was for number, was in before.items() if was in (instead_of, USUAL[number])}
    for number in changed:
        signal.signal(number, answer)
    _words.append(words)
    try:
        yield
    finally:
        _words.pop()
        for number, was in changed.items():
            signal.signal(number, was)


@contextmanager
def ending_quickly() -> Iterator[None]:
    """What was made within it is not looked through at the end of the process, which would take a second for the imports.

    Nor are modules and libraries taken down then, for a fifth of a second, in a process that has called `stop_at_once`.
    """
    try:
        yield
        _codes[:] = [0]
    except SystemExit as error:
        _codes[:] = [error.code or 0] if isinstance(error.code, int | None) else []  # a text is still to be printed
        raise
    finally:
        gc.freeze()


def _end() -> None:
    """The last that Python calls: threads have ended, and all that was registered has been done."""
    if _caught or not _codes:
        return
    with suppress(OSError, RuntimeError, ValueError):  # as where nobody reads any more, which Python then says in its own way
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(_codes[0])


def _interrupt(number: int, frame: FrameType | None) -> None:
    _caught.append(number)
    raise KeyboardInterrupt


def _leave(number: int, frame: FrameType | None) -> None:
    _say(number)
    os._exit(128 + number)


def _say(number: int) -> None:
    # The other processes of a run that several train get the signal as well; one of them answers.
    with suppress(OSError, RuntimeError, ValueError):  # whoever read it may be gone; or it was writing when the signal came
        sys.stdout.flush()
    if os.environ.get("LOCAL_RANK", "0") == "0":
        with suppress(OSError):
            os.write(2, f"{_words[-1]}{_queued_again(number)}\n".encode())


def _queued_again(number: int) -> str:
    """Where this is a job of SLURM that was warned by SIGUSR1, have it queued again; gives the words about it."""
    job = os.environ.get("SLURM_JOB_ID")
    if number != signal.SIGUSR1 or not job or os.environ.get("SLURM_PROCID", "0") != "0":
        return ""
    if "SLURM_ARRAY_JOB_ID" in os.environ:
        job = f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    code = os.spawnlp(os.P_WAIT, "scontrol", "scontrol", "requeue", job)
    return f"; job {job} is queued again" if code == 0 else f"; job {job} could not be queued again: scontrol gives {code}"
