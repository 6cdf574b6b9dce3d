"""Fully connected layers over the flattened map: the classic CNN head, whose weights fix the input size."""

import torch
from torch import nn


class Flatten(nn.Module):
    """Fully connected layers over the whole map; accepts only the map size that it was built for.

    Args:
        channels: Channels C of the feature map.
        num_classes: Number of logits K.
        map_size: Height and width of the feature map; None is an error.
        stride: Input pixels per position of the map, for the error message.
        hidden: Width of a hidden layer, or None for one linear layer.

    Raises:
        ValueError: `map_size` is None.
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
                "head=flatten needs one image size and this data has several; set one with data/sizes=fixed data.size=32, "
                "or use head=pyramid, which accepts every size"
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
            ValueError: The map has another size than `map_size`.
        """
        height, width = features.shape[2:]
        if (height, width) != self.map_size:
            raise ValueError(
                f"head=flatten was built for {self._images(*self.map_size)} and got {self._images(height, width)}: "
                "the weights of a fully connected layer fix its input size. head=pyramid accepts every size"
            )
        return self.fc(features.flatten(1))

    def _images(self, height: int, width: int) -> str:
        return f"images of about {height * self.stride}x{width * self.stride} (a {height}x{width} feature map)"
