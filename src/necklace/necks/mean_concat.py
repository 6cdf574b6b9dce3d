"""MeanConcat: every position is given the map's mean beside its own features.

Paper and reference implementation: none; it is this project's own (MIT), the plainest way to gather global context. Like SPP
with a single pool over the whole map, an average in place of a maximum, and without the convolution before the pool:

    y = SiLU(BN(conv1x1([x, mean over the map of x])))
"""

import torch
from torch import Tensor, nn

from necklace.necks import options
from necklace.necks.blocks import ConvBNAct


class MeanConcat(nn.Module):
    """The map and its mean, concatenated, through one 1x1 convolution with BatchNorm and SiLU."""

    def __init__(self, channels: int, out_channels: int | None = None) -> None:
        """Build the neck.

        Args:
            channels: Channels of the input.
            out_channels: Channels of the output; None for the input's.
        """
        super().__init__()
        options.integer("channels", channels)
        self.out_channels = channels if out_channels is None else options.integer("out_channels", out_channels)
        self.cv = ConvBNAct(2 * channels, self.out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Join each position with the mean.

        Args:
            x: Feature map [B, channels, h, w].

        Returns:
            Feature map [B, out_channels, h, w].
        """
        return self.cv(torch.cat([x, x.mean((2, 3), keepdim=True).expand_as(x)], 1))
