"""One position of the map and a linear layer: what a network knows at a place of the image, instead of anywhere in it."""

from collections.abc import Sequence

import torch
from torch import nn


class Point(nn.Module):
    """Reads the feature map at one pixel of the image, by one linear layer; the rest of the map is not looked at.

    Args:
        channels: Channels C of the feature map.
        num_classes: Number of logits K.
        map_size: Not used: a map that is too small is an error when it comes.
        stride: Input pixels per position of the map.
        at: Row and column of the pixel, from the top left.

    Raises:
        ValueError: `at` is no pixel.
    """

    def __init__(
        self,
        channels: int,
        num_classes: int,
        map_size: tuple[int, int] | None = None,
        stride: int = 1,
        at: Sequence[int] = (6, 6),
    ) -> None:
        super().__init__()
        if len(at) != 2 or any(not isinstance(place, int) or isinstance(place, bool) or place < 0 for place in at):
            raise ValueError(f"head.at={list(at)}: must be row and column of a pixel, two whole numbers from 0")
        self.at, self.row, self.column = tuple(at), at[0] // stride, at[1] // stride
        self.fc = nn.Linear(channels, num_classes)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Map features [B, C, h, w] to logits [B, K].

        Raises:
            ValueError: `at` lies outside the image.
        """
        height, width = features.shape[2:]
        if self.row >= height or self.column >= width:
            raise ValueError(
                f"head.at={list(self.at)}: lies outside the image: it is position {self.row}, {self.column} of a feature map "
                f"of {height}x{width}"
            )
        return self.fc(features[:, :, self.row, self.column])
