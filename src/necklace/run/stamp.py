"""Whose checkpoint a file is: each carries the hash of its run, and no other run takes it.

A checkpoint without a hash is nobody's and is refused as well: code that wrote none is other code, whose checkpoints a run
leaves behind before it begins.
"""

from pathlib import Path
from typing import Any

KEY = "run"


class ForeignCheckpoint(ValueError):
    """A checkpoint in a run's folder that the run has not written."""


def stamped(checkpoint: dict[str, Any], run_hash: str) -> dict[str, Any]:
    """The checkpoint with its run's hash."""
    return checkpoint | {KEY: run_hash}


def check_own(checkpoint: dict[str, Any], path: str | Path, run_hash: str) -> None:
    """Refuse a checkpoint of another run.

    Args:
        checkpoint: Its content.
        path: Where it lies.
        run_hash: The run that is about to take it.

    Raises:
        ForeignCheckpoint: It is of another run, or of none.
    """
    found = checkpoint.get(KEY)
    if found != run_hash:
        whose = "no run's hash" if found is None else f"the hash of run {found}"
        raise ForeignCheckpoint(
            f"{path}: is no checkpoint of run {run_hash}: it carries {whose}; put back the run's own, or remove it and the run "
            "starts from its first epoch"
        )
