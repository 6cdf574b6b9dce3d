"""The base class of all backbones."""

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import nn

from necklace.backbones.weights import State, load_weights, loadable_names


class Backbone(nn.Module):
    """A network that ends in one feature map, and may hand out finer ones on the way.

    Attributes:
        out_channels: Channels of the feature map.
        stride: Input pixels per step of the feature map.
        channels: Channels of each map of `stages`; the last is `out_channels`.
        strides: Input pixels per step of each map of `stages`, ascending; the last is `stride`.
        renamed: Gives the tensors of a weights file the network's names, where a file has others.
        pretrained: Tensors loaded from a weights file and tensors in total; `(0, total)` without a file.
    """

    renamed: Callable[[State], State] | None = None

    def __init__(self, out_channels: int, stride: int) -> None:
        super().__init__()
        self.out_channels = out_channels
        self.stride = stride
        self.channels: tuple[int, ...] = (out_channels,)
        self.strides: tuple[int, ...] = (stride,)
        self.pretrained = (0, 0)

    def stages(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The feature maps of images [B, 3, H, W], from fine to coarse; the last is what `forward` gives."""
        return (self(images),)

    def load_pretrained(self, network: nn.Module, path: str | None, skip: Sequence[str] = ()) -> None:
        """Load `network` from a weights file and set `pretrained`.

        Args:
            network: The network to fill, in place.
            path: The weights file; None only counts the tensors.
            skip: Name prefixes of tensors that may keep their initial values.
        """
        names = loadable_names(network)
        self.pretrained = (0, len(names)) if path is None else load_weights(network, path, skip, self.renamed)

    def map_size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of the feature map of an image of this height and width."""
        return -(-height // self.stride), -(-width // self.stride)

    def prepare(self, batches: Iterable[torch.Tensor]) -> None:
        """Set weights that depend on the training images; most networks have none.

        Args:
            batches: Training images [B, 3, H, W], normalised and not augmented, in the order of their split.
        """


def places_of(stages: Sequence[int], strides: Sequence[int], network: str) -> list[int]:
    """The place of each stage that is asked for by its stride; of several with one stride, the last.

    Args:
        stages: The strides that are asked for.
        strides: Those that the network has, stage by stage.
        network: Its name, for the message.

    Raises:
        ValueError: There is no such stage, or they are not in ascending order.
    """
    known = {stride: place for place, stride in enumerate(strides)}
    wanted = list(stages)
    if not wanted or wanted != sorted(set(wanted)) or not set(wanted) <= known.keys():
        raise ValueError(
            f"backbone.stages={wanted}: must be different strides of {network} in ascending order: "
            f"{', '.join(map(str, sorted(known)))}"
        )
    return [known[stride] for stride in wanted]
