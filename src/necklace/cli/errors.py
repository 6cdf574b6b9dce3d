"""Errors that a command reports in a line, without a traceback."""

from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from necklace.guard.text import printable

EXPECTED = (OSError, ValueError, RuntimeError, HydraException, OmegaConfBaseException)


def error_line(error: BaseException) -> str:
    """An error as a command ends with it, never empty; what a file's name or content put into it is shown as text."""
    return printable(f"error: {str(error).strip() or f'{type(error).__name__}, without a message'}")
