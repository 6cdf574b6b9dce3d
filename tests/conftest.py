"""What the tests of several rooms need: composing the config, and one finished cell."""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf, open_dict

from necklace.cell import cell_identity, cell_label, code_digest, hash_identity
from necklace.record import SCHEMA, Record, pack_bits
from necklace.run import run
from necklace.study.compose import Composer
from necklace.study.untrained import composed

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


@contextmanager
def initialised() -> Iterator[None]:
    """Hydra with the project's configs, whether a test has initialised it or not."""
    if GlobalHydra.instance().is_initialized():
        yield
        return
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        yield


def compose_train(overrides: list[str]) -> tuple[DictConfig, dict[str, str]]:
    with initialised():
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


@pytest.fixture
def hydra_ready() -> Iterator[None]:
    """Hydra with the project's configs, as ablate.py has it."""
    with initialised():
        yield


@cache
def _composed_plain(overrides: tuple[str, ...]) -> tuple[str, str, str]:
    with initialised():
        config, choices = composed(Composer(GlobalHydra.instance().config_loader(), "train"), overrides)
    plain = OmegaConf.to_container(config, resolve=True)
    assert isinstance(plain, dict)
    return json.dumps(plain), json.dumps(choices), code_digest(plain)  # pyright: ignore[reportArgumentType]


def synthetic_record(
    overrides: Sequence[str],
    seed: int,
    correct: np.ndarray,
    params: int = 1000,
    digest: dict[str, str] | None = None,
    **fields: Any,
) -> Record:
    """A record as a run of these overrides would leave it, with the outcomes given: `correct`, bool [N]."""
    config, choices, code = _composed_plain(tuple(overrides))
    plain = {**json.loads(config), "seed": seed}
    identity = cell_identity(plain, digest or {"train": "a" * 64, "val": "b" * 64, "test": "c" * 64})
    cell_hash = hash_identity(identity)
    accuracy = float(f"{np.mean(correct):.7g}")
    cost = {"params": 500, "macs": 2_000_000, "output": [8, 6, 6]}
    content: dict[str, Any] = {
        "schema": SCHEMA,
        "cell": f"{cell_label(json.loads(choices), list(overrides), seed)}_{cell_hash}",
        "cell_hash": cell_hash,
        "choices": json.loads(choices),
        "config": plain,
        "identity": identity,
        "figures": {"test/acc": accuracy, "test/loss": 1.0, "val/acc": accuracy, "val/loss": 1.0},
        "best_epoch": 1,
        "epochs": plain["epochs"],
        "steps": 10,
        "train_images_left_out": 0,
        "test_correct": pack_bits(torch.from_numpy(correct)),
        "gates": None,
        "data": {"digest": identity["data"]["digest"], "images": {"train": 100, "test": len(correct)}, "classes": ["a", "b"]},
        "cost": {"backbone": cost, "neck": {**cost, "params": params, "macs": 4 * params}, "head": cost},
        "neck_input": [8, 6, 6],
        "pretrained": [0, 40],
        "initial_hash": "0" * 64,
        "weights_hash": hash_identity({"cell": cell_hash}) * 6,
        "git": {"sha": "f" * 40, "dirty": False},
        "code": code,
        "versions": {"python": "3.11.0", "torch": "2.14.1"},
        "device": {"kind": "cpu", "name": "a processor", "threads": 1},
        "world_size": 1,
        "fit_seconds": 10.0,
        "images_per_s": 100.0,
        "wall_seconds": 12.0,
        "resumed": 0,
    }
    content["data"]["skipped"] = []
    return Record(**content | fields)


def write_synthetic(record: Record, root: Path) -> Path:
    """The folder of a finished run with this record."""
    folder = root / record.cell
    folder.mkdir(parents=True)
    (folder / "record.json").write_text(json.dumps(asdict(record)))
    (folder / "config.yaml").write_text("seed: 0\n")
    rows = [f"{epoch},{record.figures['val/acc'] * (epoch + 1) / record.epochs:.4f}" for epoch in range(record.epochs)]
    (folder / "history.csv").write_text("\n".join(["epoch,val/acc", *rows]) + "\n")
    return folder
