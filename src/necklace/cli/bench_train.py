"""CPU time of a training step beside the model: a run, logged to W&B offline, against a bare loop of the same steps."""

import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.utils import instantiate
from omegaconf import OmegaConf
from pytorch_lightning.callbacks import Callback
from rich.console import Console
from torch.nn.functional import cross_entropy

from necklace.build import datamodule_of, model_of
from necklace.cli.bench_machine import Machine
from necklace.cli.bench_report import Report
from necklace.cli.train import CONFIGS
from necklace.config import Composer, choices_of, resolved
from necklace.data.datamodule import Batch, DataModule
from necklace.run.conditions import quiet_lightning
from necklace.run.fit import task_of, trainer_of
from necklace.run.history import History
from necklace.run.loggers import RunLoggers
from necklace.spec import RunSpec, run_spec

OPTIONS = ("backbone=cifar_resnet", "data.source.train=3200", "data.source.test=100", "data.size=16", "epochs=99")


def train(report: Report, batch_size: int, rounds: int, chunk: int) -> None:
    """Measure the steps of a run and those of a bare loop in turn, in one process.

    A bare loop does forward, loss, backward and update, and nothing else, with batches that are made already.

    Args:
        report: Where the table goes.
        batch_size: Images in a step.
        rounds: Chunks of each kind; the table shows medians.
        chunk: Steps of a chunk.
    """
    machine = Machine()
    os.environ["WANDB_MODE"] = "offline"
    with tempfile.TemporaryDirectory() as scratch, initialize_config_dir(str(CONFIGS), version_base="1.3"):
        spec = _spec([*OPTIONS, f"batch_size={batch_size}", f"outputs={scratch}"])
        data = datamodule_of(spec.resolved)
        loops = {name: _bare(spec, data, plain) for name, plain in (("bare", False), ("bare, plain", True))}
        meter = _Meter(loops | {"data": _prepared(data)}, rounds, chunk)
        folder = Path(scratch) / spec.name  # W&B's id is taken from the name
        folder.mkdir()
        loggers = RunLoggers(spec, folder)
        with quiet_lightning():
            history = History(folder / "history.csv", Console(quiet=True))
            trainer = trainer_of(spec, folder, [meter, history], loggers.open())
            trainer.fit(task_of(spec, data), data)
        loggers.close(None, folder, folder, lambda line: None)
    ms = {name: 1000 * statistics.median(seconds) for name, seconds in meter.seconds.items()}
    beyond = {name: ms["run"] - ms["data"] - ms[name] for name in loops}
    rows = [
        ["a run", ms["run"], None],
        ["of it: batches gathered, augmented, normalised", ms["data"], None],
        ["bare loop, the run's optimizer", ms["bare"], beyond["bare"]],
        ["bare loop, AdamW as torch makes it by default", ms["bare, plain"], beyond["bare, plain"]],
    ]
    title = f"ms of CPU time a step: ResNet-8, {batch_size} images of 16x16, W&B offline; median of {rounds} x {chunk} steps"
    columns = {"what": "", "ms a step": ".2f", "ms of the run beyond it and the batches": ".2f"}
    report.write(title, columns, rows, machine)


class _Meter(Callback):
    """Times chunks of the run's steps, and between two of them a chunk of each bare loop; then it ends the run.

    Attributes:
        seconds: Kind of loop to the CPU seconds of a step, a value for each chunk.
    """

    def __init__(self, bare: dict[str, Callable[[], Any]], rounds: int, chunk: int) -> None:
        self._bare, self._rounds, self._chunk = bare, rounds, chunk
        self._steps, self._began = 0, 0.0
        self.seconds: dict[str, list[float]] = {name: [] for name in ("run", *bare)}

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any, **kwargs: Any) -> None:
        self._steps += 1
        if self._steps % self._chunk:
            return
        if self._steps > self._chunk:  # the first chunk warms up
            self.seconds["run"].append((time.process_time() - self._began) / self._chunk)
        for name, step in self._bare.items():
            began = time.process_time()
            for _ in range(self._chunk):
                step()
            if self._steps > self._chunk:
                self.seconds[name].append((time.process_time() - began) / self._chunk)
        if len(self.seconds["run"]) >= self._rounds:
            trainer.should_stop = True
        self._began = time.process_time()


def _bare(spec: RunSpec, data: DataModule, plain: bool) -> Callable[[], None]:
    """One step of a bare loop over prepared batches; `plain`: with AdamW as torch makes it by default."""
    model = model_of(spec.config, data)
    make = torch.optim.AdamW if plain else instantiate(spec.config.optimizer)
    optimizer = make(model.parameters())
    batches: list[Batch] = [data.prepare(batch, augment=True) for batch in data.train_dataloader()]
    place = 0

    def step() -> None:
        nonlocal place
        batch = batches[place % len(batches)]
        place += 1
        optimizer.zero_grad()
        cross_entropy(model(batch.images), batch.labels).backward()
        optimizer.step()

    return step


def _prepared(data: DataModule) -> Callable[[], None]:
    """One batch as a run makes it."""
    batches = iter(())

    def step() -> None:
        nonlocal batches
        batch = next(batches, None)
        if batch is None:
            batches = iter(data.train_dataloader())
            batch = next(batches)
        data.prepare(batch, augment=True)

    return step


def _spec(overrides: list[str]) -> RunSpec:
    config = Composer(GlobalHydra.instance().config_loader(), "train").compose(overrides)
    choices = choices_of(config.hydra)
    OmegaConf.set_struct(config, False)
    del config["hydra"]
    return run_spec(resolved(config), choices, overrides, [])
