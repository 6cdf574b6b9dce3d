"""A CSV file of all that a run logs with its epochs, without W&B."""

from collections.abc import Mapping
from typing import Any, Unpack

from pytorch_lightning.loggers import CSVLogger

from necklace.guard.links import remove
from necklace.tracking.tracker import AboutRun, Tracker


class CsvRunLogger(Tracker, CSVLogger):
    """Lightning's CSV logger; it starts anew in a resumed run, which begins with the epochs so far."""

    service = "CSV"

    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Log numbers."""
        self.remember(metrics)
        super().log_metrics(dict(metrics), step)


def csv_logger(**about: Unpack[AboutRun]) -> CsvRunLogger:
    """Lightning's CSV of every logged step, in the run's folder as `csv/metrics.csv`, with the config as `csv/hparams.yaml`.

    Args:
        **about: The run.
    """
    folder = about["folder"]
    if (folder / "csv").exists():
        remove(folder / "csv")  # Lightning would do so as well, with a warning
    logger = CsvRunLogger(save_dir=str(folder), name="", version="csv")
    logger.log_hyperparams(about["config"])
    return logger
