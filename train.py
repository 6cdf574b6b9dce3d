"""Train and test one cell, or one of each combination with -m: python train.py neck=focal."""

import os

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import CompactHydraException
from hydra.types import RunMode
from omegaconf import DictConfig

from necklace.run import run


class Stop(CompactHydraException):
    """An error that Hydra prints as its message alone."""


@hydra.main(config_path="configs", config_name="train", version_base="1.3")
def main(config: DictConfig) -> None:
    """Run the composed config; an error reaches the user as its message, all of it with HYDRA_FULL_ERROR=1."""
    hydra_config = HydraConfig.get()
    choices = {group: str(choice) for group, choice in hydra_config.runtime.choices.items() if "hydra" not in group}
    trainer = config.trainer
    # Lightning starts the other ranks as this same command: each would go through the whole multirun by itself, and ranks of
    # different cells would train together.
    if hydra_config.mode == RunMode.MULTIRUN and str(trainer.devices) != "1":
        raise Stop(f"error: -m with trainer.devices={trainer.devices}: start runs of several processes one by one, without -m")
    try:
        run(config, choices, list(hydra_config.overrides.task))
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
