"""The model: backbone, neck and head in sequence, each initialised from its own random stream."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from necklace.backbones import Backbone
from necklace.seeding import stream, torch_generator


class Model(nn.Module):
    """Images [B, 3, H, W] -> backbone [B, C, h, w] -> neck [B, C', h, w] -> head: logits [B, K].

    A dense head is given the finer maps of the backbone as well, and predicts boxes.

    Attributes:
        dense: Whether the head is a dense one.
        mirror: Whether evaluation averages the logits of an image and of its mirror image, which takes twice the time.
        shift: Pixels by which evaluation also shifts an image, up and to the left and down and to the right; its border is
            repeated. The logits of the two count half, those of the image itself the other half, which takes three times as
            long. Both are from airbench94, https://arxiv.org/abs/2404.00498; off unless set, and not for a dense head.
    """

    def __init__(self, backbone: Backbone, neck: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.neck = neck
        self.head = head
        self.dense = bool(getattr(head, "dense", False))
        self.mirror = False
        self.shift = 0

    def maps(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """What a dense head is given: the backbone's maps from fine to coarse, the neck on the last."""
        *finer, last = self.backbone.stages(images)
        return (*finer, self.neck(last))

    def forward(self, images: torch.Tensor) -> Any:
        """Map images [B, 3, H, W] to logits [B, K], or to what a dense head predicts, `heads.Dense`."""
        if self.dense:
            return self.head(self.maps(images))
        if self.training:
            return self.head(self.neck(self.backbone(images)))
        return self.averaged([self.head(self.neck(self.backbone(view))) for view in self.views(images)])

    def views(self, images: torch.Tensor) -> list[torch.Tensor]:
        """What evaluation looks at, from images [B, 3, H, W]: themselves, and what `mirror` and `shift` ask for, as large."""
        views = [images]
        if self.shift:
            border, cut = [self.shift] * 4, 2 * self.shift
            padded = nn.functional.pad(images, border, mode="replicate")
            both = padded[:, :, cut:, cut:], padded[:, :, :-cut, :-cut]
            views += [view.contiguous(memory_format=torch.channels_last) for view in both]
        return [side for view in views for side in ((view, view.flip(3)) if self.mirror else (view,))]

    def averaged(self, logits: Sequence[torch.Tensor]) -> torch.Tensor:
        """The logits of images from those of their `views`."""
        if len(logits) == 1:
            return logits[0]
        own = 2 if self.mirror else 1
        mean = sum(logits[1:own], logits[0]) / own
        if self.shift:
            mean = (mean + sum(logits[own + 1 :], logits[own]) / (2 * own)) / 2
        return mean


def build_model(
    backbone: Callable[[], Backbone],
    neck: Callable[..., nn.Module],
    head: Callable[..., nn.Module],
    num_classes: int,
    image_size: tuple[int, int] | None,
    seed: int,
    dense: bool = False,
) -> Model:
    """Build the three parts, each from its own random stream, so the backbone's initial weights do not depend on the neck.

    Args:
        backbone: Builds the backbone.
        neck: Builds the neck from `channels`.
        head: Builds the head from `channels`, `num_classes`, `map_size` and `stride`; a dense one from `channels` and
            `strides` of all maps, and `num_classes`.
        num_classes: Number of logits K.
        image_size: Height and width of the training images in pixels, or None if they vary.
        seed: The run's seed.
        dense: Whether the head is a dense one.

    Returns:
        The model, in training mode, in channels_last, where stride-1 max-pools are ten times faster on a CPU.
    """
    with stream(seed, "backbone"):
        made_backbone = backbone()
    with stream(seed, "neck"):
        made_neck = neck(channels=made_backbone.out_channels)
    stride = made_backbone.stride
    map_size = None if image_size is None else made_backbone.map_size(*image_size)
    with stream(seed, "head"):
        if dense:
            channels = (*made_backbone.channels[:-1], made_neck.out_channels)
            made_head = head(channels=channels, num_classes=num_classes, strides=made_backbone.strides)
        else:
            made_head = head(channels=made_neck.out_channels, num_classes=num_classes, map_size=map_size, stride=stride)
    model = Model(made_backbone, made_neck, made_head)
    return model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]


def move_last_place(model: nn.Module, draw: int) -> None:
    """Move each weight to the next number above or below it, or leave it, each with probability 1/3.

    Numerically that is nothing. So two runs that differ in the draw alone differ by what rounding does to a training. A weight
    of 0 stays, since its neighbours are not normal numbers, which are slow to compute with.

    Args:
        model: Its parameters are moved in place.
        draw: Number of the draw, from 1; 0 moves nothing. Each parameter has a stream of its own, so that the backbone is moved
            alike whatever the neck.
    """
    if not draw:
        return
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.is_floating_point():
                steps = torch.randint(-1, 2, weight.shape, generator=torch_generator(draw, f"rounding/{name}")).to(weight)
                moved = torch.nextafter(weight, weight + steps * weight.abs().clamp(min=1))
                weight.copy_(torch.where(weight == 0, weight, moved))


def weights_hash(module: nn.Module) -> str:
    """Return a sha256 over names, types, shapes and bytes of a module's state: equal hashes mean bitwise equal weights."""
    return state_hash(module.state_dict())


def state_hash(state: Mapping[str, torch.Tensor], prefix: str = "") -> str:
    """`weights_hash` of a module from its state alone, such as a checkpoint has it.

    Args:
        state: Name to tensor.
        prefix: Only names that begin with it count, without it.
    """
    digest = hashlib.sha256()
    own = {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
    for name, tensor in sorted(own.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
