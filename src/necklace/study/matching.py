"""Controls: the width at which a row's neck is as large as another row's."""

from functools import cache
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import nn

from necklace.build import built
from necklace.run.costs import part_cost, part_params
from necklace.study.study_file import MATCH_WITHIN


def matched_width(own: dict[str, Any], target: dict[str, Any], what: str, name: str) -> int:
    """The `neck.width` at which a row's neck costs as much as the target's, within `MATCH_WITHIN`.

    Args:
        own: The row's resolved config.
        target: That of the row that it is matched to.
        what: `params` or `macs`.
        name: The row's name, for the message.

    Raises:
        ValueError: The neck has no width, or none comes near enough.
    """
    model, size = built(target)
    # The backbone is the same in all rows, which the table checks, and is run once; only necks are counted.
    backbone = model.backbone.eval()

    @cache
    def features() -> torch.Tensor:
        return part_cost(backbone, torch.zeros(1, 3, *size))[1]

    def cost(neck: nn.Module) -> int:
        return part_params(neck) if what == "params" else part_cost(neck.eval(), features())[0].macs

    wanted = cost(model.neck)
    if "width" not in own["neck"]:
        raise ValueError(f"row '{name}': only a neck with an option neck.width can be matched, such as conv")

    @cache
    def count(width: int) -> int:
        neck = instantiate(OmegaConf.create(own["neck"] | {"width": width}), channels=backbone.out_channels)
        return cost(neck)

    low, high = 1, 2
    while count(high) < wanted:
        low, high = high, 2 * high
    while high - low > 1:  # count(low) < wanted <= count(high), or low is 1
        middle = (low + high) // 2
        low, high = (middle, high) if count(middle) < wanted else (low, middle)
    width = min((low, high), key=lambda w: abs(count(w) - wanted))
    if wanted == 0 or abs(count(width) / wanted - 1) > MATCH_WITHIN:
        raise ValueError(
            f"row '{name}': no width comes within {MATCH_WITHIN:.0%} of {wanted:,} {what}; "
            f"the nearest is {width} with {count(width):,}"
        )
    return width
