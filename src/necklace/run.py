"""One run: config -> fit -> choose on val -> test once -> record."""

import logging
import os
import platform
import shutil
import time
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from filelock import FileLock, Timeout
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from lightning_fabric.utilities.rank_zero import rank_zero_only
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.callbacks import Callback, RichProgressBar
from rich.console import Console

from necklace.assembly import check_gap, check_stride, datamodule_of, model_of
from necklace.cell import cell_identity, cell_label, code_digest, git_state, hash_identity
from necklace.checkpoints import WholeCheckpointIO, checkpoints
from necklace.data.datamodule import DataModule
from necklace.gates import Gates
from necklace.history import History
from necklace.loggers import finish_wandb
from necklace.model import Model, cost_table, measure_cost, weights_hash
from necklace.ranks import all_gather_object
from necklace.record import SCHEMA, Record, pack_bits, read_record, write_record, write_whole
from necklace.tasks import Task, correctness

SUPERSEDED = "superseded.json"
PACKAGES = ("torch", "torchvision", "pytorch-lightning", "torchmetrics", "timm", "hydra-core", "wandb", "numpy")


class RunFailed(RuntimeError):
    """A run that started and did not finish; its traceback is in `folder`/FAILED."""


class CellBusy(RuntimeError):
    """Another process is training this very cell."""


class CellFailed(RuntimeError):
    """This very cell has failed before, and nobody asked for another try."""


def run_composed(config: DictConfig, alone: bool = True) -> Record:
    """`run` what Hydra has composed in this process."""
    hydra_config = HydraConfig.get()
    choices = {group: str(choice) for group, choice in hydra_config.runtime.choices.items() if "hydra" not in group}
    return run(config, choices, list(hydra_config.overrides.task), alone)


def run(config: DictConfig, choices: dict[str, str], overrides: list[str], alone: bool = True) -> Record:
    """Train and test one cell, or return its record if it has been run.

    Args:
        config: The composed config.
        choices: Config group to chosen name; they name the folder and the table's row.
        overrides: The command's overrides; those of the neck go into the folder's name.
        alone: Whether a person asks for this one run: it then waits for another process that trains the same cell, and what has
            failed is tried again. A study goes on with its next cell instead.

    Returns:
        The record, which is also in the cell's folder as `record.json`.

    Raises:
        CellBusy: Another process trains it, and `alone` is off.
        CellFailed: It has failed before, and neither `alone` nor rerun=failed asks for another try.
        RunFailed: Training failed; the folder holds FAILED with the traceback.
        ValueError: The config asks for what cannot be.
    """
    started = time.perf_counter()
    git_state()  # now: a commit made while this trains is not what it trains with; nor is an edit
    console = Console(soft_wrap=True, highlight=False, quiet=_rank() != 0)
    config.study = str(config.study)  # study=2024 is a number to Hydra
    plain: dict[str, Any] = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)  # pyright: ignore[reportAssignmentType]
    if plain["rerun"] not in (True, False, "stale", "failed"):
        raise ValueError(f"rerun={plain['rerun']}: must be true, false, stale (what other code has trained) or failed")
    strategy = str(plain["trainer"].get("strategy", "auto"))
    if any(kind in strategy for kind in ("spawn", "fork", "notebook")):
        raise ValueError(f"trainer.strategy={strategy}: what its ranks measure does not come back to the record; use ddp")
    data = datamodule_of(plain)
    identity = cell_identity(plain, data.digest)
    cell_hash = hash_identity(identity)
    root = Path(plain["outputs"]) / plain["study"]
    folder = next(iter(sorted(root.glob(f"*_{cell_hash}"))), None)
    if folder is None:
        folder = root / f"{cell_label(choices, overrides, plain['seed'])}_{cell_hash}"
    # Lightning starts the other ranks of a group as this same command; the first holds the cell and has made room by then.
    if _rank():
        return _run(config, plain, data, folder, identity, choices, overrides, console, started)
    _make_root(root)
    with _held(root, cell_hash, folder, alone, console):
        record = read_record(folder / "record.json") if (folder / "record.json").exists() else None
        stale = "" if record is None or record.code == code_digest(plain) else " STALE: the code has changed since."
        if plain["rerun"] is True or (plain["rerun"] == "stale" and stale):
            _supersede(folder)
        elif record:
            figures = _shown(record.figures)
            console.print(f"This run exists: [bold]{folder}[/] ({figures}).{stale} rerun=true trains it again.")
            return record
        if not alone and plain["rerun"] != "failed" and (folder / "FAILED").exists():
            raise CellFailed(f"{folder}: has failed; rerun=failed tries again")
        _make_room(folder, plain, console)
        return _run(config, plain, data, folder, identity, choices, overrides, console, started)


def _make_root(root: Path) -> None:
    """Make the study's folder, and find out now whether it can be written, not after an hour of training.

    Raises:
        OSError: It cannot.
    """
    probe = root / f".write.{os.getpid()}"
    try:
        root.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"\0" * 4096)
        probe.unlink()
    except OSError as error:
        raise OSError(f"outputs={root.parent}: cannot write to {root} ({error.strerror or error})") from error


@contextmanager
def _held(root: Path, cell_hash: str, folder: Path, wait: bool, console: Console) -> Iterator[None]:
    """Hold the cell against other processes; the system lets go of it when this one ends, however it ends."""
    locks = root / ".locks"
    locks.mkdir(exist_ok=True)
    lock = FileLock(locks / f"{cell_hash}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        if not wait:
            raise CellBusy(f"{folder}: another process is training it") from None
        console.print(f"{folder}: another process is training it; waiting for it to end")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _supersede(folder: Path) -> None:
    """Clear a cell's folder; its record stays, under another name, until there is a new one."""
    if not folder.exists():
        return
    if (folder / "record.json").exists():
        os.replace(folder / "record.json", folder / SUPERSEDED)
    for path in folder.iterdir():
        if path.name != SUPERSEDED:
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def _make_room(folder: Path, plain: dict[str, Any], console: Console) -> None:
    """Ready the folder for a run; a checkpoint stays if it was written by the code that will go on from it."""
    code, checkpoints = folder / "code", folder / "checkpoints"
    if checkpoints.exists() and (not code.exists() or code.read_text() != code_digest(plain)):
        console.print(f"{folder}: its checkpoint was written by other code; starting from the first epoch")
        shutil.rmtree(checkpoints)
    folder.mkdir(exist_ok=True)
    for unfinished in [*folder.glob(".*"), *checkpoints.glob(".*")]:  # files that a killed process was writing
        unfinished.unlink()
    (folder / "FAILED").unlink(missing_ok=True)
    write_whole(code, code_digest(plain))
    write_whole(folder / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(plain)))


def _run(
    config: DictConfig,
    plain: dict[str, Any],
    data: DataModule,
    folder: Path,
    identity: dict[str, Any],
    choices: dict[str, str],
    overrides: list[str],
    console: Console,
    started: float,
) -> Record:
    """Train, and leave FAILED behind where that raises."""
    console.print(f"[bold]{folder}[/]")
    finished: Record | None = None
    try:
        with _quiet_lightning():
            record = _train(config, plain, data, folder, identity, choices, overrides, console, started)
        finished = record
        if plain["callbacks"]["pictures"] and _rank() == 0:
            _draw(folder, console)
    except Exception as error:
        write_whole(folder / "FAILED", traceback.format_exc())
        words = "\n".join([f"{error}", *getattr(error, "__notes__", [])])
        raise RunFailed(f"{words}\nFAILED; the traceback is in {folder}/FAILED") from error
    finally:
        artifact = (plain["logger"] or {}).get("artifact")
        line = finish_wandb(finished, folder / "checkpoints" / "best.ckpt" if artifact else None, folder / "pictures")
        if line:
            console.print(line)
    return record


def _train(
    config: DictConfig,
    plain: dict[str, Any],
    data: DataModule,
    folder: Path,
    identity: dict[str, Any],
    choices: dict[str, str],
    overrides: list[str],
    console: Console,
    started: float,
) -> Record:
    model = model_of(config, data)
    check_gap(data, model)
    check_stride(data, model)
    check_room(folder, model)
    initial_hash = weights_hash(model)
    costs = measure_cost(model, data.size)
    console.print(cost_table(costs, data.size))
    logger = False
    if config.logger and _rank() == 0:
        about = {"folder": folder, "config": plain, "choices": choices, "overrides": overrides}
        logger = instantiate(config.logger, _partial_=True)(**about) or False
    task = instantiate(
        config.task,
        model=model,
        classes=data.classes,
        optimizer=instantiate(config.optimizer),
        schedule=instantiate(config.schedule),
        seed=plain["seed"],
    )
    if task.label_axes != data.splits["train"].labels.ndim:
        fitting = "task=classification" if task.label_axes == 2 else "task=multilabel"
        raise ValueError(f"data={choices['data']} does not go with this task: take {fitting}")
    terminal = console.is_terminal
    history = History(folder / "history.csv", None if terminal else console)
    gates = Gates(plain["callbacks"]["gates"], folder / "gates.parquet", data.classes, console)
    kept = checkpoints(folder / "checkpoints", task.monitor)
    callbacks: list[Callback] = [gates, history, *kept, *([RichProgressBar()] if terminal else [])]
    # Filling every fresh tensor with NaN, which comes with deterministic algorithms, costs a quarter of the time on a CPU.
    torch.utils.deterministic.fill_uninitialized_memory = False  # pyright: ignore[reportAttributeAccessIssue]
    trainer = pl.Trainer(
        **{"enable_progress_bar": terminal} | plain["trainer"],
        max_epochs=plain["epochs"],
        logger=logger,
        callbacks=callbacks,
        plugins=[WholeCheckpointIO()],
        default_root_dir=folder,
        num_sanity_val_steps=0,
        enable_model_summary=False,
        use_distributed_sampler=False,  # the plan of batches knows the ranks; padding a split would count images twice
    )
    last = folder / "checkpoints" / "last.ckpt"
    trainer.fit(task, data, ckpt_path=str(last) if last.exists() else None, weights_only=True)
    fit_seconds = sum(row["seconds"] for row in history.rows)
    chosen = folder / "checkpoints" / "best.ckpt"
    if not chosen.exists():
        raise ValueError(f"trainer: in {plain['epochs']} epochs val was never judged, so no checkpoint could be chosen on it")
    checkpoint = torch.load(chosen, map_location="cpu", weights_only=True)
    task.load_state_dict(checkpoint["state_dict"])
    gates.chosen = int(checkpoint["epoch"]), int(checkpoint["global_step"])
    trainer.loggers = []  # what follows is for the record; a logger would take it for one more epoch
    figures = dict(trainer.validate(task, data, verbose=False)[0])
    test_correct = None
    if "test" in data.splits:
        figures |= trainer.test(task, data, verbose=False)[0]
        parts = [part for rank in all_gather_object(task.test_correct) for part in rank]
        test_correct = pack_bits(correctness(parts, len(data.splits["test"])))
        figures |= _test_by_size(trainer, task, data)
    images_seen = sum(row["images"] for row in history.rows)
    record = Record(
        schema=SCHEMA,
        cell=folder.name,
        cell_hash=hash_identity(identity),
        choices=choices,
        config=plain,
        identity=identity,
        # torchmetrics computes in float32: digits after the seventh are noise that would make equal runs look different.
        figures={name: float(f"{value:.7g}") for name, value in figures.items()},
        best_epoch=int(checkpoint["epoch"]),
        epochs=plain["epochs"],
        steps=trainer.global_step,
        train_images_left_out=len(data.splits["train"]) * plain["epochs"] - images_seen,
        test_correct=test_correct,
        gates=gates.summary(),
        data={
            "digest": data.digest,
            "images": {name: len(split) for name, split in data.splits.items()},
            "classes": list(data.classes),
            "skipped": [list(item) for item in data.skipped],
        },
        cost={name: {"params": c.params, "macs": c.macs, "output": list(c.output)} for name, c in costs.items()},
        neck_input=list(costs["backbone"].output),
        pretrained=list(model.backbone.pretrained),
        initial_hash=initial_hash,
        weights_hash=weights_hash(task.model),
        git=git_state(),
        code=code_digest(plain),
        versions=versions(),
        device={
            "kind": trainer.strategy.root_device.type,
            "name": device_name(trainer.strategy.root_device),
            "threads": torch.get_num_threads(),
        },
        world_size=trainer.world_size,
        fit_seconds=fit_seconds,
        images_per_s=images_seen / fit_seconds,
        wall_seconds=time.perf_counter() - started,
        resumed=history.resumed,
    )
    if trainer.is_global_zero:
        write_record(record, folder / "record.json")
        (folder / SUPERSEDED).unlink(missing_ok=True)
    console.print(f"best epoch {record.best_epoch + 1}/{record.epochs}: {_shown(record.figures)}")
    return record


def _draw(folder: Path, console: Console) -> None:
    """Draw the pictures of the finished cell; where that fails, its record stands nevertheless."""
    try:
        from necklace.pictures import draw_cell  # here, as few runs ask for it, and matplotlib takes its time

        lines = draw_cell(folder)
    except Exception as error:
        lines = [f"pictures: {error}; the run itself is finished, and python inspect_run.py {folder} tries again"]
    for line in lines:
        console.print(line, markup=False)


def _test_by_size(trainer: pl.Trainer, task: Task, data: DataModule) -> dict[str, float]:
    """The test metrics with every image brought to one size, for each of the sizes asked for: `test/acc@24`."""
    figures = {}
    for size in data.eval_sizes:
        data.test_size = size
        results = trainer.test(task, data, verbose=False)[0]
        figures |= {f"{name}@{size}": value for name, value in results.items()}
    data.test_size = None
    return figures


def _rank() -> int:
    """This process's rank, known before there is a trainer: Lightning reads it from the environment that its launcher sets."""
    return getattr(rank_zero_only, "rank", None) or 0


@contextmanager
def _quiet_lightning() -> Iterator[None]:
    """Keep Lightning's advertisements off the user's screen, and its warnings about what is meant to be as it is."""
    logger = logging.getLogger("pytorch_lightning")
    level = logger.level
    logger.setLevel(logging.WARNING)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r".*isinstance\(treespec, LeafSpec\)")  # Lightning's own call
        warnings.filterwarnings("ignore", message=r"The number of training batches .* logging interval")  # epochs are logged
        warnings.filterwarnings("ignore", message=r".*could not find the monitored key")  # val need not be judged each epoch
        warnings.filterwarnings("ignore", message=r"Checkpoint directory .* exists and is not empty")  # a resumed run's
        try:
            yield
        finally:
            logger.setLevel(level)


def check_room(folder: Path, model: Model) -> None:
    """Find out before training whether the disk holds the checkpoints: weights and two moments of the optimizer each.

    Raises:
        OSError: It does not.
    """
    checkpoint = 3 * sum(value.numel() * value.element_size() for value in model.state_dict().values())
    # The best, the last, and the one that is being written to replace one of them.
    needed, free = 3 * checkpoint + 2**20, shutil.disk_usage(folder).free
    if free < needed:
        raise OSError(f"{folder}: {free / 2**20:.1f} MiB are free, the checkpoints of this run need {needed / 2**20:.1f} MiB")


@cache
def versions() -> dict[str, str]:
    """Versions of Python and of the packages that results depend on; looked up once a process."""
    return {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}}


def device_name(device: torch.device) -> str:
    """The model of the GPU or the CPU."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines() if cpuinfo.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()


def _shown(figures: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in sorted(figures.items()))
