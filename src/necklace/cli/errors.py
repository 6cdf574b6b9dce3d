"""Errors that a command reports in a line, without a traceback."""

from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

EXPECTED = (OSError, ValueError, RuntimeError, HydraException, OmegaConfBaseException)


def line_of(error: BaseException) -> str:
    """An error as a command's last line, which is never empty: some of the system's and of libraries have no words."""
    return f"error: {str(error).strip() or f'{type(error).__name__}, without a message'}"
