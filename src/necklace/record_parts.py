"""What stands within the fields of a record: which types, and what goes with what.

A number that is text, a count below zero or a share of 93 would otherwise go into a table, or stop it where nobody sees why.
"""

import base64
import binascii
import re
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Annotated, Any, NotRequired

from pydantic import AllowInfNan, ConfigDict, Field, StringConstraints, TypeAdapter, ValidationError
from typing_extensions import TypedDict

Count = Annotated[int, Field(ge=0)]
Number = Annotated[float, AllowInfNan(False)]
Positive = Annotated[float, AllowInfNan(False), Field(ge=0)]
Hash = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]+$")]
Options = dict[str, Any]

# Metrics that are shares, of a split (`test/acc`), a class (`test/class_acc/cat`) or a size (`test/acc@24`).
_SHARES = re.compile(r"(val|test)/(acc|balanced_acc|class_acc/.*|map|ap/.*|(box_)?(map|ap)[0-9]*(/.*)?)(@[0-9]+)?")


class _Cost(TypedDict):
    params: Count
    macs: Count
    output: list[Count]


class _Costs(TypedDict):
    backbone: _Cost
    neck: _Cost
    head: _Cost


class _Data(TypedDict):
    digest: dict[str, str]
    images: dict[str, Count]
    classes: list[str]
    skipped: list[Annotated[list[str], Field(min_length=2, max_length=2)]]
    notes: NotRequired[list[str]]
    class_counts: NotRequired[dict[str, list[Count]]]
    predicted: NotRequired[dict[str, list[Count]]]


class _Nonfinite(TypedDict):
    layer: str
    context: str
    epoch: Count
    step: Count
    positions: Count


class _Gates(TypedDict):
    epoch: Count
    step: Count
    layers: dict[str, dict[str, dict[str, Number | None]]]
    nonfinite: list[_Nonfinite]


class _Evidence(TypedDict):
    file: str
    kind: str
    sha256: Hash


class _Device(TypedDict):
    kind: str
    name: str
    threads: Count


class _Git(TypedDict):
    sha: str
    dirty: bool
    date: NotRequired[str]


class _Versions(TypedDict):
    torch: str
    python: str


class _Groups(TypedDict):
    seed: Count
    data: Options
    backbone: Options
    neck: Options
    head: Options
    task: Options
    optimizer: Options
    schedule: Options


class _Config(_Groups):
    trainer: Options
    epochs: int


class _Parts(TypedDict):
    name: Annotated[str, StringConstraints(pattern=r"^[^/\x00-\x1f]+$", max_length=255)]
    hash: Hash
    choices: dict[str, str]
    config: _Config
    identity: _Groups
    metrics: dict[str, Number]
    best_epoch: Count
    epochs: Annotated[int, Field(ge=1)]
    steps: Count
    train_images_left_out: Count
    evidence: _Evidence | None
    gates: _Gates | None
    data: _Data
    cost: _Costs
    neck_input: list[Count]
    pretrained: Annotated[list[Count], Field(min_length=2, max_length=2)]
    initial_hash: Hash
    weights_hash: Hash
    git: _Git | None
    versions: _Versions
    device: _Device
    world_size: Annotated[int, Field(ge=1)]
    fit_seconds: Positive
    images_per_s: Positive
    wall_seconds: Positive
    resumed: Count


def problem_of(record: Mapping[str, Any]) -> tuple[str, Any, str] | None:
    """The first thing that is wrong within a record's fields, each of which has the type that the record gives it.

    Args:
        record: Field to value.

    Returns:
        Where it is, such as `cost.neck.params`; its value; and what is wrong. None if nothing is.
    """
    try:
        _adapter().validate_python(dict(record))
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        place = [str(part) for part in first["loc"] if not (isinstance(part, str) and part.startswith(("_", "function-")))]
        return ".".join(place), first["input"], "is missing" if first["type"] == "missing" else first["msg"]
    return next(_contradictions(record), None)


@cache
def _adapter() -> TypeAdapter[Any]:
    """Reads without converting anything, and passes over what is not named."""
    for each in (_Cost, _Costs, _Data, _Nonfinite, _Gates, _Evidence, _Device, _Git, _Versions, _Groups, _Config, _Parts):
        setattr(each, "__pydantic_config__", ConfigDict(strict=True, extra="ignore"))  # noqa: B010, which pydantic looks for
    return TypeAdapter(_Parts)


def _contradictions(record: Mapping[str, Any]) -> Iterator[tuple[str, Any, str]]:
    """What is of its type and yet cannot be."""
    for name, value in record["metrics"].items():
        if _SHARES.fullmatch(name) and not 0 <= value <= 1:
            yield f"metrics.{name}", value, "must be a share from 0 to 1"
        if name.endswith("/loss") and value < 0 and record["config"]["task"].get("_target_", "").startswith("necklace."):
            yield f"metrics.{name}", value, "must be a loss from 0"
    if not record["best_epoch"] < record["epochs"]:
        yield "best_epoch", record["best_epoch"], f"must be below the {record['epochs']} epochs"
    for group in ("config", "identity"):
        if record[group]["seed"] != record["config"]["seed"]:
            yield f"{group}.seed", record[group]["seed"], "must be the config's"
    data = record["data"]
    for field in ("class_counts", "predicted"):
        for split, counts in data.get(field, {}).items():
            if len(counts) != len(data["classes"]):
                yield f"data.{field}.{split}", counts, f"must have a number for each of the {len(data['classes'])} classes"
    bits = record["test_correct"]
    if bits is not None:
        yield from _bits(bits, data["images"].get("test"))


def _bits(bits: str, images: int | None) -> Iterator[tuple[str, Any, str]]:
    try:
        size = len(base64.b64decode(bits, validate=True))
    except (binascii.Error, ValueError):
        yield "test_correct", bits, "must be base64"
        return
    if images is None or size != -(-images // 8):
        yield "test_correct", bits, f"must hold a bit for each of the {images} images in data.images.test"
