"""The loggers of one run: opened together before its first step, closed when it has ended, however that was.

A logger is one of Lightning's. It may have more, which is then called: `begin(step)` before the first step, `log_histograms`
and `log_rows` for the gates, and `close(record, checkpoint, pictures)` at the end, which gives a line to print.
"""

from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from necklace.build import instantiated
from necklace.guard.private import without_home
from necklace.record import Record
from necklace.spec import RunSpec

KNOCKOUT = "knockout"  # what begins the names of what it has found
# Loggers that need a package of an extra: `_target_` to the module, which is named as the extra is.
EXTRAS = {
    "necklace.tracking.tensorboard_logger.tensorboard_logger": "tensorboard",
    "necklace.tracking.mlflow_logger.mlflow_logger": "mlflow",
}


def check_loggers(spec: RunSpec) -> None:
    """Refuse a run with a logger that cannot be opened here.

    Raises:
        ValueError: A package is missing, or an option stands without its logger's name.
    """
    for key, options in spec.loggers.items():
        extra = EXTRAS.get(str(options.get("_target_")))
        if extra and find_spec(extra) is None:
            raise ValueError(f"{key}: {extra} is not installed; pip install 'necklace[{extra}]'")


class RunLoggers:
    """The loggers of a run.

    Args:
        spec: The run.
        folder: Its folder.
    """

    def __init__(self, spec: RunSpec, folder: Path) -> None:
        self._spec, self._folder = spec, folder
        self._opened: list[tuple[Any, dict[str, Any]]] = []

    def open(self) -> list[Any] | bool:
        """Lightning's loggers, or False for none.

        Raises:
            ValueError: An option of a logger is out of range.
        """
        spec = self._spec
        about = {
            "folder": self._folder,
            "config": without_home(spec.resolved),
            "choices": spec.choices,
            "overrides": without_home(list(spec.said)),
        }
        for options in spec.loggers.values():
            logger = instantiated(OmegaConf.create(options), _partial_=True)(**about)
            if logger is not None:
                self._opened.append((logger, options))
        return [logger for logger, _ in self._opened] or False

    def knocked_out(self, content: Mapping[str, Any], record: Record) -> None:
        """Give the loggers what a knockout has found, with the run's last epoch.

        Args:
            content: As `knock_out_run` gives it.
            record: The run's record.
        """
        rows = [{**row, "split": "all"} for row in content["changes"]]
        drops = {
            f"{KNOCKOUT}/{row['layer']}/{row['context']}/{row['change']}": row["drop"] for row in rows if row["scope"] == "one"
        }
        for logger, _ in self._opened:
            logger.log_metrics({"epoch": record.epochs, **drops}, step=record.steps - 1)
            if hasattr(logger, "log_rows"):
                logger.log_rows(f"{KNOCKOUT}/table", list(content["changes"][0]), rows, record.epochs, record.steps)
            logger.save()

    def close(self, record: Record | None, best: Path, pictures: Path, say: Callable[[str], object]) -> None:
        """Close those that want to know how the run ended.

        Args:
            record: The run's record; None if it has failed.
            best: The checkpoint that val chose, for loggers with `artifact`.
            pictures: The folder of the run's pictures, if there are any.
            say: Is given a line of each logger that has one.
        """
        for logger, options in self._opened:
            close = getattr(logger, "close", None)
            line = close(record, best if options.get("artifact") else None, pictures) if close else None
            if line:
                say(line)
