"""The controls: no neck, and a neck with parameters but without context.

Paper and reference implementation: none; both are this project's own (MIT). A neck that gathers context also adds parameters,
depth and a nonlinearity. `NoNeck` measures backbone and head without a neck; `ConvNeck` measures the same number of parameters
applied to each position by itself. The gain of a neck over `ConvNeck` is the gain from its context.

ConvNeck is SPP without its pools: two 1x1 convolutions, each with BatchNorm and SiLU. Its width is free, so that its number of
parameters can match another neck's: channels -> width -> channels has width * (2 * channels + 2) + 2 * channels parameters.
"""

from torch import Tensor, nn

from necklace.necks import options
from necklace.necks.blocks import ConvBNAct


class NoNeck(nn.Module):
    """The identity."""

    def __init__(self, channels: int) -> None:
        """Build the neck.

        Args:
            channels: Channels of the input and the output.
        """
        super().__init__()
        self.out_channels = options.integer("channels", channels)

    def forward(self, x: Tensor) -> Tensor:
        """Return the map unchanged.

        Args:
            x: Feature map [B, channels, h, w].

        Returns:
            The same tensor.
        """
        return x


class ConvNeck(nn.Module):
    """Two 1x1 convolutions with BatchNorm and SiLU: capacity without context."""

    def __init__(self, channels: int, width: int | None = None, out_channels: int | None = None) -> None:
        """Build the neck.

        Args:
            channels: Channels of the input.
            width: Channels between the two convolutions; None for the input's.
            out_channels: Channels of the output; None for the input's.
        """
        super().__init__()
        options.integer("channels", channels)
        width = channels if width is None else options.integer("width", width)
        self.out_channels = channels if out_channels is None else options.integer("out_channels", out_channels)
        self.cv1 = ConvBNAct(channels, width)
        self.cv2 = ConvBNAct(width, self.out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Transform each position by itself.

        Args:
            x: Feature map [B, channels, h, w].

        Returns:
            Feature map [B, out_channels, h, w].
        """
        return self.cv2(self.cv1(x))
