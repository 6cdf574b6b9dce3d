"""Fixtures of several packages' tests: composing the config, training one small run, and made-up records."""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import torch
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, open_dict

from necklace.code_version import code_version
from necklace.config import Composer, choices_of, resolved
from necklace.identity import hash_identity, run_identity, run_label
from necklace.record import SCHEMA, Record, pack_bits
from necklace.run.runner import run
from necklace.spec import RunSpec, run_spec, said_of

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


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that need a GPU are skipped where there is none."""
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="there is no NVIDIA GPU that torch can use"))


@pytest.fixture
def any_load(monkeypatch: pytest.MonkeyPatch) -> None:
    """Benchmarks measure whatever else runs on this machine; their times mean nothing."""
    from necklace.cli import bench_machine

    monkeypatch.setattr(bench_machine, "BUSY", float("inf"))
    monkeypatch.setattr(bench_machine, "_LOOK_S", 0.01)


@contextmanager
def initialised() -> Iterator[None]:
    """Hydra with the project's configs, whether a test has initialised it or not."""
    if GlobalHydra.instance().is_initialized():
        yield
        return
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        yield


@cache
def _composer(places: tuple[str, ...]) -> Composer:
    return Composer(GlobalHydra.instance().config_loader(), "train")


def the_composer() -> Composer:
    """One composer for all tests, which reads each config file once; Hydra is initialised.

    What it composes is what Hydra itself composes: tests/test_config.py compares the two.
    """
    return _composer(tuple(element.path for element in GlobalHydra.instance().config_loader().get_search_path().get_path()))


def compose_train(overrides: list[str]) -> tuple[DictConfig, dict[str, str]]:
    with initialised():
        config = the_composer().compose(overrides)
    HydraConfig.instance().set_config(config)
    choices = choices_of(config.hydra)
    with open_dict(config):
        del config["hydra"]
    return config, choices


@cache
def scratch() -> TemporaryDirectory[str]:
    """A folder that goes with this process."""
    return TemporaryDirectory(prefix="necklace-tests-")


def spec_of(overrides: list[str]) -> RunSpec:
    """The run of these overrides; where they do not say where its files go, these do not go into the checkout."""
    config, choices = compose_train(overrides)
    if config.outputs == "outputs":
        config.outputs = scratch().name
    plain = resolved(config)
    with initialised():
        said = said_of(config, plain, choices, the_composer(), overrides)
    return run_spec(plain, choices, overrides, said)


@pytest.fixture
def train_run(tmp_path: Path) -> Callable[..., tuple[Record, Path]]:
    """Train one small run in this process; gives its record and folder."""

    def train(*overrides: str, outputs: Path = tmp_path) -> tuple[Record, Path]:
        record = run(spec_of([*SMALL, f"outputs={outputs}", *overrides]))
        return record, outputs / "runs" / record.name

    return train


@pytest.fixture
def hydra_ready() -> Iterator[None]:
    """Hydra with the project's configs, as ablate.py has it."""
    with initialised():
        yield


def composed(composer: Composer, overrides: Sequence[str]) -> tuple[DictConfig, dict[str, str]]:
    """A composed config without Hydra's own part, and the choices of groups that made it."""
    config = composer.compose(overrides)
    choices = choices_of(config.hydra)
    with open_dict(config):
        del config["hydra"]
    return config, choices


@cache
def _composed(overrides: tuple[str, ...]) -> tuple[str, str, str]:
    with initialised():
        config, choices = composed(the_composer(), overrides)
    return json.dumps(resolved(config)), json.dumps(choices), json.dumps(code_version(resolved(config)))


def synthetic_record(
    overrides: Sequence[str],
    seed: int,
    correct: np.ndarray,
    params: int = 1000,
    digest: dict[str, str] | None = None,
    **fields: Any,
) -> Record:
    """A record as a run of these overrides would leave it, with the outcomes given: `correct`, bool [N]."""
    made, choices, code = _composed(tuple(overrides))
    config = {**json.loads(made), "seed": seed}
    identity = run_identity(config, digest or {"train": "a" * 64, "val": "b" * 64, "test": "c" * 64})
    run_hash = hash_identity(identity)
    accuracy = float(f"{np.mean(correct):.7g}")
    cost = {"params": 500, "macs": 2_000_000, "output": [8, 6, 6]}
    content: dict[str, Any] = {
        "schema": SCHEMA,
        "name": f"{run_label(json.loads(choices), list(overrides), seed)}_{run_hash}",
        "hash": run_hash,
        "choices": json.loads(choices),
        "config": config,
        "identity": identity,
        "metrics": {"test/acc": accuracy, "test/loss": 1.0, "val/acc": accuracy, "val/loss": 1.0},
        "best_epoch": 1,
        "epochs": config["epochs"],
        "steps": 10,
        "train_images_left_out": 0,
        "test_correct": pack_bits(correct),
        "evidence": None,
        "gates": None,
        "data": {"digest": identity["data"]["digest"], "images": {"train": 100, "test": len(correct)}, "classes": ["a", "b"]},
        "cost": {"backbone": cost, "neck": {**cost, "params": params, "macs": 4 * params}, "head": cost},
        "neck_input": [8, 6, 6],
        "pretrained": [0, 40],
        "initial_hash": "0" * 64,
        "weights_hash": hash_identity({"run": run_hash}) * 6,
        "git": {"sha": "f" * 40, "dirty": False},
        "code": json.loads(code),
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


def about_run(spec: RunSpec, record: Record) -> dict[str, Any]:
    """The fields by which a made-up record is that of a planned run."""
    data = record.data | {"digest": spec.identity["data"]["digest"]}
    about = {"name": spec.name, "hash": spec.hash, "code": spec.code, "config": spec.resolved, "identity": spec.identity}
    return {**about, "data": data}


def write_synthetic(record: Record, root: Path) -> Path:
    """The folder of a finished run with this record."""
    folder = root / record.name
    folder.mkdir(parents=True)
    (folder / "record.json").write_text(json.dumps(asdict(record)))
    (folder / "config.yaml").write_text("seed: 0\n")
    rows = [f"{epoch},{record.metrics['val/acc'] * (epoch + 1) / record.epochs:.4f}" for epoch in range(record.epochs)]
    (folder / "history.csv").write_text("\n".join(["epoch,val/acc", *rows]) + "\n")
    return folder
