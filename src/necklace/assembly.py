"""What a resolved config stands for: its data and its model, and whether the two go together."""

from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig

from necklace.backbones import receptive_field
from necklace.data.augment import Augmentation
from necklace.data.datamodule import DataModule
from necklace.data.sizes import Fixed, Native
from necklace.data.splits import OPTIONS, splits_key, splits_of
from necklace.model import Model, build_model

# Options of `data` that reach its source and its sizes by interpolation.
REFERRED = ("root", "on_corrupt", "size", "download", "year", "memory_gib", "cache")


def datamodule_of(plain: dict[str, Any]) -> DataModule:
    """The data of a resolved config."""
    options = {name: value for name, value in plain["data"].items() if name not in (*OPTIONS, *REFERRED)}
    augment = Augmentation(**options.pop("augment"))
    sizes = instantiate(options.pop("sizes"))
    return DataModule(splits_of(splits_key(plain["data"])), sizes, plain["batch_size"], plain["seed"], augment, **options)


def model_of(config: DictConfig, data: DataModule) -> Model:
    """The model of a composed config before its first step, for its data."""
    return model_for(config, len(data.classes), data.size if isinstance(data.sizes, Fixed) else None)


def model_for(config: DictConfig, classes: int, image_size: tuple[int, int] | None) -> Model:
    """The model of a composed config before its first step.

    Args:
        config: The composed config.
        classes: Number of classes.
        image_size: Height and width, or None where images come at several sizes.
    """
    return build_model(
        lambda: instantiate(config.backbone),
        lambda **sizes: instantiate(config.neck, **sizes),
        lambda **sizes: instantiate(config.head, **sizes),
        classes,
        image_size,
        config.seed,
    )


def check_stride(data: DataModule, model: Model) -> None:
    """Hold native sizes to what they are for: a feature map that covers the image to the pixel.

    Raises:
        ValueError: Images are rounded to something that is no multiple of the backbone's stride.
    """
    if isinstance(data.sizes, Native) and data.sizes.stride % model.backbone.stride:
        raise ValueError(f"data.sizes.stride={data.sizes.stride}: must be a multiple of the backbone's {model.backbone.stride}")


def check_gap(data: DataModule, model: Model) -> None:
    """Hold the diagnostic to its premise: no position of the feature map sees both things that the label joins.

    Raises:
        ValueError: The source's gap is not larger than the backbone's receptive field.
    """
    if data.min_gap is None:
        return
    seen = receptive_field(model.backbone)
    shapes = data.splits["train"].shapes
    shrunk = (data.sizes.least_shapes(shapes) / shapes).min().clamp(max=1)
    gap = int(data.min_gap * shrunk)
    if seen is None or gap <= seen:
        resized = f" ({gap} after resizing)" if gap < data.min_gap else ""
        raise ValueError(
            f"data.source.min_gap={data.min_gap}{resized}: must be larger than the backbone's receptive field "
            f"({'the whole image' if seen is None else f'{seen} pixels'}), or the backbone alone can solve the task"
        )
