"""A CSV file of every logged step, without W&B."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import CSVLogger


def csv_logger(folder: Path, config: dict[str, Any], choices: Mapping[str, str], overrides: Sequence[str]) -> CSVLogger:
    """Lightning's CSV of every logged step, in the run's folder as `csv/metrics.csv`.

    Args:
        folder: The run's folder.
        config: Not used here, like all that follows; every logger is given the same arguments.
        choices: Config group to chosen name.
        overrides: The command's overrides.
    """
    return CSVLogger(save_dir=str(folder), name="", version="csv")
