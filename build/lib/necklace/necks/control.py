"""The controls: no neck at all, and a neck with parameters but without context.

Paper and reference implementation: none; both are this project's own (MIT), made to take a comparison apart. A neck
that gathers context also adds parameters, depth and a nonlinearity. `NoNeck` says what the backbone and head do
alone; `ConvNeck` says what as many parameters do at each position by itself. What a neck gains over the second is
what its context gained.

ConvNeck is SPP without its pools: two 1x1 convolutions, each with BatchNorm and SiLU. Its width is free, so that its
parameters can be made to match another neck's; channels -> width -> channels costs
width * (2 * channels + 2) + 2 * channels of them.
"""

from torch import Tensor, nn

from necklace.necks import options
from necklace.necks.spp import ConvBNAct


class NoNeck(nn.Module):
    """Hands the map on as it is."""

    def __init__(self, channels: int) -> None:
        """Build the neck.

        Args:
            channels: Width of the input and the output.
        """
        super().__init__()
        self.out_channels = options.integer("channels", channels)

    def forward(self, x: Tensor) -> Tensor:
        """Return the map itself.

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
            channels: Width of the input.
            width: Width between the two convolutions; the input's if None.
            out_channels: Width of the output; the input's if None.
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
