"""Heads: feature map [B, C, h, w] to logits [B, K].

`Flatten` is the classic CNN with fully connected layers, whose weights fix the input size; `Pyramid` is what SPP-net (He et
al. 2014, arXiv 1406.4729) put there instead. `Gap` is today's usual answer, a one-bin average pyramid.

Every head is made from `channels`, `num_classes`, `map_size` (height and width of the training images' feature map, None where
they vary) and `stride`; only `Flatten` needs the last two.

Deviation of `Pyramid` from the paper: its bins are torch's adaptive ones, from floor(i*a/n) to ceil((i+1)*a/n), which cover any
map, where the paper's window ceil(a/n) with stride floor(a/n) can leave out a map's last rows.
"""

from collections.abc import Sequence

import torch
from torch import nn


class Gap(nn.Module):
    """Global average pooling and one linear layer; takes every size."""

    def __init__(self, channels: int, num_classes: int, map_size: tuple[int, int] | None = None, stride: int = 1) -> None:
        super().__init__()
        self.fc = nn.Linear(channels, num_classes)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Map features [B, C, h, w] to logits [B, K]."""
        return self.fc(features.mean((2, 3)))


class Flatten(nn.Module):
    """Fully connected layers over the whole map; takes only the size that it was built for.

    Args:
        channels: Channels C of the feature map.
        num_classes: Number of logits K.
        map_size: Height and width of the feature map, in positions.
        stride: Input pixels per position, for the error message.
        hidden: Width of a hidden layer, or None for one linear layer.
    """

    def __init__(
        self,
        channels: int,
        num_classes: int,
        map_size: tuple[int, int] | None,
        stride: int = 1,
        hidden: int | None = None,
    ) -> None:
        if map_size is None:
            raise ValueError(
                "head=flatten is built for one image size and the data has none; give a size with data.size=32, "
                "or take head=pyramid, which takes every size"
            )
        super().__init__()
        self.map_size = (int(map_size[0]), int(map_size[1]))
        self.stride = stride
        inputs = channels * self.map_size[0] * self.map_size[1]
        layers = [] if hidden is None else [nn.Linear(inputs, hidden), nn.ReLU()]
        self.fc = nn.Sequential(*layers, nn.Linear(hidden or inputs, num_classes))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Map features [B, C, h, w] of the built size to logits [B, K].

        Raises:
            ValueError: The map has another size.
        """
        height, width = features.shape[2:]
        if (height, width) != self.map_size:
            raise ValueError(
                f"head=flatten was built for {self._images(*self.map_size)} and got {self._images(height, width)}: "
                "the weights of a fully connected layer fix its input size. head=pyramid takes every size"
            )
        return self.fc(features.flatten(1))

    def _images(self, height: int, width: int) -> str:
        return f"images of {height * self.stride}x{width * self.stride} (a {height}x{width} feature map)"


class Pyramid(nn.Module):
    """Spatial pyramid pooling of SPP-net: n x n max-pooled bins for each n, one vector of a fixed length, one linear layer.

    Args:
        channels: Channels C of the feature map.
        num_classes: Number of logits K.
        map_size: Not used: this head takes every size.
        stride: Not used.
        bins: The n of each level; the vector has C * sum(n * n) entries.
    """

    def __init__(
        self,
        channels: int,
        num_classes: int,
        map_size: tuple[int, int] | None = None,
        stride: int = 1,
        bins: Sequence[int] = (1, 2, 4),
    ) -> None:
        if not bins or any(n < 1 for n in bins) or len(set(bins)) != len(bins):
            raise ValueError(f"head.bins={list(bins)}: must be one or more different whole numbers from 1")
        super().__init__()
        self.bins = tuple(int(n) for n in bins)
        self.fc = nn.Linear(channels * sum(n * n for n in self.bins), num_classes)

    def pool(self, features: torch.Tensor) -> torch.Tensor:
        """Pool features [B, C, h, w] to vectors [B, C * sum(n * n)]; the same length for every h and w."""
        pooled = [nn.functional.adaptive_max_pool2d(features, n).flatten(1) for n in self.bins]
        return torch.cat(pooled, 1)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Map features [B, C, h, w] to logits [B, K]."""
        return self.fc(self.pool(features))
