"""Parameters and multiply-adds of a model's parts, counted before training."""

from dataclasses import dataclass
from typing import Any

import torch
from rich.table import Table
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from necklace.model import Model

PARTS = ("backbone", "neck", "head")


@dataclass(frozen=True)
class Cost:
    """The cost of one part of a model for one image.

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
    with torch.no_grad():
        maps = model.maps(x) if model.dense else ()
    for name in PARTS:
        costs[name], x = part_cost(getattr(model, name), maps if model.dense and name == "head" else x)
    model.train(was_training)
    return costs


def part_cost(part: nn.Module, x: Any) -> tuple[Cost, Any]:
    """Count one part.

    Args:
        part: In evaluation mode.
        x: Its input for one image, with a batch axis; several maps for a dense head, whose output counts as its scores.

    Returns:
        Its cost and its output.
    """
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        x = part(x)
    output: torch.Tensor = x[0] if isinstance(x, tuple) else x
    return Cost(part_params(part), counter.get_total_flops() // 2, tuple(output.shape[1:])), x


def part_params(part: nn.Module) -> int:
    """The number of a part's trained values."""
    return sum(parameter.numel() for parameter in part.parameters())


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
