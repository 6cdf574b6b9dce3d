"""What the loggers of a run have in common. The run's folder is the truth: a logger shows a copy, and never ends a run."""

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, TypedDict

from necklace.guard.console import Console
from necklace.parts import ALIASES
from necklace.record import Record

WANDB = "necklace.tracking.wandb_logger.wandb_logger"


class AboutRun(TypedDict):
    """Arguments that every logger of a run is given, by name.

    Attributes:
        folder: The run's folder.
        config: The resolved config as plain containers.
        choices: Config group to chosen name.
        overrides: All that differs from the defaults, see `necklace.identity.differences`.
    """

    folder: Path
    config: dict[str, Any]
    choices: Mapping[str, str]
    overrides: Sequence[str]


class Tracker:
    """Mixin of Lightning's loggers: remembers each epoch's numbers, and is left alone once its service has broken down.

    Attributes:
        service: Its service's name, for messages.
        scalars: Epoch to the numbers that were logged with it; `History` takes them from here.
    """

    service: ClassVar[str]

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.scalars: dict[int, dict[str, float]] = {}
        self._broken = False

    def remember(self, metrics: Mapping[str, Any]) -> None:
        """Keep the numbers among `metrics` for their epoch."""
        if "epoch" in metrics:
            numbers = {name: float(value) for name, value in metrics.items() if isinstance(value, int | float)}
            self.scalars.setdefault(int(metrics["epoch"]), {}).update(numbers)

    def attempt(self, action: Callable[[], object]) -> None:
        """Let the service do something, unless it has broken down, which is printed once."""
        if self._broken:
            return
        try:
            action()
        except Exception as error:  # whatever a service and its libraries raise: the training is worth more than its copy
            self._broken = True
            words = f"{error}".partition("\n")[0]
            print_once(f"{self.service} stopped working ({type(error).__name__}: {words}); the run continues without it")


def run_summary(record: Record) -> dict[str, Any]:
    """The metrics of a record, its gates' main statistics, and its cost, by their names in a logger; epochs count from 1."""
    gates = {
        f"gates/{layer}/{context}/{name}": statistics[name]
        for layer, contexts in (record.gates or {"layers": {}})["layers"].items()
        for context, statistics in contexts.items()
        for name in ("mass", "contribution_share")
        if statistics[name] is not None
    }
    return {
        **gates,
        **record.metrics,
        "best_epoch": record.best_epoch + 1,
        "cost/params": record.total("params"),
        "cost/macs": record.total("macs"),
        "cost/neck_params": record.cost["neck"]["params"],
        "cost/neck_macs": record.cost["neck"]["macs"],
        "cost/fit_seconds": record.fit_seconds,
        "cost/images_per_s": record.images_per_s,
    }


@cache
def print_once(line: str) -> None:
    """Print a line the first time that a process asks for it."""
    Console(soft_wrap=True, highlight=False).print(line, markup=False)


def wandb_options(loggers: Mapping[str, dict[str, Any]]) -> dict[str, Any] | None:
    """The options of W&B's logger among those of a run, or None where W&B is not one of them."""
    return next((options for options in loggers.values() if is_wandb(options)), None)


def is_wandb(options: Mapping[str, Any]) -> bool:
    """Whether these are the options of W&B's logger; says so without importing it."""
    target = str(options.get("_target_"))
    return ALIASES.get(target, target) == WANDB
