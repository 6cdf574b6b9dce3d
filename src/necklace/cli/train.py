"""Train and test one run, or one of each combination with -m: necklace train neck=focal.

Also a script: Lightning starts the other processes of a run by this file's path.
"""

import copy
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import CompactHydraException
from hydra.types import RunMode
from omegaconf import DictConfig, open_dict

from necklace.allocator import keep_freed_memory
from necklace.cli.deferred import defer_scipy_signal
from necklace.cli.stopping import at_once, ending_quickly, stoppable
from necklace.config import Composer, choices_of, loading
from necklace.config_listing import listing_once
from necklace.guard.targets import check_composed, named_folders, named_targets
from necklace.guard.text import printable

# In a checkout a link to the repository's configs/.
CONFIGS = Path(__file__).resolve().parents[1] / "configs"


# Flags with which Hydra shows something and runs nothing.
SHOWING = ("--cfg", "-c", "--help", "-h", "--hydra-help", "--info", "-i", "--shell-completion", "-sc", "--version")


class Stop(CompactHydraException):
    """An error that Hydra prints as its message alone."""


@hydra.main(config_path=str(CONFIGS), config_name="train", version_base="1.3")
def _run(config: DictConfig) -> float | None:
    devices = str(config.trainer.devices)
    # Lightning starts the other ranks as this same command. Were that the whole multirun, each rank would go through it by
    # itself and train another run than its neighbours; this project's launcher gives each run the command of a single run.
    if HydraConfig.get().mode == RunMode.MULTIRUN and devices != "1":
        raise Stop(f"error: -m with trainer.devices={devices}: add hydra/launcher=local, or start the runs one by one")
    keep_freed_memory()
    with at_once():
        from necklace.run.runner import run_composed, val_metric, words_of  # here, so that --help need not wait for it

    try:
        record = run_composed(config)
        return None if record is None else val_metric(record)
    except Exception as error:
        if os.environ.get("HYDRA_FULL_ERROR") == "1":
            raise
        raise Stop(_shown(words_of(error))) from error


def main() -> None:
    """Run what the command line asks for; an error reaches the user as its message, all of it with HYDRA_FULL_ERROR=1.

    All runs of a multirun are checked before the first one starts. A run gives Hydra's sweepers that search the val metric
    that chose its weights, never a test metric.
    """
    # Hydra's parser takes no overrides behind a flag that comes after others: `neck=focal -m seed=0,1`.
    sys.argv[1:] = sorted(sys.argv[1:], key=lambda text: text not in ("-m", "--multirun"))
    defer_scipy_signal()
    with checking():
        _run()


@contextmanager
def checking() -> Iterator[None]:
    """Within it, all configs that Hydra composes are checked, and what is wrong with them is said in this project's words."""
    shows = any(text.partition("=")[0] in SHOWING for text in sys.argv[1:])

    def check(config: DictConfig) -> None:
        if shows:
            return
        from necklace.options.check import check_options  # here, so that what Hydra refuses, and --help, need not wait for it
        from necklace.options.errors import OptionError

        folders = named_folders(config.hydra)
        choices, overrides = choices_of(config.hydra), list(config.hydra.overrides.task)
        config = copy.deepcopy(config)
        with open_dict(config):
            del config["hydra"]
        try:
            check_composed(config, folders, named_targets(overrides))
            given = overrides if int(os.environ.get("LOCAL_RANK", "0")) == 0 else []
            check_options(config, choices, given, before_trial=lambda: _import_run(config))
        except (OptionError, ValueError) as error:
            if _is_said(config):
                sys.exit(1)
            raise Stop(_shown(str(error))) from error

    def explain(composer: Composer, overrides: Sequence[str], error: Exception) -> str:
        from necklace.options.refusal import explained

        return _shown(explained(composer, overrides, error))

    with loading(check, explain), listing_once() if shows else nullcontext():
        yield


def _import_run(config: DictConfig) -> None:
    """Import what trains a config's run, with all that takes seconds."""
    with at_once():
        import necklace.options.trial
        import necklace.run.runner

        if "wandb" in (config.get("logger") or ()):
            import necklace.tracking.wandb_logger  # noqa: F401


def _is_said(config: DictConfig) -> bool:
    """Whether the first of the run's processes says what is wrong with the config: all of them find it out."""
    if str(config.trainer.get("devices", 1)) == "1":
        return False
    from necklace.run.conditions import rank

    return rank(dict(config.trainer)) > 0


def _shown(problems: str) -> str:
    return printable(f"error: {problems}")


def start() -> None:
    """`main` as a command: Ctrl-C is answered in a line, and the process ends at once."""
    with stoppable(), ending_quickly():
        main()


def command(arguments: list[str]) -> None:
    """`necklace train ARGUMENTS`: as if this file were the script, since Hydra and Lightning read the command line."""
    sys.argv[:] = [__file__, *arguments]
    sys.modules["__main__"].__spec__ = None  # of python -m, which Lightning would start a run's other processes with
    start()


if __name__ == "__main__":
    # Python looks for modules beside a script first, where a user's own study.py would be this package's.
    sys.path[:] = [place for place in sys.path if Path(place or ".").resolve() != Path(__file__).resolve().parent]
    start()
