"""The mean over a corner of the map and a linear layer: what a network knows in a part of the image, not anywhere in it."""

import torch
from torch import nn


class Corner(nn.Module):
    """Averages the feature map over the top left corner of the image, and one linear layer; the rest is not looked at.

    Args:
        channels: Channels C of the feature map.
        num_classes: Number of logits K.
        map_size: Not used: a smaller map is averaged as a whole.
        stride: Input pixels per position of the map.
        side: Side of the corner in pixels; positions that begin within it are read.

    Raises:
        ValueError: `side` is no number of pixels.
    """

    def __init__(
        self, channels: int, num_classes: int, map_size: tuple[int, int] | None = None, stride: int = 1, side: int = 12
    ) -> None:
        super().__init__()
        if side < 1:
            raise ValueError(f"head.side={side}: must be at least 1 pixel")
        self.places = -(-side // stride)
        self.fc = nn.Linear(channels, num_classes)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Map features [B, C, h, w] to logits [B, K]."""
        return self.fc(features[:, :, : self.places, : self.places].mean((2, 3)))
