"""GlobalContext: one vector for the whole map, found by attention, is transformed and added to every position.

Paper: Cao et al., GCNet: Non-local Networks Meet Squeeze-Excitation Networks and Beyond, 2019, https://arxiv.org/abs/1904.11492
Reference: xvjiarui/GCNet, mmdet/ops/gcb/context_block.py (pooling "att", fusion "channel_add"); timm, layers/global_context.py
(fuse_add without fuse_scale; the names of the weights are timm's).
Licence: both are Apache-2.0. Written from the formula:

    a = softmax over positions of (w_k x);  c = sum_i a_i x_i;  y = x + W_2 ReLU(LN(W_1 c))

Deviations:
* W_2 has torch's default initialisation, as all other layers here. The references start it at zero, so that the block begins as
  the identity and does not disturb a trained network; here it is trained from the start.
* `reduction` is 4, one of the paper's two values (4 and 16): at 16, a map of 64 channels would leave four hidden ones. At least
  two are kept, since LayerNorm makes a constant of one.
"""

import torch
from torch import Tensor, nn

from necklace.necks import options
from necklace.necks.blocks import ChannelLayerNorm


class GlobalContext(nn.Module):
    """The global context block: attention pooling, a bottleneck with LayerNorm and ReLU, addition."""

    def __init__(self, channels: int, reduction: int = 4, out_channels: int | None = None) -> None:
        """Build the neck.

        Args:
            channels: Channels of the input and the output.
            reduction: `channels` divided by the channels of the bottleneck.
            out_channels: None or `channels`; this neck keeps the number of channels.
        """
        super().__init__()
        self.out_channels = options.same_width(options.integer("channels", channels), out_channels)
        hidden = max(2, channels // options.integer("reduction", reduction))
        self.conv_attn = nn.Conv2d(channels, 1, kernel_size=1)
        self.mlp_add = nn.ModuleDict(
            {
                "fc1": nn.Conv2d(channels, hidden, kernel_size=1),
                "norm": ChannelLayerNorm(hidden, eps=1e-6),
                "fc2": nn.Conv2d(hidden, channels, kernel_size=1),
            }
        )

    def forward(self, x: Tensor) -> Tensor:
        """Add the map's context to each position.

        Args:
            x: Feature map [B, C, h, w].

        Returns:
            Feature map [B, C, h, w].
        """
        attention = self.conv_attn(x).flatten(2).softmax(2)
        context = torch.bmm(x.flatten(2), attention.mT)[..., None]
        return x + self.mlp_add["fc2"](torch.relu(self.mlp_add["norm"](self.mlp_add["fc1"](context))))
