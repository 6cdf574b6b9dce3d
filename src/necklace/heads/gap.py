"""Global average pooling and a linear layer, the usual head today: a pyramid of one average bin."""

import torch
from torch import nn


class Gap(nn.Module):
    """Global average pooling and one linear layer; accepts every map size.

    Args:
        channels: Channels C of the feature map.
        num_classes: Number of logits K.
        map_size: Not used: this head accepts every size.
        stride: Not used.
    """

    def __init__(self, channels: int, num_classes: int, map_size: tuple[int, int] | None = None, stride: int = 1) -> None:
        super().__init__()
        self.fc = nn.Linear(channels, num_classes)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Map features [B, C, h, w] to logits [B, K]."""
        return self.fc(features.mean((2, 3)))
