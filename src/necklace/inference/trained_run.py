"""A finished run, opened again: its record, its data, and its model before and after training."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from omegaconf import OmegaConf
from torch import nn

from necklace.backbones.named import weights_file
from necklace.build import datamodule_of, model_of
from necklace.data.datamodule import DataModule
from necklace.guard.plain_yaml import read_plain_yaml
from necklace.guard.private import with_home
from necklace.guard.targets import check_targets, trusted
from necklace.identity import check_identity, strange_options
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


def open_run(folder: Path, trust: str | Path | None = None, own: bool = False) -> TrainedRun:
    """Open a finished run with its data.

    Args:
        folder: Its folder, with record.json, config.yaml and checkpoints/best.ckpt.
        trust: A folder whose Python files may run, see `necklace.load`.
        own: Whether this process has trained the run, so that all its classes have run here anyway.

    Raises:
        FileNotFoundError: The run is not finished, or a file of it is missing.
        ValueError: A file is damaged or names a class that may not run; data or checkpoint are not those of the record.
    """
    record = finished_record(folder, ("config.yaml",))
    config = _read_config(folder / "config.yaml", record)
    if not own:
        check_targets(config, trust)
    check_hashes(record, folder)
    if strange := strange_options(config, record.identity, record.data["digest"]):
        raise ValueError(f"{folder / 'config.yaml'}: is not the config of the run in record.json ({', '.join(strange[:3])})")
    weights = trained_weights(folder, record)
    with trusted(trust):
        data = datamodule_of(config)
        changed = [name for name, digest in record.data["digest"].items() if data.digest.get(name) != digest]
        if changed:
            raise ValueError(f"{folder}: the data has changed since the run ({', '.join(changed)})")
        if config["backbone"].get("pretrained") and not _has_weights_file(config["backbone"]):
            config["backbone"]["pretrained"] = None  # the trained weights do not need it
        before = model_of(OmegaConf.create(config), data).eval()
    after = with_weights(copy.deepcopy(before), weights, folder)
    if weights_hash(before) == record.initial_hash:
        return TrainedRun(folder, record, data, {"before": before, "after": after}, [])
    note = "the initial weights could not be built again (other code, another torch, no weights file), so 'before' is missing"
    return TrainedRun(folder, record, data, {"after": after}, [note])


def finished_record(folder: Path, also: Sequence[str] = ()) -> Record:
    """The record of a finished run.

    Args:
        folder: Its folder, with record.json and checkpoints/best.ckpt.
        also: Further files that it must have.

    Raises:
        FileNotFoundError: The run is not finished, or a file of it is missing.
        ValueError: The record is damaged.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: there is no such folder; a run's is outputs/STUDY/RUN")
    for name in ("record.json", *also, "checkpoints/best.ckpt"):
        if not (folder / name).is_file():
            failed = "; it has failed, see FAILED there" if (folder / "FAILED").exists() else ""
            raise FileNotFoundError(f"{folder}: not the folder of a finished run, it has no {name}{failed}")
    return read_record(folder / "record.json")


def check_hashes(record: Record, folder: Path) -> None:
    """Check that a record's config is what its hash was taken over, before anything is built of it.

    Raises:
        ValueError: It is not.
    """
    check_identity(record.config, record.identity, record.data["digest"], record.hash, str(folder / "record.json"))


class _Held(nn.Module):
    """Weights before there is a model that has them."""

    def __init__(self, state: dict[str, Any]) -> None:
        super().__init__()
        self._state = state

    def state_dict(self, *arguments: Any, **options: Any) -> dict[str, Any]:
        """The weights by name."""
        return self._state


def trained_weights(folder: Path, record: Record) -> dict[str, Any]:
    """The weights that val chose, by name, before there is a model.

    Raises:
        ValueError: The checkpoint is damaged, or does not hold the weights of the record.
    """
    weights = _read_weights(folder / "checkpoints" / "best.ckpt")
    if weights_hash(_Held(weights)) != record.weights_hash:
        raise ValueError(f"{folder}: checkpoints/best.ckpt does not hold the weights of record.json")
    return weights


def with_weights(model: Model, weights: dict[str, Any], folder: Path) -> Model:
    """Load weights into a model of the run, in place.

    Raises:
        ValueError: They are of another model.
    """
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        words = " ".join(str(error).split())
        raise ValueError(f"{folder / 'checkpoints' / 'best.ckpt'}: not of the model in record.json: {words[:200]}") from error
    return model


def _has_weights_file(backbone: dict[str, Any]) -> bool:
    try:
        return weights_file(backbone, fetch=False) is not None
    except FileNotFoundError:
        return False


def _read_config(path: Path, record: Record) -> dict[str, Any]:
    """The resolved config of a run.

    Raises:
        ValueError: It cannot be read, or has other fields or types than the record's config.
    """
    config: Any = with_home(_read(path, read_plain_yaml))
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
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
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
    except (OSError, EOFError, RuntimeError, UnpicklingError, ValueError) as error:
        words = f"{error}".partition("\n")[0]
        kind = "" if type(error) is ValueError else f", {type(error).__name__}"
        raise ValueError(f"{path}: cannot be read{kind}: {words}") from error
