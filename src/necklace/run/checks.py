"""Checks of a run's parts against each other before it trains."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path

import torch
from torch import nn

from necklace.data.datamodule import DataModule
from necklace.data.sizes import Native
from necklace.diagnostics.receptive_field import BackboneAndHead, theoretical_receptive_field
from necklace.model import Model
from necklace.tasks import Task


def check_parts(data: DataModule, model: Model, task: Task, choice: str) -> None:
    """Check that data, model and task go together.

    Args:
        data: The run's data.
        model: Its model.
        task: Its task.
        choice: Name of the data's config, for the message.

    Raises:
        ValueError: They do not.
    """
    check_gap(data, model)
    check_read_out(data, model)
    check_stride(data, model)
    check_head(model, task)
    if task.label_axes != data.splits["train"].labels.ndim:
        fitting = "task=classification" if task.label_axes == 2 else "task=multilabel"
        raise ValueError(f"data={choice} does not go with this task: take {fitting}")
    boxes = data.splits["train"].boxes is not None
    if boxes != task.dense:
        fitting = "data.boxes=false, or task=detection" if boxes else "data.boxes=true"
        raise ValueError(f"data={choice}: its images come with{'' if boxes else 'out'} boxes; this task needs {fitting}")
    check_positives(data)


def check_head(model: Model, task: Task) -> None:
    """Check that the head predicts what the task takes, and can be asked twice where it is to be.

    Raises:
        ValueError: It does not.
    """
    if model.dense != task.dense:
        kind, fitting = ("boxes", "head=dense") if task.dense else ("one vector an image", "head=gap, flatten or pyramid")
        raise ValueError(f"head: this task takes {kind}, which this head does not predict; take {fitting}")
    if model.dense and (model.mirror or model.shift):
        which = "mirror=true: boxes in mirror" if model.mirror else f"shift={model.shift}: boxes in shifted"
        raise ValueError(f"{which} images are not averaged; allowed with one vector an image")


def check_positives(data: DataModule) -> None:
    """Check that the splits that are measured show a class, where an image may show several or none.

    Raises:
        ValueError: None of val's or of test's images shows any class, so that no average precision is defined.
    """
    for name, images in data.splits.items():
        if images.labels.ndim == 2 and not bool((images.labels == 1).any()):
            raise ValueError(
                f"data: none of the {len(images)} {name} images shows one of the {len(data.classes)} classes, so that average "
                "precision is not defined on them; allowed is a split with at least one such image"
            )


def check_stride(data: DataModule, model: Model) -> None:
    """Check that native sizes give a feature map that covers the image to the pixel.

    A dense head needs it not: the points of a map that reaches beyond the image predict boxes within it as well.

    Raises:
        ValueError: Images are rounded to something that is no multiple of the backbone's stride.
    """
    if model.dense:
        return
    if isinstance(data.sizes, Native) and data.sizes.stride % model.backbone.stride:
        raise ValueError(f"data.sizes.stride={data.sizes.stride}: must be a multiple of the backbone's {model.backbone.stride}")


def check_gap(data: DataModule, model: Model) -> None:
    """Check the diagnostic's premise: no position of the feature map sees both things that the label joins.

    Raises:
        ValueError: The source's gap is not larger than the receptive field of the backbone, with a dense head behind it.
    """
    if data.min_gap is None:
        return
    seen = theoretical_receptive_field(BackboneAndHead(model) if model.dense else model.backbone)
    shapes = data.splits["train"].shapes
    shrunk = (data.sizes.least_shapes(shapes) / shapes).min().clamp(max=1)
    gap = int(data.min_gap * shrunk)
    if seen is None or gap <= seen:
        resized = f" ({gap} after resizing)" if gap < data.min_gap else ""
        raise ValueError(
            f"data.source.min_gap={data.min_gap}{resized}: must be larger than the receptive field of the backbone"
            f"{' and its head' if model.dense else ''} ({'the whole image' if seen is None else f'{seen} pixels'}), or it can "
            "be solved without a neck"
        )


def check_read_out(data: DataModule, model: Model) -> None:
    """Check that the head reads the map where the diagnostic's premise allows it to.

    Raises:
        ValueError: The data are to be read in a corner of the image, and the head reads the map elsewhere.
    """
    if data.read_within is None:
        return
    read = set() if model.dense else _read_places(model, data)
    stride = model.backbone.stride
    if not read or any(stride * place >= data.read_within for place in chain.from_iterable(read)):
        raise ValueError(
            f"head: the label of these images is to be read within {data.read_within} pixels of the top left corner, where the "
            f"glyph is; this head reads {'other places too' if read else 'no such label'}; take head=corner"
        )


def premise_note(data: DataModule, model: Model) -> str | None:
    """A sentence where a head can by itself join the two things that a label depends on, so that no neck is needed."""
    if data.min_gap is None or data.read_within is not None or model.dense:
        return None
    with _evaluating(model.head):
        first, second = _two_maps(model, data)
        sides = model.head(first) + model.head(second), model.head(first + second) + model.head(torch.zeros_like(first))
    if torch.allclose(*sides, rtol=1e-3, atol=1e-3 * float(sides[0].abs().max())):
        return None
    return (
        "the head is not linear in the feature map, as with a hidden layer or a maximum after the neck: it can join glyph and "
        "marker by itself, so that chance without a neck is not to be expected"
    )


def _read_places(model: Model, data: DataModule) -> set[tuple[int, int]]:
    """Row and column of the positions of the map on which a head's logits depend."""
    with _evaluating(model.head), torch.enable_grad():
        features = _two_maps(model, data)[0].requires_grad_()
        (found,) = torch.autograd.grad(model.head(features).square().sum(), features)
    return {(int(row), int(column)) for row, column in found.abs().sum((0, 1)).nonzero().tolist()}


def _two_maps(model: Model, data: DataModule) -> tuple[torch.Tensor, torch.Tensor]:
    """Twice some drawn maps as the head is given them, [8, C, h, w]; no stream of the run is touched.

    Their values are large, and have a mean in each channel: others would hardly cross a hidden layer's thresholds.
    """
    height, width = model.backbone.map_size(*data.size)
    channels = int(getattr(model.neck, "out_channels", model.backbone.out_channels))
    generator = torch.Generator().manual_seed(0)
    positions = torch.randn(2, 8, channels, height, width, generator=generator)
    first, second = 10 * (positions + 3 * torch.randn(2, 8, channels, 1, 1, generator=generator))
    return first, second


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    """A module in evaluation mode, without gradients, and afterwards as it was."""
    training = module.training
    try:
        with torch.no_grad():
            module.eval()
            yield
    finally:
        module.train(training)


def check_room(folder: Path, model: nn.Module) -> None:
    """Check before training that the disk holds the checkpoints: weights and two moments of the optimizer each.

    Raises:
        OSError: It does not.
    """
    checkpoint = 3 * sum(value.numel() * value.element_size() for value in model.state_dict().values())
    # The best, the last, the one before it, and the one that is being written to replace one of them.
    needed, free = 4 * checkpoint + 2**20, shutil.disk_usage(folder).free
    if free < needed:
        raise OSError(f"{folder}: {free / 2**20:.1f} MiB are free, the checkpoints of this run need {needed / 2**20:.1f} MiB")
