"""Train and test one run, or one of each combination with -m: necklace train neck=focal.

Also a script: Lightning starts the other processes of a run by this file's path.
"""

import os
import sys
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import CompactHydraException
from hydra.types import RunMode
from omegaconf import DictConfig

from necklace.run.runner import run_composed

# In a checkout a link to the repository's configs/.
CONFIGS = Path(__file__).resolve().parents[1] / "configs"


class Stop(CompactHydraException):
    """An error that Hydra prints as its message alone."""


@hydra.main(config_path=str(CONFIGS), config_name="train", version_base="1.3")
def main(config: DictConfig) -> None:
    """Run the composed config; an error reaches the user as its message, all of it with HYDRA_FULL_ERROR=1."""
    devices = str(config.trainer.devices)
    # Lightning starts the other ranks as this same command. Were that the whole multirun, each rank would go through it by
    # itself and train another run than its neighbours; this project's launcher gives each run the command of a single run.
    if HydraConfig.get().mode == RunMode.MULTIRUN and devices != "1":
        raise Stop(f"error: -m with trainer.devices={devices}: add hydra/launcher=local, or start the runs one by one")
    try:
        run_composed(config)
    except Exception as error:
        if os.environ.get("HYDRA_FULL_ERROR") == "1":
            raise
        cause = error
        # Hydra wraps what a constructor raises; the constructor's own words are the ones to read.
        while cause.__cause__ is not None and type(cause).__module__.startswith("hydra"):
            cause = cause.__cause__
        raise Stop(f"error: {cause}") from error


def command(arguments: list[str]) -> None:
    """`necklace train ARGUMENTS`: as if this file were the script, since Hydra and Lightning read the command line."""
    sys.argv[:] = [__file__, *arguments]
    sys.modules["__main__"].__spec__ = None  # of python -m, which Lightning would start a run's other processes with
    main()


if __name__ == "__main__":
    # Python looks for modules beside a script first, where a user's own study.py would be this package's.
    sys.path[:] = [place for place in sys.path if Path(place or ".").resolve() != Path(__file__).resolve().parent]
    main()
