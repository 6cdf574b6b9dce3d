"""Backbone, neck and head in a row, each initialised from a random stream of its own."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import torch
from rich.table import Table
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from necklace.backbones import Backbone
from necklace.streams import stream

PARTS = ("backbone", "neck", "head")


class Model(nn.Module):
    """images [B, 3, H, W] -> backbone [B, C, h, w] -> neck [B, C', h, w] -> head [B, K]."""

    def __init__(self, backbone: Backbone, neck: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.neck = neck
        self.head = head

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Map images [B, 3, H, W] to logits [B, K]."""
        return self.head(self.neck(self.backbone(images)))


def build_model(
    backbone: Callable[[], Backbone],
    neck: Callable[..., nn.Module],
    head: Callable[..., nn.Module],
    num_classes: int,
    image_size: tuple[int, int] | None,
    seed: int,
) -> Model:
    """Build the three parts, each under its own stream, so that with one seed another neck leaves the backbone's weights alone.

    Args:
        backbone: Makes the backbone.
        neck: Makes the neck from `channels`.
        head: Makes the head from `channels`, `num_classes` and `map_size` (and `stride`, where it asks for that).
        num_classes: Number of logits K.
        image_size: Height and width of the training images in pixels, or None where they vary.
        seed: The run's seed.

    Returns:
        The model, in training mode, in channels_last (stride-1 max-pools are ten times faster in it on a CPU).
    """
    with stream(seed, "backbone"):
        made_backbone = backbone()
    with stream(seed, "neck"):
        made_neck = neck(channels=made_backbone.out_channels)
    stride = made_backbone.stride
    map_size = None if image_size is None else (-(-image_size[0] // stride), -(-image_size[1] // stride))
    with stream(seed, "head"):
        made_head = head(channels=made_neck.out_channels, num_classes=num_classes, map_size=map_size, stride=stride)
    model = Model(made_backbone, made_neck, made_head)
    return model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]


@dataclass(frozen=True)
class Cost:
    """What one part of a model costs for one image.

    Attributes:
        params: Number of trained values.
        macs: Multiply-adds of convolutions and matrix products in a forward pass; pooling, activations and norms count nothing.
        output: Shape of the part's output for one image, without the batch axis.
    """

    params: int
    macs: int
    output: tuple[int, ...]


def measure_cost(model: Model, image_size: tuple[int, int]) -> dict[str, Cost]:
    """Count parameters and multiply-adds of backbone, neck and head at one image size.

    Args:
        model: The model; its mode and gradients are left as they are.
        image_size: Height and width in pixels.

    Returns:
        A cost for each of `PARTS`.
    """
    was_training = model.training
    device = next(model.parameters()).device
    x = torch.zeros(1, 3, *image_size, device=device)
    costs = {}
    model.eval()
    for name in PARTS:
        part = getattr(model, name)
        counter = FlopCounterMode(display=False)
        with torch.no_grad(), counter:
            x = part(x)
        params = sum(parameter.numel() for parameter in part.parameters())
        costs[name] = Cost(params, counter.get_total_flops() // 2, tuple(x.shape[1:]))
    model.train(was_training)
    return costs


def cost_table(costs: dict[str, Cost], image_size: tuple[int, int]) -> Table:
    """Lay out the costs of a model's parts for the terminal."""
    params, macs = sum(c.params for c in costs.values()), sum(c.macs for c in costs.values())
    table = Table("part", "output", "parameters", "share", "MACs (M)", "share", title=f"one {_by(image_size)} image")
    for column in table.columns[2:]:
        column.justify = "right"
    for name, cost in costs.items():
        shares = [f"{100 * part / max(total, 1):.1f} %" for part, total in ((cost.params, params), (cost.macs, macs))]
        table.add_row(name, _by(cost.output), f"{cost.params:,}", shares[0], f"{cost.macs / 1e6:.2f}", shares[1])
    table.add_section()
    table.add_row("all", "", f"{params:,}", "", f"{macs / 1e6:.2f}", "")
    return table


def _by(sizes: tuple[int, ...]) -> str:
    return "x".join(map(str, sizes))


def weights_hash(module: nn.Module) -> str:
    """A sha256 over names, shapes and bytes of a module's state: equal if and only if the weights are bitwise equal."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
