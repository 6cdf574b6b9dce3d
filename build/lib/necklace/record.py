"""What a run leaves behind: one JSON file that a table can be made from without the run's other files.

A record is written whole or not at all and read strictly: a field too many or too few is an error, never a row that vanishes.
"""

import base64
import json
import os
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch

SCHEMA = 3


@dataclass(frozen=True)
class Record:
    """One finished run. Every figure comes from one set of weights: those that were best on val.

    Attributes:
        schema: Version of this layout.
        cell: Name of the run's folder.
        cell_hash: Identity of the run: equal hashes mean that equal results are due.
        choices: Config group to chosen name, such as `{"neck": "focal"}`.
        config: The resolved config.
        identity: What the hash was taken over.
        figures: Metric to value, such as `{"test/acc": 0.93}`; accuracies in [0, 1], losses in nats.
        best_epoch: The epoch, from 0, that val chose.
        epochs: Epochs trained.
        steps: Optimizer steps taken.
        train_images_left_out: Images left out of an epoch because they filled no batch, over all epochs.
        test_correct: One bit per test image in the split's order (numpy.packbits, base64), or None without a test split.
        gates: What the focal layers' gates do on val at these weights, see `Gates.summary`; None without a focal layer.
        data: Digest and number of images of each split, class names, and files that were skipped with the reason.
        cost: For backbone, neck and head: `params`, `macs` (for one image) and `output` shape.
        neck_input: Channels, height and width of the neck's input.
        pretrained: Tensors of the backbone taken from a weights file, and tensors in all.
        initial_hash: Weights before the first step.
        weights_hash: The weights that the figures come from.
        git: Commit of the code and whether the tree differed from it; None outside a checkout.
        code: Digest of the code that it was trained with, see `code_digest`.
        versions: Package to version.
        device: Kind, name and number of CPU threads.
        world_size: Processes that trained together.
        fit_seconds: Wall time of training and its validation.
        images_per_s: Training images per second of `fit_seconds`.
        wall_seconds: Wall time of the whole run.
        resumed: How often the run was taken up again from a checkpoint.
    """

    schema: int
    cell: str
    cell_hash: str
    choices: dict[str, str]
    config: dict[str, Any]
    identity: dict[str, Any]
    figures: dict[str, float]
    best_epoch: int
    epochs: int
    steps: int
    train_images_left_out: int
    test_correct: str | None
    gates: dict[str, Any] | None
    data: dict[str, Any]
    cost: dict[str, dict[str, Any]]
    neck_input: list[int]
    pretrained: list[int]
    initial_hash: str
    weights_hash: str
    git: dict[str, Any] | None
    code: str
    versions: dict[str, str]
    device: dict[str, Any]
    world_size: int
    fit_seconds: float
    images_per_s: float
    wall_seconds: float
    resumed: int

    def total(self, what: str) -> int:
        """The sum of `params` or `macs` over backbone, neck and head."""
        return sum(part[what] for part in self.cost.values())


def write_record(record: Record, path: Path) -> None:
    """Write a record atomically.

    Raises:
        ValueError: A figure is NaN or infinite.
    """
    write_whole(path, json.dumps(asdict(record), indent=1, sort_keys=True, allow_nan=False) + "\n")


def read_record(path: Path) -> Record:
    """Read a record strictly.

    Raises:
        ValueError: The file is not JSON, or its fields are not exactly a record's.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path}: not a record: {error}") from error
    return parse_record(content, path)


def parse_record(content: Any, path: Path) -> Record:
    """A record from what a JSON file held.

    Args:
        content: What was read.
        path: Where it was read, for the message.

    Raises:
        ValueError: Its fields are not exactly a record's.
    """
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        version = content.get("schema") if isinstance(content, dict) else None
        raise ValueError(f"{path}: not a record of schema {SCHEMA} (schema: {version})")
    known = {field.name for field in fields(Record)}
    missing, unknown = sorted(known - content.keys()), sorted(content.keys() - known)
    if missing or unknown:
        raise ValueError(f"{path}: not a record: missing {missing or 'nothing'}, unknown {unknown or 'nothing'}")
    return Record(**content)


def pack_bits(correct: torch.Tensor) -> str:
    """Pack bool [N] into base64."""
    return base64.b64encode(np.packbits(correct.numpy()).tobytes()).decode()


def unpack_bits(text: str, count: int) -> np.ndarray:
    """Undo `pack_bits`: bool [count].

    Raises:
        ValueError: The text holds another number of bytes than `count` bits fill.
    """
    packed = np.frombuffer(base64.b64decode(text, validate=True), dtype=np.uint8)
    if len(packed) != -(-count // 8):
        raise ValueError(f"{len(packed)} bytes of correctness bits cannot hold {count} images")
    return np.unpackbits(packed, count=count).astype(bool)


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file so that a reader, and whoever comes after a crash, finds the old content or the new one, never half."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(temporary, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
