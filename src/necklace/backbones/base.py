"""The base class of all backbones."""

from collections.abc import Iterable, Sequence

import torch
from torch import nn

from necklace.backbones.weights import load_weights, loadable_names


class Backbone(nn.Module):
    """A network that ends in one feature map.

    Attributes:
        out_channels: Channels of the feature map.
        stride: Input pixels per step of the feature map.
        pretrained: Tensors loaded from a weights file and tensors in total; `(0, total)` without a file.
    """

    def __init__(self, out_channels: int, stride: int) -> None:
        super().__init__()
        self.out_channels = out_channels
        self.stride = stride
        self.pretrained = (0, 0)

    def load_pretrained(self, network: nn.Module, path: str | None, skip: Sequence[str] = ()) -> None:
        """Load `network` from a weights file and set `pretrained`.

        Args:
            network: The network to fill, in place.
            path: The weights file; None only counts the tensors.
            skip: Name prefixes of tensors that may keep their initial values.
        """
        names = loadable_names(network)
        self.pretrained = (0, len(names)) if path is None else load_weights(network, path, skip)

    def map_size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of the feature map of an image of this height and width."""
        return -(-height // self.stride), -(-width // self.stride)

    def prepare(self, batches: Iterable[torch.Tensor]) -> None:
        """Set weights that depend on the training images; most networks have none.

        Args:
            batches: Training images [B, 3, H, W], normalised and not augmented, in the order of their split.
        """
