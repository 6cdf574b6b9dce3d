"""Errors that a command reports in a line, without a traceback."""

from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

EXPECTED = (OSError, ValueError, RuntimeError, HydraException, OmegaConfBaseException)
