"""One run: config -> fit -> choose on val -> test once -> record."""

import hashlib
import json
import logging
import platform
import re
import shutil
import subprocess
import time
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.callbacks import Callback, ModelCheckpoint, RichProgressBar
from rich.console import Console

from necklace.backbones import receptive_field
from necklace.data.augment import Augmentation
from necklace.data.datamodule import DataModule
from necklace.history import History
from necklace.loggers import finish_wandb
from necklace.model import Model, build_model, cost_table, measure_cost, weights_hash
from necklace.record import SCHEMA, Record, pack_bits, read_record, write_record, write_whole
from necklace.tasks import correctness

# What a run's result does not depend on, so that its identity must not either. All else counts: an option too many in the
# identity makes a new cell, which costs time; a forgotten one would pass off one cell's result as another's.
NEUTRAL = {
    "": {"logger", "outputs", "study", "rerun"},
    "data": {"source", "root", "on_corrupt"},  # the content's digest stands for these
    "backbone": {"pretrained"},  # likewise
    "trainer": {
        "accelerator",
        "devices",
        "num_nodes",
        "strategy",
        "deterministic",
        "log_every_n_steps",
        "enable_progress_bar",
    },
}
PACKAGES = ("torch", "torchvision", "pytorch-lightning", "torchmetrics", "timm", "hydra-core", "wandb", "numpy")


class RunFailed(RuntimeError):
    """A run that started and did not finish; its traceback is in `folder`/FAILED."""


def run(config: DictConfig, choices: dict[str, str], overrides: list[str]) -> Record:
    """Train and test one cell, or return its record if it has been run.

    Args:
        config: The composed config.
        choices: Config group to chosen name; they name the folder and the table's row.
        overrides: The command's overrides; those of the neck go into the folder's name.

    Returns:
        The record, which is also in the cell's folder as `record.json`.

    Raises:
        RunFailed: Training failed; the folder holds FAILED with the traceback.
        ValueError: The config asks for what cannot be.
    """
    started = time.perf_counter()
    console = Console(soft_wrap=True, highlight=False)
    plain: dict[str, Any] = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)  # pyright: ignore[reportAssignmentType]
    data = _data(plain)
    identity = cell_identity(plain, data.digest())
    cell_hash = hash_identity(identity)
    root = Path(plain["outputs"]) / plain["study"]
    folder = next(iter(sorted(root.glob(f"*_{cell_hash}"))), None)
    if folder is None:
        folder = root / f"{cell_label(choices, overrides, plain['seed'])}_{cell_hash}"
    if plain["rerun"]:
        shutil.rmtree(folder, ignore_errors=True)
    if (folder / "record.json").exists():
        record = read_record(folder / "record.json")
        console.print(f"This run exists: [bold]{folder}[/] ({_shown(record.figures)}). rerun=true trains it again.")
        return record
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "FAILED").unlink(missing_ok=True)
    write_whole(folder / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(plain)))
    console.print(f"[bold]{folder}[/]")
    figures: dict[str, float] = {}
    failed = True
    try:
        with _quiet_lightning():
            record = _train(config, plain, data, folder, identity, choices, console, started)
        figures, failed = record.figures, False
    except Exception as error:
        write_whole(folder / "FAILED", traceback.format_exc())
        raise RunFailed(f"{error}\nFAILED; the traceback is in {folder}/FAILED") from error
    finally:
        line = finish_wandb(figures, failed)
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
    console: Console,
    started: float,
) -> Record:
    model = build_model(
        lambda: instantiate(config.backbone),
        lambda **sizes: instantiate(config.neck, **sizes),
        lambda **sizes: instantiate(config.head, **sizes),
        len(data.classes),
        data.size,
        plain["seed"],
    )
    check_gap(data, model)
    initial_hash = weights_hash(model)
    costs = measure_cost(model, data.size)
    console.print(cost_table(costs, data.size))
    logger = False
    if config.logger:
        logger = instantiate(config.logger, _partial_=True)(folder=folder, cell=folder.name, config=plain)
    task = instantiate(
        config.task,
        model=model,
        num_classes=len(data.classes),
        optimizer=instantiate(config.optimizer),
        schedule=instantiate(config.schedule),
        seed=plain["seed"],
    )
    terminal = console.is_terminal
    history = History(folder / "history.csv", None if terminal else console)
    best = ModelCheckpoint(
        folder / "checkpoints",
        filename="best",
        monitor="val/acc",
        mode="max",
        save_last=True,
        enable_version_counter=False,
        save_on_train_epoch_end=True,  # not after validation: the epoch's row of the history would be missing
    )
    callbacks: list[Callback] = [history, best, *([RichProgressBar()] if terminal else [])]
    # Filling every fresh tensor with NaN, which comes with deterministic algorithms, costs a quarter of the time on a CPU.
    torch.utils.deterministic.fill_uninitialized_memory = False  # pyright: ignore[reportAttributeAccessIssue]
    trainer = pl.Trainer(
        **{"enable_progress_bar": terminal} | plain["trainer"],
        max_epochs=plain["epochs"],
        logger=logger,
        callbacks=callbacks,
        default_root_dir=folder,
        num_sanity_val_steps=0,
        enable_model_summary=False,
    )
    last = folder / "checkpoints" / "last.ckpt"
    trainer.fit(task, data, ckpt_path=str(last) if last.exists() else None, weights_only=True)
    fit_seconds = sum(row["seconds"] for row in history.rows)
    checkpoint = torch.load(best.best_model_path, map_location="cpu", weights_only=True)
    task.load_state_dict(checkpoint["state_dict"])
    trainer.loggers = []  # what follows is for the record; a logger would take it for one more epoch
    figures = dict(trainer.validate(task, data, verbose=False)[0])
    test_correct = None
    if "test" in data.splits:
        figures |= trainer.test(task, data, verbose=False)[0]
        test_correct = pack_bits(correctness(task.test_correct, len(data.splits["test"])))
    train = data.batches("train", shuffle=True)
    left_out = (len(train.images) - len(train) * data.batch_size) * plain["epochs"]
    images_seen = len(train) * data.batch_size * plain["epochs"]
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
        train_images_left_out=left_out,
        test_correct=test_correct,
        data={
            "digest": data.digest(),
            "images": {name: len(split) for name, split in data.splits.items()},
            "classes": list(data.classes),
            "skipped": [list(item) for item in data.source.skipped],
        },
        cost={name: {"params": c.params, "macs": c.macs, "output": list(c.output)} for name, c in costs.items()},
        neck_input=list(costs["backbone"].output),
        pretrained=list(model.backbone.pretrained),
        initial_hash=initial_hash,
        weights_hash=weights_hash(task.model),
        git=git_state(),
        versions={"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
        device={
            "kind": trainer.strategy.root_device.type,
            "name": _device_name(trainer.strategy.root_device),
            "threads": torch.get_num_threads(),
        },
        world_size=trainer.world_size,
        fit_seconds=fit_seconds,
        images_per_s=images_seen / fit_seconds,
        wall_seconds=time.perf_counter() - started,
        resumed=history.resumed,
    )
    write_record(record, folder / "record.json")
    console.print(f"best epoch {record.best_epoch + 1}/{record.epochs}: {_shown(record.figures)}")
    return record


@contextmanager
def _quiet_lightning() -> Iterator[None]:
    """Keep Lightning's advertisements off the user's screen, and two warnings about what is meant to be as it is."""
    logger = logging.getLogger("pytorch_lightning")
    level = logger.level
    logger.setLevel(logging.WARNING)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r".*isinstance\(treespec, LeafSpec\)")  # Lightning's own call
        warnings.filterwarnings("ignore", message=r"Checkpoint directory .* exists and is not empty")  # a resumed run's
        try:
            yield
        finally:
            logger.setLevel(level)


def _data(plain: dict[str, Any]) -> DataModule:
    options = dict(plain["data"])
    source = _source(json.dumps(options.pop("source"), sort_keys=True))
    augment = Augmentation(**options.pop("augment"))
    for name in ("root", "on_corrupt"):
        options.pop(name, None)
    return DataModule(source, batch_size=plain["batch_size"], seed=plain["seed"], augment=augment, **options)


@lru_cache(maxsize=2)
def _source(options: str) -> Any:
    """Images are read or drawn once for all the runs of a process."""
    return instantiate(json.loads(options))


def check_gap(data: DataModule, model: Model) -> None:
    """Hold the diagnostic to its premise: no position of the feature map sees both things that the label joins.

    Raises:
        ValueError: The source's gap is not larger than the backbone's receptive field.
    """
    min_gap = getattr(data.source, "min_gap", None)
    if min_gap is None:
        return
    seen = receptive_field(model.backbone)
    shrunk = (torch.tensor(data.size) / data.splits["train"].shapes).min().clamp(max=1)
    gap = int(min_gap * shrunk)
    if seen is None or gap <= seen:
        resized = f" ({gap} after resizing to data.size)" if gap < min_gap else ""
        raise ValueError(
            f"data.source.min_gap={min_gap}{resized}: must be larger than the backbone's receptive field "
            f"({'the whole image' if seen is None else f'{seen} pixels'}), or the backbone alone can solve the task"
        )


def cell_identity(plain: dict[str, Any], digest: dict[str, str]) -> dict[str, Any]:
    """All that changes a run's result, and nothing else: no paths, loggers, devices or progress bars.

    Args:
        plain: The resolved config.
        digest: The data's content, by split.

    Returns:
        A JSON-ready dict.
    """
    kept = {name: value for name, value in plain.items() if name not in NEUTRAL[""]}
    for group, neutral in NEUTRAL.items():
        if group:
            kept[group] = {name: value for name, value in kept[group].items() if name not in neutral}
    kept["data"]["digest"] = digest
    weights = plain["backbone"].get("pretrained")
    kept["backbone"]["pretrained"] = _file_digest(weights) if weights else None
    return kept


def hash_identity(identity: dict[str, Any]) -> str:
    """Ten hex digits over an identity."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:10]


def cell_label(choices: dict[str, str], overrides: list[str], seed: int) -> str:
    """A readable folder name, such as `context_cifar_resnet_focal_focal_level-3_s0`: safe in paths, at most 100 characters."""
    parts = [choices["data"], choices["backbone"], choices["neck"]]
    parts += [text.removeprefix("neck.") for text in overrides if text.startswith("neck.")]
    return re.sub(r"[^\w.,+-]+", "-", "_".join(parts), flags=re.ASCII)[:90] + f"_s{seed}"


def git_state() -> dict[str, Any] | None:
    """Commit and dirty flag of the code that runs, or None where it is not a checkout."""
    root = Path(__file__).resolve().parents[2]

    def git(*command: str) -> str:
        return subprocess.run(["git", "-C", str(root), *command], capture_output=True, text=True, check=True).stdout

    try:
        return {"sha": git("rev-parse", "HEAD").strip(), "dirty": bool(git("status", "--porcelain").strip())}
    except (OSError, subprocess.CalledProcessError):
        return None


def _file_digest(path: str) -> str:
    if not Path(path).is_file():
        raise FileNotFoundError(f"backbone.pretrained={path}: there is no such file")
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return platform.processor() or platform.machine()


def _shown(figures: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in sorted(figures.items()))
