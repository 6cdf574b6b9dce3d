"""SelfAttention: one pre-norm transformer block in which every position attends to all positions of the map.

Papers: Vaswani et al., Attention Is All You Need, 2017, https://arxiv.org/abs/1706.03762; the pre-norm block is that of
Dosovitskiy et al., An Image is Worth 16x16 Words, 2021, https://arxiv.org/abs/2010.11929
Reference: torch.nn.TransformerEncoderLayer (norm_first=True, activation="gelu"), whose numbers the tests compare with.
Licence: torch is BSD-3. Written from the formula:

    x = x + W_o MHSA(LN(x));  x = x + MLP(LN(x))

No positional encoding, on purpose: a learned one fits one size of the map, and a neck takes every size; none of the other
global contexts (`focal`'s, `gc`, `mean_concat`) knows where a thing is, so neither should this control. What a backbone's
zero padding says of a position is left as it is.

Where `heads` does not divide the channels, a head has channels // heads of them, and at least one.
"""

from torch import Tensor, nn
from torch.nn import functional as F

from necklace.necks import options
from necklace.necks.blocks import MLP, ChannelLayerNorm


class SelfAttention(nn.Module):
    """Norm, multi-head self-attention, residual; norm, MLP, residual."""

    def __init__(self, channels: int, heads: int = 4, mlp_ratio: float = 4.0, out_channels: int | None = None) -> None:
        """Build the neck.

        Args:
            channels: Channels of the input and the output.
            heads: Number of heads.
            mlp_ratio: Hidden channels of the MLP, in multiples of `channels`.
            out_channels: None or `channels`; this neck keeps the number of channels.

        Raises:
            ValueError: An option is out of range.
        """
        super().__init__()
        self.out_channels = options.same_width(options.integer("channels", channels), out_channels)
        self.heads = options.integer("heads", heads)
        hidden = max(1, int(channels * options.number("mlp_ratio", mlp_ratio, above=0.0)))
        inner = self.heads * max(1, channels // self.heads)
        self.norm1 = ChannelLayerNorm(channels)
        self.qkv = nn.Conv2d(channels, 3 * inner, kernel_size=1)
        self.proj = nn.Conv2d(inner, channels, kernel_size=1)
        self.norm2 = ChannelLayerNorm(channels)
        self.mlp = MLP(channels, hidden, drop=0.0)

    def forward(self, x: Tensor) -> Tensor:
        """Let each position attend to all.

        Args:
            x: Feature map [B, C, h, w].

        Returns:
            Feature map [B, C, h, w].
        """
        height, width = x.shape[2:]
        # [B, 3 * heads * d, h, w] -> three of [B, heads, h * w, d]
        query, key, value = self.qkv(self.norm1(x)).flatten(2).unflatten(1, (3, self.heads, -1)).mT.unbind(1)
        found = F.scaled_dot_product_attention(query, key, value)
        x = x + self.proj(found.mT.flatten(1, 2).unflatten(2, (height, width)))
        return x + self.mlp(self.norm2(x))
