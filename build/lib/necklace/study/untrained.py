"""A cell before it is trained: its config, what has to be known of its data, and its model."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf, open_dict

from necklace.model import Model, build_model
from necklace.run import datamodule_of
from necklace.study.compose import Composer


def composed(composer: Composer, overrides: Sequence[str]) -> tuple[DictConfig, dict[str, str]]:
    """A composed config without Hydra's own part, and the choices of groups that made it."""
    config = composer.compose(overrides)
    choices = {group: str(choice) for group, choice in config.hydra.runtime.choices.items() if "hydra" not in group}
    with open_dict(config):
        del config["hydra"]
    return config, choices


def resolved(config: DictConfig) -> dict[str, Any]:
    """A config as plain containers, with what refers to something else filled in."""
    plain = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    assert isinstance(plain, dict)
    return plain  # pyright: ignore[reportReturnType]


@dataclass(frozen=True)
class DataFacts:
    """What a plan and a model have to know of the data.

    Attributes:
        digest: The content of each split.
        classes: Number of classes.
        size: Typical height and width of an image.
    """

    digest: dict[str, str]
    classes: int
    size: tuple[int, int]


def facts_of(plain: dict[str, Any]) -> DataFacts:
    """The facts about a resolved config's data, which is read once in a process.

    Raises:
        ValueError: The config has an option that the data does not know.
    """
    return _facts(json.dumps([plain["data"], plain["batch_size"]], sort_keys=True))


@cache
def _facts(data: str) -> DataFacts:
    options, batch_size = json.loads(data)
    try:
        made = datamodule_of({"data": options, "batch_size": batch_size, "seed": 0})  # what is asked for has no seed in it
    except TypeError as error:
        raise ValueError(f"data={options['source']['_target_']}: {error}") from error
    return DataFacts(made.digest, len(made.classes), made.size)


def forget_data() -> None:
    """Read the data again when it is next asked for."""
    _facts.cache_clear()


def built(config: DictConfig, facts: DataFacts | None = None) -> tuple[Model, tuple[int, int]]:
    """The model of a composed config and the image size that its cost is counted at; reads the data where it is not known."""
    plain = resolved(config)
    facts = facts or facts_of(plain)
    model = build_model(
        lambda: instantiate(config.backbone),
        lambda **sizes: instantiate(config.neck, **sizes),
        lambda **sizes: instantiate(config.head, **sizes),
        facts.classes,
        facts.size,
        plain["seed"],
    )
    return model, facts.size
