"""The walk of a run: config -> model -> fit -> choose on val -> test once -> record."""

import uuid
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytorch_lightning as pl
import torch
from hydra.utils import instantiate
from pytorch_lightning.profilers import PassThroughProfiler
from rich.console import Console

from necklace.build import model_of
from necklace.data.contents import data_line
from necklace.data.datamodule import DataModule
from necklace.diagnostics.gate_callback import Gates
from necklace.distributed import all_gather_object
from necklace.model import move_last_place, state_hash, weights_hash
from necklace.options.trainer import OWN
from necklace.run.bar import Bar
from necklace.run.checkpoints import WholeCheckpointIO, checkpoints
from necklace.run.checks import check_parts, premise_note
from necklace.run.conditions import cluster, device_name, hide_absent_gpus, is_single, precision_note
from necklace.run.costs import Cost, cost_table, measure_cost
from necklace.run.history import History
from necklace.run.signals import Signals
from necklace.run.stamp import check_own
from necklace.seeding import seed_of
from necklace.tasks import Task, correctness
from necklace.tasks.class_weights import balanced_weights
from necklace.tasks.shared_layers import SharedLayers

if TYPE_CHECKING:  # neither decides what comes out, so neither belongs to the code version
    from necklace.run.folder import RunFolder
    from necklace.run.ranks import Ranks
    from necklace.spec import RunSpec

SAMPLE = 2000  # training images that a backbone may look at before the first step


def task_of(spec: "RunSpec", data: DataModule) -> Task:
    """The task of a run with its model, before the first step.

    Raises:
        ValueError: Data, model and task do not go together.
    """
    config = spec.config
    model = model_of(config, data)
    optimizer, schedule = instantiate(config.optimizer), instantiate(config.schedule)
    about = {
        "model": model,
        "classes": data.classes,
        "optimizer": optimizer,
        "schedule": schedule,
        "seed": seed_of(spec.resolved, "augment"),
    }
    task: Task = instantiate(config.task, **about, **_balance(spec.resolved, data))
    check_parts(data, model, task, spec.choices["data"])
    model.backbone.prepare(data.sample(SAMPLE))
    return task


def fit(
    spec: "RunSpec",
    data: DataModule,
    task: Task,
    folder: "RunFolder",
    open_loggers: Callable[[], Any],
    ranks: "Ranks",
    console: Console,
) -> dict[str, Any]:
    """Train a run, choose its weights on val, and test them once.

    Args:
        spec: The run.
        data: Its data.
        task: Its task, from `task_of`.
        folder: Where its files go; ready to be written.
        open_loggers: Gives Lightning's loggers, or False for none; called when nothing can be refused any more.
        ranks: The processes that train it, and the checkpoint that they go on from.
        console: Where to print.

    Returns:
        The fields of the record that training gives, complete on every rank; `test_correct` as bool [N], or None.
    """
    model: Any = task.model
    notes = [*data.notes, *filter(None, [premise_note(data, model)])]
    for line in (data_line(data.splits, data.classes, data.skipped), *(f"note: {note}" for note in notes)):
        console.print(line, markup=False)
    initial_hash, costs = weights_hash(model), measure_cost(model, data.size)
    console.print(cost_table(costs, data.size))
    move_last_place(model, (spec.resolved.get("streams") or {}).get("rounding", 0))

    history = History(folder.history_path, console)
    gates = Gates(spec.resolved["callbacks"]["gates"], folder.gates_path, data.classes, console)
    kept = checkpoints(folder.checkpoints, task.monitor)
    bar = [Bar(task.monitor)] if console.is_terminal and spec.resolved["trainer"].get("enable_progress_bar", True) else []
    trainer = trainer_of(spec, folder.path, [ranks.begun, gates, history, *kept, *bar], open_loggers())
    if note := precision_note(str(trainer.precision), trainer.strategy.root_device):
        console.print(f"note: {note}", markup=False)
    ranks.attach(trainer)
    trainer.fit(task, data, ckpt_path=None if ranks.resume is None else str(ranks.resume), weights_only=True)

    best = _best_checkpoint(folder, task, spec, kept[0].best_epoch)
    gates.chosen = int(best["epoch"]), int(best["global_step"])
    trainer.loggers = []  # what follows is for the record; a logger would take it for one more epoch
    metrics, test_correct, predicted, evidence = _evaluated(trainer, task, data, folder)
    _check_judged(model, best, folder.best)
    return {
        "metrics": metrics,
        "best_epoch": int(best["epoch"]),
        "test_correct": test_correct,
        "evidence": evidence,
        "gates": gates.summary(),
        "initial_hash": initial_hash,
        "weights_hash": weights_hash(task.model),
        "pretrained": list(model.backbone.pretrained),
        **_cost_fields(costs),
        "data": _data_field(data) | {"notes": notes, "predicted": predicted},
        **_training_fields(spec, data, trainer, history),
    }


def asked_monitor(resolved: dict[str, Any]) -> str | None:
    """The val metric that a config asks for to choose the checkpoint; None for the task's own."""
    options = resolved["task"]
    if options.get("monitor") or "monitor" not in options:
        return options.get("monitor")
    # By accuracy the best epoch could be one that takes every image for the common class.
    balances = options.get("class_weights") is not None or resolved["data"].get("sampler") == "balanced"
    return "val/balanced_acc" if balances else None


def _balance(resolved: dict[str, Any], data: DataModule) -> dict[str, Any]:
    """What a task's options on imbalance, where it has them, stand for on these data."""
    found: dict[str, Any] = {}
    if resolved["task"].get("class_weights") == "balanced":
        found["class_weights"] = balanced_weights(data.splits["train"].labels, len(data.classes))
    if "monitor" in resolved["task"]:
        found["monitor"] = asked_monitor(resolved)
    return found


class Unprofiled(PassThroughProfiler):
    """No profile, without the generator that Lightning makes for each of the forty hooks of a step."""

    _nothing = nullcontext()

    def profile(self, action_name: str) -> Any:
        """A context that does nothing."""
        return self._nothing


def trainer_of(spec: "RunSpec", root: Path, callbacks: list[Any], loggers: Any) -> pl.Trainer:
    """Lightning's trainer; the callbacks stand in the order in which they have to be called.

    Args:
        spec: The run.
        root: Where Lightning may write, into a folder of its own.
        callbacks: All of the run's.
        loggers: Lightning's loggers, or False for none.
    """
    hide_absent_gpus()
    # Filling every fresh tensor with NaN, which comes with deterministic algorithms, costs a quarter of the time on a CPU.
    torch.utils.deterministic.fill_uninitialized_memory = False  # pyright: ignore[reportAttributeAccessIssue]
    options: Any = {name: value for name, value in spec.resolved["trainer"].items() if name not in OWN}
    plugins: list[Any] = [WholeCheckpointIO(spec.hash), cluster(options)]
    if options.get("sync_batchnorm") and not is_single(options):
        plugins.append(SharedLayers())
    usual = {"enable_progress_bar": any(isinstance(each, Bar) for each in callbacks), "profiler": Unprofiled()}
    return pl.Trainer(
        **usual | options,
        max_epochs=spec.resolved["epochs"],
        logger=loggers,
        callbacks=[Signals(), *callbacks],
        plugins=plugins,
        # A folder that nobody has: in a job of SLURM, Lightning would load a file called hpc_ckpt_1.ckpt from it.
        default_root_dir=root / f"lightning-{uuid.uuid4().hex[:8]}",
        num_sanity_val_steps=0,
        enable_model_summary=False,
        use_distributed_sampler=False,  # the plan of batches knows the ranks; padding a split would count images twice
    )


def _best_checkpoint(folder: "RunFolder", task: Task, spec: "RunSpec", best_epoch: int | None) -> dict[str, Any]:
    """Load the weights that val chose into the task; gives their checkpoint.

    Raises:
        ValueError: Val was never evaluated, or the checkpoint is of another epoch than val chose.
        ForeignCheckpoint: It is another run's.
    """
    if not folder.best.exists():
        epochs = spec.resolved["epochs"]
        raise ValueError(f"trainer: in {epochs} epochs val was never evaluated, so no checkpoint could be chosen on it")
    checkpoint = torch.load(folder.best, map_location="cpu", weights_only=True)
    check_own(checkpoint, folder.best, spec.hash)
    if checkpoint["epoch"] != best_epoch:
        raise ValueError(f"{folder.best}: is of epoch {checkpoint['epoch'] + 1}, but val chose epoch {(best_epoch or 0) + 1}")
    task.load_state_dict(checkpoint["state_dict"])
    return checkpoint


def _check_judged(model: torch.nn.Module, best: dict[str, Any], path: Path) -> None:
    """Refuse figures of other weights than those that val chose, whatever may have put them there.

    Raises:
        RuntimeError: They are of others.
    """
    judged, chosen = weights_hash(model), state_hash(best["state_dict"], "model.")
    if judged != chosen:
        raise RuntimeError(
            f"val and test judged other weights ({judged[:10]}) than those of {path} ({chosen[:10]}): no record is written"
        )


def _evaluated(
    trainer: pl.Trainer, task: Task, data: DataModule, folder: "RunFolder"
) -> tuple[dict[str, float], np.ndarray | None, dict[str, list[int]], dict[str, str] | None]:
    """The metrics of the task's weights on val and test, and where they come from.

    That is which test images are right, how many are taken for each class, and the record's `evidence`.
    """
    metrics = dict(trainer.validate(task, data, verbose=False)[0])
    test_correct, predicted, evidence = None, dict(task.predicted), None
    if "test" in data.splits:
        metrics |= trainer.test(task, data, verbose=False)[0]
        predicted = dict(task.predicted)
        parts = [part for rank in all_gather_object(task.test_correct) for part in rank]
        if parts or task.evidence is None:
            test_correct = correctness(parts, len(data.splits["test"])).numpy()
        evidence = _written(task, folder, len(data.splits["test"])) if task.evidence is not None else None
        for size in data.eval_sizes:  # every image brought to one size: `test/acc@24`
            data.test_size = size
            metrics |= {f"{name}@{size}": value for name, value in trainer.test(task, data, verbose=False)[0].items()}
        data.test_size = None
    # torchmetrics computes in float32: digits after the seventh are noise that would make equal runs look different.
    return {name: float(f"{value:.7g}") for name, value in metrics.items()}, test_correct, predicted, evidence


def _written(task: Task, folder: "RunFolder", images: int) -> dict[str, str]:
    """Write the evidence of the last test, of so many images; the record's field about it, on every rank.

    Raises:
        ValueError: It is of another number of images.
    """
    if len(task.evidence) != images:
        raise ValueError(f"evidence of {len(task.evidence)} images for {images} test images")
    path = folder.evidence_path
    (sha256, *_) = all_gather_object(task.evidence.save(path) if task.global_rank == 0 else "")
    return {"file": path.name, "kind": str(task.evidence_kind), "sha256": sha256}


def _cost_fields(costs: dict[str, Cost]) -> dict[str, Any]:
    return {
        "cost": {name: {"params": c.params, "macs": c.macs, "output": list(c.output)} for name, c in costs.items()},
        "neck_input": list(costs["backbone"].output),
    }


def _data_field(data: DataModule) -> dict[str, Any]:
    return {
        "digest": data.digest,
        "images": {name: len(split) for name, split in data.splits.items()},
        "classes": list(data.classes),
        "class_counts": data.class_counts(),
        "skipped": [list(item) for item in data.skipped],
        "notes": list(data.notes),
    }


def _training_fields(spec: "RunSpec", data: DataModule, trainer: pl.Trainer, history: History) -> dict[str, Any]:
    """How the training went: epochs, steps, images, seconds, and on what."""
    epochs, device = spec.resolved["epochs"], trainer.strategy.root_device
    images_seen = sum(row["images"] for row in history.rows)
    fit_seconds = sum(row["seconds"] for row in history.rows)
    where = {"kind": device.type, "name": device_name(device), "threads": torch.get_num_threads()}
    if (
        len(history.segments) > 1
    ):  # other processes or another machine went on: no run of a table that trained on one is like it
        where["segments"] = history.segments
    return {
        "epochs": epochs,
        "steps": trainer.global_step,
        "train_images_left_out": len(data.splits["train"]) * epochs - images_seen,
        "device": where,
        "world_size": trainer.world_size,
        "fit_seconds": fit_seconds,
        "images_per_s": images_seen / fit_seconds,
        "resumed": history.resumed,
    }
