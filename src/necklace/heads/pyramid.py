"""Spatial pyramid pooling as a head.

Paper: He et al., Spatial Pyramid Pooling in Deep Convolutional Networks, 2014, https://arxiv.org/abs/1406.4729 (SPP-net), which
puts it in the place of a flattened map.

Deviation: the bins are torch's adaptive ones, from floor(i*a/n) to ceil((i+1)*a/n), which cover any map. The paper's windows
of ceil(a/n) with stride floor(a/n) can leave out a map's last rows.
"""

from collections.abc import Sequence

import torch
from torch import nn


class Pyramid(nn.Module):
    """Spatial pyramid pooling of SPP-net: n x n max-pooled bins for each n, one vector of a fixed length, one linear layer.

    Args:
        channels: Channels C of the feature map.
        num_classes: Number of logits K.
        map_size: Not used: this head accepts every size.
        stride: Not used.
        bins: The n of each level; the vector has C * sum(n * n) entries.

    Raises:
        ValueError: `bins` is empty, repeats an n or has one below 1.
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
        """Pool features [B, C, h, w] to vectors [B, C * sum(n * n)]; the length does not depend on h and w."""
        pooled = [nn.functional.adaptive_max_pool2d(features, n).flatten(1) for n in self.bins]
        return torch.cat(pooled, 1)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Map features [B, C, h, w] to logits [B, K]."""
        return self.fc(self.pool(features))
