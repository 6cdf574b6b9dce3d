"""Train and test one cell, or one of each combination with -m: python train.py neck=focal."""

import os

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import CompactHydraException
from hydra.types import RunMode
from omegaconf import DictConfig

from necklace.run import run_composed


class Stop(CompactHydraException):
    """An error that Hydra prints as its message alone."""


@hydra.main(config_path="configs", config_name="train", version_base="1.3")
def main(config: DictConfig) -> None:
    """Run the composed config; an error reaches the user as its message, all of it with HYDRA_FULL_ERROR=1."""
    hydra_config = HydraConfig.get()
    trainer = config.trainer
    # Lightning starts the other ranks as this same command. Were that the whole multirun, each rank would go through it by
    # itself and train another cell than its neighbours; this project's launcher gives each cell the command of a single run.
    if hydra_config.mode == RunMode.MULTIRUN and str(trainer.devices) != "1":
        raise Stop(f"error: -m with trainer.devices={trainer.devices}: add hydra/launcher=local, or start the runs one by one")
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


if __name__ == "__main__":
    main()
