"""What the tests of several rooms need: composing the config, and one finished cell."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, open_dict

from necklace.record import Record
from necklace.run import run

# The networks of the tests are too small to share out: waiting for a second thread costs more than it does.
torch.set_num_threads(1)

CONFIGS = Path(__file__).parents[1] / "configs"
# Small enough to train in a second; everything else is what a user gets.
SMALL = [
    "data.source.train=120",
    "data.source.test=30",
    "data.size=24",
    "backbone.width=4",
    "epochs=2",
    "batch_size=16",
    "logger=none",
]


def compose_train(overrides: list[str]) -> tuple[DictConfig, dict[str, str]]:
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        config = compose("train", overrides, return_hydra_config=True)
    HydraConfig.instance().set_config(config)
    choices = {group: str(choice) for group, choice in config.hydra.runtime.choices.items() if "hydra" not in group}
    with open_dict(config):
        del config["hydra"]
    return config, choices


@pytest.fixture
def train_cell(tmp_path: Path) -> Callable[..., tuple[Record, Path]]:
    """Run one small cell in this process; gives its record and folder."""

    def train(*overrides: str, outputs: Path = tmp_path) -> tuple[Record, Path]:
        chosen = [*SMALL, f"outputs={outputs}", *overrides]
        record = run(*compose_train(chosen), chosen)
        return record, outputs / "runs" / record.cell

    return train
