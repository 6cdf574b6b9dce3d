"""Building blocks that necks share; all map [B, C, h, w] to [B, C', h, w] and treat each position by itself."""

from torch import Tensor, nn


class ConvBNAct(nn.Sequential):
    """1x1 convolution without bias, BatchNorm, SiLU.

    In training, BatchNorm needs more than one value per channel: for a batch of one 1x1 map torch raises a ValueError.
    """

    def __init__(self, channels: int, out_channels: int) -> None:
        """Build the three layers.

        Args:
            channels: Channels of the input.
            out_channels: Channels of the output.
        """
        super().__init__()
        self.conv = nn.Conv2d(channels, out_channels, kernel_size=1, bias=False)
        self.bn = nn.BatchNorm2d(out_channels)
        self.act = nn.SiLU()


class ChannelLayerNorm(nn.LayerNorm):
    """LayerNorm over the channels of each position of [B, C, h, w]."""

    def forward(self, input: Tensor) -> Tensor:
        """Normalise [B, C, h, w] over C."""
        return super().forward(input.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class MLP(nn.Module):
    """Two 1x1 convolutions with GELU between them and dropout after each."""

    def __init__(self, channels: int, hidden: int, drop: float) -> None:
        """Build the layers.

        Args:
            channels: Channels of the input and the output.
            hidden: Channels in between.
            drop: Dropout rate after GELU and after the second convolution.
        """
        super().__init__()
        self.fc1 = nn.Conv2d(channels, hidden, kernel_size=1)
        self.act = nn.GELU()
        self.fc2 = nn.Conv2d(hidden, channels, kernel_size=1)
        self.drop = nn.Dropout(drop)

    def forward(self, x: Tensor) -> Tensor:
        """Transform each position of [B, C, h, w] by itself."""
        return self.drop(self.fc2(self.drop(self.act(self.fc1(x)))))
