"""What Ctrl-C does to a command, at any moment: one line, exit code 130, no traceback. Imports nothing that takes time."""

import gc
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

STOPPED = "stopped; the same command goes on from here"
EXIT_CODE = 128 + signal.SIGINT
_pressed: list[int] = []


def stop_at_once() -> None:
    """From now on Ctrl-C ends this process where it is: for imports, which have nothing to stop in good order.

    An exception out of an import would be a traceback, and some libraries take it for their own failure. Where Ctrl-C is
    ignored, as in the background of a shell, it stays so.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _leave)


@contextmanager
def at_once() -> Iterator[None]:
    """The same within it alone, for imports, which are a quarter faster while no garbage is collected."""
    before = signal.getsignal(signal.SIGINT)
    collects = gc.isenabled()
    gc.disable()
    if before in (_interrupt, signal.default_int_handler):
        signal.signal(signal.SIGINT, _leave)
    try:
        yield
    finally:
        if collects:
            gc.enable()
        if before in (_interrupt, signal.default_int_handler):
            signal.signal(signal.SIGINT, before)


@contextmanager
def stoppable() -> Iterator[None]:
    """Within it, Ctrl-C is a KeyboardInterrupt, so that all is closed in good order; then the command ends.

    Raises:
        SystemExit: With `EXIT_CODE`, if Ctrl-C was pressed and the body did not end well.
    """
    before = signal.getsignal(signal.SIGINT)
    try:
        if before is _leave:
            signal.signal(signal.SIGINT, _interrupt)
        yield
    except BaseException as error:
        # An import takes the interrupt for a failure of its own, and raises something else.
        if not isinstance(error, KeyboardInterrupt) and not _pressed:
            raise
        _say()
        sys.exit(EXIT_CODE)
    finally:
        if before is _leave:
            signal.signal(signal.SIGINT, before)


def _interrupt(number: int, frame: FrameType | None) -> None:
    _pressed.append(number)
    raise KeyboardInterrupt


def _leave(number: int, frame: FrameType | None) -> None:
    _say()
    os._exit(EXIT_CODE)


def _say() -> None:
    # The other processes of a run that several train get Ctrl-C as well; one of them answers.
    with suppress(OSError, RuntimeError, ValueError):  # whoever read it may be gone; or it was writing when Ctrl-C came
        sys.stdout.flush()
    if os.environ.get("LOCAL_RANK", "0") == "0":
        with suppress(OSError):
            os.write(2, f"{STOPPED}\n".encode())
