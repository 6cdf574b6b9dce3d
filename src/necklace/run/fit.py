"""The walk of a run: config -> model -> fit -> choose on val -> test once -> record."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import pytorch_lightning as pl
import torch
from hydra.utils import instantiate
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from pytorch_lightning.callbacks import RichProgressBar
from rich.console import Console

from necklace.build import model_of
from necklace.data.datamodule import DataModule
from necklace.diagnostics.gate_callback import Gates
from necklace.distributed import all_gather_object
from necklace.model import weights_hash
from necklace.run.checkpoints import WholeCheckpointIO, checkpoints
from necklace.run.checks import check_parts, check_room
from necklace.run.conditions import device_name, is_single
from necklace.run.costs import Cost, cost_table, measure_cost
from necklace.run.history import History
from necklace.tasks import Task, correctness

if TYPE_CHECKING:  # neither decides what comes out, so neither belongs to the code version
    from necklace.run.folder import RunFolder
    from necklace.spec import RunSpec


def fit(
    spec: "RunSpec", data: DataModule, folder: "RunFolder", open_logger: Callable[[], Any], console: Console
) -> dict[str, Any]:
    """Train a run, choose its weights on val, and test them once.

    Args:
        spec: The run.
        data: Its data.
        folder: Where its files go; ready to be written.
        open_logger: Gives Lightning's logger, or False for none; called when nothing can be refused any more.
        console: Where to print.

    Returns:
        The fields of the record that training gives, complete on every rank; `test_correct` as bool [N], or None.
    """
    config = spec.config
    model = model_of(config, data)
    optimizer, schedule = instantiate(config.optimizer), instantiate(config.schedule)
    task: Task = instantiate(
        config.task, model=model, classes=data.classes, optimizer=optimizer, schedule=schedule, seed=spec.seed
    )
    check_parts(data, model, task, spec.choices["data"])
    check_room(folder.path, model)
    initial_hash, costs = weights_hash(model), measure_cost(model, data.size)
    console.print(cost_table(costs, data.size))

    history = History(folder.history_path, None if console.is_terminal else console)
    gates = Gates(spec.resolved["callbacks"]["gates"], folder.gates_path, data.classes, console)
    trainer = _trainer(spec, folder, task.monitor, [gates, history], open_logger(), console.is_terminal)
    trainer.fit(task, data, ckpt_path=str(folder.last) if folder.last.exists() else None, weights_only=True)

    best = _best_checkpoint(folder, task, spec.resolved["epochs"])
    gates.chosen = int(best["epoch"]), int(best["global_step"])
    trainer.loggers = []  # what follows is for the record; a logger would take it for one more epoch
    metrics, test_correct = _evaluated(trainer, task, data)
    return {
        "metrics": metrics,
        "best_epoch": int(best["epoch"]),
        "test_correct": test_correct,
        "gates": gates.summary(),
        "initial_hash": initial_hash,
        "weights_hash": weights_hash(task.model),
        "pretrained": list(model.backbone.pretrained),
        **_cost_fields(costs),
        **_data_fields(data),
        **_training_fields(spec, data, trainer, history),
    }


def _trainer(
    spec: "RunSpec", folder: "RunFolder", monitor: str, callbacks: list[Any], logger: Any, terminal: bool
) -> pl.Trainer:
    """Lightning's trainer; the callbacks stand in the order in which they have to be called."""
    # Filling every fresh tensor with NaN, which comes with deterministic algorithms, costs a quarter of the time on a CPU.
    torch.utils.deterministic.fill_uninitialized_memory = False  # pyright: ignore[reportAttributeAccessIssue]
    options = spec.resolved["trainer"]
    plugins: list[Any] = [WholeCheckpointIO()]
    if is_single(options):  # else Lightning would take its rank from whatever job of a cluster this process is in
        plugins.append(LightningEnvironment())
    bar = [RichProgressBar()] if terminal else []
    return pl.Trainer(
        **{"enable_progress_bar": terminal} | options,
        max_epochs=spec.resolved["epochs"],
        logger=logger,
        callbacks=[*callbacks, *checkpoints(folder.checkpoints, monitor), *bar],
        plugins=plugins,
        default_root_dir=folder.path,
        num_sanity_val_steps=0,
        enable_model_summary=False,
        use_distributed_sampler=False,  # the plan of batches knows the ranks; padding a split would count images twice
    )


def _best_checkpoint(folder: "RunFolder", task: Task, epochs: int) -> dict[str, Any]:
    """Load the weights that val chose into the task; gives their checkpoint.

    Raises:
        ValueError: Val was never evaluated.
    """
    if not folder.best.exists():
        raise ValueError(f"trainer: in {epochs} epochs val was never evaluated, so no checkpoint could be chosen on it")
    checkpoint = torch.load(folder.best, map_location="cpu", weights_only=True)
    task.load_state_dict(checkpoint["state_dict"])
    return checkpoint


def _evaluated(trainer: pl.Trainer, task: Task, data: DataModule) -> tuple[dict[str, float], np.ndarray | None]:
    """The metrics of the task's weights on val and test, and which test images are right."""
    metrics = dict(trainer.validate(task, data, verbose=False)[0])
    test_correct = None
    if "test" in data.splits:
        metrics |= trainer.test(task, data, verbose=False)[0]
        parts = [part for rank in all_gather_object(task.test_correct) for part in rank]
        test_correct = correctness(parts, len(data.splits["test"])).numpy()
        for size in data.eval_sizes:  # every image brought to one size: `test/acc@24`
            data.test_size = size
            metrics |= {f"{name}@{size}": value for name, value in trainer.test(task, data, verbose=False)[0].items()}
        data.test_size = None
    # torchmetrics computes in float32: digits after the seventh are noise that would make equal runs look different.
    return {name: float(f"{value:.7g}") for name, value in metrics.items()}, test_correct


def _cost_fields(costs: dict[str, Cost]) -> dict[str, Any]:
    return {
        "cost": {name: {"params": c.params, "macs": c.macs, "output": list(c.output)} for name, c in costs.items()},
        "neck_input": list(costs["backbone"].output),
    }


def _data_fields(data: DataModule) -> dict[str, Any]:
    content = {
        "digest": data.digest,
        "images": {name: len(split) for name, split in data.splits.items()},
        "classes": list(data.classes),
        "skipped": [list(item) for item in data.skipped],
    }
    return {"data": content}


def _training_fields(spec: "RunSpec", data: DataModule, trainer: pl.Trainer, history: History) -> dict[str, Any]:
    """How the training went: epochs, steps, images, seconds, and on what."""
    epochs, device = spec.resolved["epochs"], trainer.strategy.root_device
    images_seen = sum(row["images"] for row in history.rows)
    fit_seconds = sum(row["seconds"] for row in history.rows)
    return {
        "epochs": epochs,
        "steps": trainer.global_step,
        "train_images_left_out": len(data.splits["train"]) * epochs - images_seen,
        "device": {"kind": device.type, "name": device_name(device), "threads": torch.get_num_threads()},
        "world_size": trainer.world_size,
        "fit_seconds": fit_seconds,
        "images_per_s": images_seen / fit_seconds,
        "resumed": history.resumed,
    }
