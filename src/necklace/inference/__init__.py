"""A finished run is used: loaded, asked for predictions, exported."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from necklace.inference.loaded import LoadedRun


def load(folder: str | Path, trust: str | Path | None = None) -> "LoadedRun":
    """Load a finished run: its model with the weights that val chose, its classes, and its way from an image to a prediction.

    Needed of the folder are `record.json` and `checkpoints/best.ckpt`; the data is not read.

    No code of a stranger runs: the record's classes must be this project's, and the checkpoint is read as plain tensors.

    Args:
        folder: The run's folder, `outputs/STUDY/RUN`.
        trust: A folder whose Python files may run too, for a run with a neck, backbone or head of one's own.

    Returns:
        The run, on the CPU; `run.model.to(device)` moves it.

    Raises:
        FileNotFoundError: There is no such folder, or it is not that of a finished run.
        ValueError: A file is damaged, the checkpoint does not hold the record's weights, or the record names a class that is
            neither this project's nor of the folder that is trusted.
    """
    from necklace.inference.loaded import LoadedRun  # here, so that `import necklace` need not wait for torch

    return LoadedRun.open(Path(folder), trust)
