"""A run's record: one JSON file, from which a table can be made without the run's other files.

A record is written whole or not at all and read strictly: a field that is missing, unknown or of another type is an error that
names it, never a row that vanishes. Records of earlier schemas are read through `migrations`.
"""

import base64
import hashlib
import json
from dataclasses import MISSING, asdict, dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any, NotRequired, TypeVar, get_type_hints

import numpy as np
from pydantic import ConfigDict, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from necklace.atomic import write_whole
from necklace.migrations import SCHEMA, migrated_record
from necklace.record_parts import problem_of

T = TypeVar("T")
MAJORITY = 1.5  # so many times the images of the others, on average, has a class that an accuracy has to be held against

__all__ = ["SCHEMA", "Record", "check_file_of_evidence", "checked", "pack_bits", "parse_record", "read_json", "read_record"]
__all__ += ["unpack_bits", "write_record"]


@dataclass(frozen=True)
class Record:
    """One finished run. Every metric comes from one set of weights: those that were best on val.

    Attributes:
        schema: Version of this layout.
        name: Name of the run's folder.
        hash: Hash of the run's identity: equal hashes mean that equal results are due.
        choices: Config group to chosen name, such as `{"neck": "focal"}`.
        config: The resolved config.
        identity: What the hash was taken over.
        metrics: Metric to value, such as `{"test/acc": 0.93}`; accuracies in [0, 1], losses in nats.
        best_epoch: The epoch, from 0, that val chose: the highest metric; of several, the lowest loss; then the first.
            What a person reads of it counts from 1.
        epochs: Epochs trained.
        steps: Optimizer steps taken.
        train_images_left_out: Images left out of an epoch because they filled no batch, over all epochs.
        test_correct: One bit per test image in the split's order (numpy.packbits, base64), or None without a test split, and
            where an image is not simply right or wrong.
        evidence: What the metrics of test come from that are no means over images: `file` in the run's folder, its `sha256`,
            and its `kind`, `boxes` or `scores`, see `necklace.boxes`. None for one label an image, and in old records.
        gates: Gate statistics of the focal layers on val at these weights, see `Gates.summary`; None without a focal layer.
        data: Digest and number of images of each split, class names, and files that were skipped with the reason. Newer records
            also have `notes`; `class_counts`, the images of each class in each split; and `predicted`, how many images of val
            and test these weights take for each class.
        cost: For backbone, neck and head: `params`, `macs` (for one image) and `output` shape.
        neck_input: Channels, height and width of the neck's input.
        pretrained: Tensors of the backbone taken from a weights file, and tensors in all.
        initial_hash: Weights before the first step.
        weights_hash: The weights that the metrics come from.
        git: Commit of the code, whether the tree differed from it, and in newer records its day; None outside a checkout.
        code: Module to digest of the code that trained it, see `code_version`.
        versions: Package to version.
        device: Kind, name and number of CPU threads. Where the run was taken up by other processes or on another machine also
            `segments`: from which epoch (from 1) on how many processes trained it, and on what.
        world_size: Processes that trained together, at the end.
        fit_seconds: Wall time of training and its validation.
        images_per_s: Training images per second of `fit_seconds`.
        wall_seconds: Wall time of the whole run.
        resumed: How often the run was taken up again from a checkpoint.
    """

    schema: int
    name: str
    hash: str
    choices: dict[str, str]
    config: dict[str, Any]
    identity: dict[str, Any]
    metrics: dict[str, float]
    best_epoch: int
    epochs: int
    steps: int
    train_images_left_out: int
    test_correct: str | None
    evidence: dict[str, str] | None
    gates: dict[str, Any] | None
    data: dict[str, Any]
    cost: dict[str, dict[str, Any]]
    neck_input: list[int]
    pretrained: list[int]
    initial_hash: str
    weights_hash: str
    git: dict[str, Any] | None
    code: dict[str, str]
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

    def majority(self) -> tuple[str, float] | None:
        """The class that test shows far more often than the others, with its share of the images; else None.

        That is half as often again as the other classes on average, of those that test shows. None with several labels an
        image, and in old records.
        """
        counts = self.data.get("class_counts", {}).get("test")
        if not counts or not self.data.get("predicted", {}).get("test"):
            return None
        most, shown = max(counts), sum(count > 0 for count in counts)
        if most * (shown - 1) < MAJORITY * (sum(counts) - most):
            return None
        return self.data["classes"][counts.index(most)], most / sum(counts)

    def only_prediction(self) -> str | None:
        """The class that all test images (val, without test) are taken for, where they show several; None in old records."""
        split = "test" if "test" in self.data.get("predicted", {}) else "val"
        shown, taken = (self.data.get(name, {}).get(split, []) for name in ("class_counts", "predicted"))
        names = [name for name, count in zip(self.data.get("classes", []), taken, strict=False) if count]
        return names[0] if len(names) == 1 and sum(map(bool, shown)) > 1 else None

    def untested(self) -> list[str]:
        """The classes that no test image shows, if any does not; none in old records."""
        counts = self.data.get("class_counts", {}).get("test", [])
        return [name for name, count in zip(self.data.get("classes", []), counts, strict=False) if not count]


def write_record(record: Record, path: Path) -> None:
    """Write a record atomically.

    Raises:
        ValueError: A metric is NaN or infinite.
    """
    write_whole(path, json.dumps(asdict(record), indent=1, sort_keys=True, allow_nan=False) + "\n")


def read_record(path: Path) -> Record:
    """Read a record strictly.

    Raises:
        ValueError: The file is not JSON, or a field is missing, unknown or of another type.
    """
    return parse_record(read_json(path), path)


def parse_record(content: Any, path: Path) -> Record:
    """A record from what a JSON file held; one of an earlier schema is brought up to date.

    Args:
        content: What was read.
        path: Where it was read, for the message.

    Raises:
        ValueError: It is no record, or of a schema that this code does not know; or a value in it is of another type than it
            has to be, or cannot be.
    """
    record = checked(Record, migrated_record(content, path), path)
    if problem := problem_of(vars(record)):
        where, value, words = problem
        raise ValueError(f"{path}: {where}: {words if words == 'is missing' else f'{_short(value)}: {words}'}")
    return record


def check_file_of_evidence(record: Record, path: Path) -> None:
    """Compare the file of a record's evidence, where it names one, with what the run wrote.

    Raises:
        FileNotFoundError: It is not there.
        ValueError: It is another file.
    """
    if record.evidence is None:
        return
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: the metrics of {record.name} come from this file, but it is not there; bring it back, or train the run "
            "again with rerun=true"
        )
    if hashlib.sha256(path.read_bytes()).hexdigest() != record.evidence.get("sha256"):
        raise ValueError(f"{path}: is not the file that the run wrote, of which the metrics of {record.name} come")


def read_json(path: Path) -> Any:
    """The content of a JSON file.

    Raises:
        ValueError: It is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"), parse_constant=_no_number)
    except (ValueError, RecursionError) as error:  # ValueError: no JSON, no UTF-8, or a number of thousands of digits
        raise ValueError(f"{path}: not JSON: {error}") from error


def _no_number(name: str) -> Any:
    raise ValueError(f"{name} is no number")


def checked(kind: type[T], content: Any, path: Path, where: str = "") -> T:
    """A dataclass from what a file holds, with exactly its fields, each of its own type.

    Args:
        kind: The dataclass. With a class attribute `open_ended`, unknown fields are passed over.
        content: As it was read.
        path: Where it was read, for the message.
        where: Which part of the file it is, for the message.

    Raises:
        ValueError: It is not; the message is one line with the file, the first field that is wrong, and its value.
    """
    try:
        return kind(**_adapter(kind).validate_python(content))
    except ValidationError as error:
        problems = error.errors(include_url=False, include_context=False)
    first = problems[0]
    field = ".".join([*([where] if where else []), *map(str, first["loc"])]) or "the file"
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    if first["type"] == "missing":
        raise ValueError(f"{path}: {field} is missing{more}")
    raise ValueError(f"{path}: {field}: {_short(first['input'])}: {_MESSAGES.get(first['type'], first['msg'])}{more}")


_MESSAGES = {"extra_forbidden": "is not known here", "typed_dict_type": "must be a mapping"}


@cache
def _adapter(kind: Any) -> TypeAdapter[dict[str, Any]]:
    """Reads a dataclass's fields; a dataclass itself would, in strict mode, take nothing but an instance."""
    hints = get_type_hints(kind, include_extras=True)
    given = {
        field.name: hints[field.name]
        if field.default is MISSING and field.default_factory is MISSING
        else NotRequired[hints[field.name]]
        for field in fields(kind)
    }
    shape: Any = TypedDict(kind.__name__, given)  # pyright: ignore[reportArgumentType]
    extra = "ignore" if getattr(kind, "open_ended", False) else "forbid"
    shape.__pydantic_config__ = ConfigDict(extra=extra, strict=True)
    return TypeAdapter(shape)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def pack_bits(correct: np.ndarray) -> str:
    """Pack bool [N] into base64."""
    return base64.b64encode(np.packbits(correct).tobytes()).decode()


def unpack_bits(text: str, count: int) -> np.ndarray:
    """Undo `pack_bits`: bool [count].

    Raises:
        ValueError: The text holds another number of bytes than `count` bits fill.
    """
    packed = np.frombuffer(base64.b64decode(text, validate=True), dtype=np.uint8)
    if len(packed) != -(-count // 8):
        raise ValueError(f"{len(packed)} bytes of correctness bits cannot hold {count} images")
    return np.unpackbits(packed, count=count).astype(bool)
