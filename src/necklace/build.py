"""From a resolved config to its data and its model."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from hydra.utils import get_object, instantiate
from omegaconf import DictConfig, OmegaConf

from necklace.data.augment import Augmentation
from necklace.data.fitting import OTHER_OPTIONS, checked_size
from necklace.data.sizes import Fixed, Sizes
from necklace.data.splits import OPTIONS, splits_key, splits_of
from necklace.model import Model, build_model
from necklace.parts import ALIASES, REFERRED
from necklace.seeding import seed_of

if TYPE_CHECKING:
    from necklace.data.datamodule import DataModule


def instantiated(node: DictConfig, **arguments: Any) -> Any:
    """Hydra's `instantiate`, also for a `_target_` that has moved."""
    target = node.get("_target_")
    if target in ALIASES:
        node = OmegaConf.merge(node, {"_target_": ALIASES[target]})  # pyright: ignore[reportAssignmentType]
    return instantiate(node, **arguments)


def datamodule_of(resolved: dict[str, Any]) -> "DataModule":
    """The data of a resolved config."""
    from necklace.data.datamodule import DataModule  # here: a plan needs no Lightning, whose import takes a second

    augment, sizes, options = _data_parts(resolved["data"])
    key = splits_key(resolved["data"])
    seeds = {"seed": seed_of(resolved, "order"), "augment_seed": seed_of(resolved, "augment")}
    return DataModule(splits_of(key), sizes, resolved["batch_size"], augment=augment, **seeds, **options)


def _data_parts(data: dict[str, Any]) -> tuple[Augmentation, Sizes, dict[str, Any]]:
    """What is made of a resolved config's `data`, and its options that are left for the batches."""
    options = {name: value for name, value in data.items() if name not in (*OPTIONS, *REFERRED)}
    augment = Augmentation(**options.pop("augment"))
    return augment, instantiate(options.pop("sizes")), options


def model_of(config: DictConfig, data: "DataModule") -> Model:
    """The model of a config before its first step, for its data."""
    return model_for(config, len(data.classes), data.size if isinstance(data.sizes, Fixed) else None)


def model_for(config: DictConfig, classes: int, image_size: tuple[int, int] | None) -> Model:
    """The model of a config before its first step.

    Args:
        config: The config.
        classes: Number of classes.
        image_size: Height and width, or None where images come at several sizes.
    """
    model = build_model(
        lambda: instantiate(config.backbone),
        lambda **sizes: instantiate(config.neck, **sizes),
        lambda **sizes: instantiate(config.head, **sizes),
        classes,
        image_size,
        seed_of(config, "init"),  # pyright: ignore[reportArgumentType]
        is_dense(config.head),
    )
    model.mirror, model.shift = bool(config.get("mirror")), int(config.get("shift", 0))  # not there in records of before
    return model


def is_dense(head: Mapping[str, Any] | DictConfig) -> bool:
    """Whether a head's config names a dense head, which is built from all maps of the backbone."""
    return bool(getattr(get_object(str(head["_target_"])), "dense", False))


@dataclass(frozen=True)
class DataFacts:
    """The facts about the data that a plan and a model need.

    Attributes:
        digest: The content of each split.
        classes: Number of classes.
        size: Typical height and width of an image.
        own_val: Whether the source has a val split of its own.
    """

    digest: dict[str, str]
    classes: int
    size: tuple[int, int]
    own_val: bool = False


def facts_of(resolved: dict[str, Any]) -> DataFacts:
    """The facts about a resolved config's data, which is read once in a process.

    Raises:
        ValueError: The config has an option that the data does not know.
    """
    return _facts(json.dumps([resolved["data"], resolved["batch_size"]], sort_keys=True))


@cache
def _facts(data: str) -> DataFacts:
    options, batch_size = json.loads(data)
    try:
        augment, sizes, rest = _data_parts(options)
        splits = splits_of(splits_key(options))
        sampler = rest.pop("sampler", "shuffle")
        if unknown := rest.keys() - set(OTHER_OPTIONS):
            raise TypeError(f"unexpected option {min(unknown)}")
        size = checked_size(splits.images["train"], sizes, batch_size, sampler, augment)
    except TypeError as error:
        raise ValueError(f"data={options['source']['_target_']}: {error}") from error
    return DataFacts(splits.digest, len(splits.classes), size, splits.own_val)


def forget_data() -> None:
    """Read the data again when it is next asked for."""
    _facts.cache_clear()
    splits_of.cache_clear()


def built(resolved: dict[str, Any], facts: DataFacts | None = None) -> tuple[Model, tuple[int, int]]:
    """The model of a resolved config and the image size that its cost is counted at; reads the data where it is not known."""
    facts = facts or facts_of(resolved)
    return model_for(OmegaConf.create(resolved), facts.classes, facts.size), facts.size
