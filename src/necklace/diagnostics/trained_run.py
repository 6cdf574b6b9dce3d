"""A finished run, opened again: its record, its data, and its model before and after training."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from omegaconf import OmegaConf
from yaml import YAMLError

from necklace.build import datamodule_of, model_of
from necklace.data.datamodule import DataModule
from necklace.model import Model, weights_hash
from necklace.record import Record, read_record


@dataclass(frozen=True)
class TrainedRun:
    """A finished run.

    Attributes:
        folder: Its folder.
        record: Its record.
        data: Its data.
        models: `before` training and `after`, in evaluation mode; without `before` where the initial weights cannot be built.
        notes: Sentences on what is missing.
    """

    folder: Path
    record: Record
    data: DataModule
    models: dict[str, Model]
    notes: list[str]


def open_run(folder: Path) -> TrainedRun:
    """Open a finished run.

    Args:
        folder: Its folder, with record.json, config.yaml and checkpoints/best.ckpt.

    Raises:
        FileNotFoundError: The run is not finished, or a file of it is missing.
        ValueError: A file is damaged, or the data or the checkpoint are not those of the record.
    """
    for name in ("record.json", "config.yaml", "checkpoints/best.ckpt"):
        if not (folder / name).is_file():
            failed = "; it has failed, see FAILED there" if (folder / "FAILED").exists() else ""
            raise FileNotFoundError(f"{folder}: not the folder of a finished run, it has no {name}{failed}")
    record = read_record(folder / "record.json")
    config = _read_config(folder / "config.yaml", record)
    data = datamodule_of(config)
    changed = [name for name, digest in record.data["digest"].items() if data.digest.get(name) != digest]
    if changed:
        raise ValueError(f"{folder}: the data has changed since the run ({', '.join(changed)})")
    weights = config["backbone"].get("pretrained")
    if weights and not Path(weights).is_file():
        config["backbone"]["pretrained"] = None  # the trained weights do not need it
    before = model_of(OmegaConf.create(config), data).eval()
    after = copy.deepcopy(before)
    after.load_state_dict(_read_weights(folder / "checkpoints" / "best.ckpt"))
    if weights_hash(after) != record.weights_hash:
        raise ValueError(f"{folder}: checkpoints/best.ckpt does not hold the weights of record.json")
    if weights_hash(before) == record.initial_hash:
        return TrainedRun(folder, record, data, {"before": before, "after": after}, [])
    note = "the initial weights could not be built again (other code, another torch, no weights file), so 'before' is missing"
    return TrainedRun(folder, record, data, {"after": after}, [note])


def _read_config(path: Path, record: Record) -> dict[str, Any]:
    """The resolved config of a run.

    Raises:
        ValueError: It cannot be read, or has other fields or types than the record's config.
    """
    config: Any = OmegaConf.to_container(_read(path, OmegaConf.load), resolve=True)
    if not isinstance(config, dict) or config.keys() != record.config.keys():
        raise ValueError(f"{path}: is not the config of the run in record.json")
    for name, recorded in record.config.items():
        if type(config[name]) is not type(recorded):
            kind = type(recorded).__name__
            raise ValueError(f"{path}: {name}: {config[name]!r}: must be of type {kind}, as in record.json")
    return config  # pyright: ignore[reportReturnType]


def _read_weights(path: Path) -> dict[str, Any]:
    """The model's weights in a checkpoint of its task, on the CPU.

    Raises:
        ValueError: It cannot be read, or is no checkpoint.
    """
    content = _read(path, partial(torch.load, map_location="cpu", weights_only=True))
    state = content.get("state_dict") if isinstance(content, dict) else None
    if not isinstance(state, dict):
        raise ValueError(f"{path}: not a checkpoint of a run: it has no state_dict with the weights")
    prefix = "model."
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def _read(path: Path, read: Callable[[Path], Any]) -> Any:
    """The content of a file.

    Raises:
        ValueError: It cannot be read: it is damaged, or cut off.
    """
    try:
        return read(path)
    except (OSError, EOFError, RuntimeError, UnpicklingError, YAMLError) as error:
        words = f"{error}".partition("\n")[0]
        raise ValueError(f"{path}: cannot be read, {type(error).__name__}: {words}") from error
