"""Backbones of torchvision and timm, cut after one stage."""

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from necklace.backbones.base import Backbone, places_of
from necklace.backbones.cutting import cut_unused
from necklace.backbones.named import given_file, timm_file, torchvision_file

# Input pixels per step of the feature map after each stage, with the ImageNet stem.
TORCHVISION_STRIDES = {"layer1": 4, "layer2": 8, "layer3": 16, "layer4": 32}

# Arguments of timm that would load weights past `pretrained`: uncounted, and a .pth file among them read with pickle.
WEIGHTS_OPTIONS = {"pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path", "cache_dir"}


class TorchvisionResNet(Backbone):
    """A ResNet of torchvision, cut after one stage.

    Args:
        name: A torchvision ResNet, such as `resnet18` or `resnet50`.
        stage: The last stage to keep: `layer1` to `layer4`.
        stem: `imagenet` (7x7 convolution of stride 2 and a max-pool: stride 4) or `cifar` (one 3x3 convolution of stride 1).
        pretrained: A local weights file (.pth, .pt or .safetensors), true for torchvision's default weights, or None.
        pretrained_skip: Name prefixes of layers that may keep their initial values, such as `conv1` with another stem.
        stages: Strides of the maps to hand out, such as `[8, 16, 32]`; the last of them takes the place of `stage`. None: the
            map of `stage` alone.
    """

    def __init__(
        self,
        name: str = "resnet18",
        stage: str = "layer4",
        stem: str = "imagenet",
        pretrained: str | bool | None = None,
        pretrained_skip: Sequence[str] = (),
        stages: Sequence[int] | None = None,
    ) -> None:
        import torchvision  # here: its import takes half a second
        from torchvision.models.feature_extraction import create_feature_extractor

        known = [known for known in torchvision.models.list_models() if hasattr(torchvision.models.resnet, known)]
        if name not in known:
            others = "; other networks: backbone=timm"
            raise ValueError(f"backbone.name={name}: not a torchvision ResNet; known: {', '.join(known)}{others}")
        if stage not in TORCHVISION_STRIDES:
            raise ValueError(f"backbone.stage={stage}: must be one of {', '.join(TORCHVISION_STRIDES)}")
        if stem not in ("imagenet", "cifar"):
            raise ValueError(f"backbone.stem={stem}: must be imagenet or cifar")
        network = torchvision.models.get_model(name, weights=None)
        if stem == "cifar":
            network.conv1 = nn.Conv2d(3, 64, 3, 1, 1, bias=False)
            nn.init.kaiming_normal_(network.conv1.weight, mode="fan_out", nonlinearity="relu")
            network.maxpool = nn.Identity()
        strides = {layer: stride // (4 if stem == "cifar" else 1) for layer, stride in TORCHVISION_STRIDES.items()}
        layers = [stage]
        if stages is not None:
            layers = [list(strides)[place] for place in places_of(stages, list(strides.values()), f"{name} with this stem")]
        channels = tuple(_channels(getattr(network, layer)[-1]) for layer in layers)
        super().__init__(channels[-1], strides[layers[-1]])
        self.channels, self.strides = channels, tuple(strides[layer] for layer in layers)
        self.stage = layers[-1]
        self.network = create_feature_extractor(network, layers)
        path = self.weights_by_name(name) if pretrained is True else given_file(pretrained)
        try:
            self.load_pretrained(self.network, path and str(path), pretrained_skip)
        except ValueError as error:
            if stem == "cifar" and "conv1" not in pretrained_skip:
                raise ValueError(f"{error}, or take backbone.stem=imagenet, the stem of ImageNet's weights") from error
            raise

    weights_by_name = staticmethod(torchvision_file)

    def stages(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The maps of images [B, 3, H, W] at the strides that were asked for."""
        return tuple(self.network(images).values())

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Map images [B, 3, H, W] to the stage's features [B, out_channels, h, w]."""
        return self.network(images)[self.stage]


def _channels(block: nn.Module) -> int:
    """The channels of a block of a ResNet."""
    layers: Any = block
    return (layers.conv3 if hasattr(layers, "conv3") else layers.conv2).out_channels


class TimmBackbone(Backbone):
    """Any timm model that supports `features_only`, cut after one stage.

    Args:
        name: A timm model name, such as `focalnet_tiny_srf`.
        stage: Index into the model's feature stages; -1 is the last. What only later stages need is cut.
        pretrained: A local weights file in timm's names, true for timm's default weights, or None.
        pretrained_skip: Name prefixes of layers that may keep their initial values.
        options: Further arguments of the timm model, such as `{focal_levels: [2, 2, 2, 2]}`.
        stages: As in `TorchvisionResNet`.
    """

    def __init__(
        self,
        name: str,
        stage: int = -1,
        pretrained: str | bool | None = None,
        pretrained_skip: Sequence[str] = (),
        options: Mapping[str, Any] | None = None,
        stages: Sequence[int] | None = None,
    ) -> None:
        import timm  # here: it takes seconds to import and brings in W&B's package

        if not timm.is_model(name):
            near = difflib.get_close_matches(name, timm.list_models(), 5)
            raise ValueError(f"backbone.name={name}: not a timm model; similar names: {', '.join(near) or 'none'}")
        for option in WEIGHTS_OPTIONS & set(options or {}):
            raise ValueError(f"backbone.options.{option}: weights come by backbone.pretrained, which the run's identity knows")
        with torch.device("meta"):
            full: Any = timm.create_model(name, features_only=True, **(options or {}))
        strides = list(full.feature_info.reduction())
        if not -len(strides) <= stage < len(strides):
            count = len(strides)
            raise ValueError(f"backbone.stage={stage}: {name} has the stages 0 to {count - 1} (or -{count} to -1)")
        places = [stage % len(strides)] if stages is None else places_of(stages, strides, name)
        about: dict[str, Any] = {"features_only": True, "out_indices": tuple(places), **(options or {})}
        network: Any = timm.create_model(name, **about)

        def twin() -> nn.Module:
            with torch.device("meta"):
                return timm.create_model(name, **about)

        cut_unused(network, twin, _size(network, options or {}))
        channels, strides = network.feature_info.channels(), network.feature_info.reduction()
        super().__init__(channels[-1], strides[-1])
        self.channels, self.strides = tuple(channels), tuple(strides)
        # Some feature wrappers return [B, h, w, C]; timm states it in this attribute.
        self.channels_last_output = getattr(network, "output_fmt", None) is not None and str(network.output_fmt.value) == "NHWC"
        self.network = network
        path = self.weights_by_name(name) if pretrained is True else given_file(pretrained)
        self.load_pretrained(self.network, path and str(path), pretrained_skip)

    weights_by_name = staticmethod(timm_file)

    def stages(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The maps of images [B, 3, H, W] at the strides that were asked for."""
        maps = self.network(images)
        return tuple(features.permute(0, 3, 1, 2) for features in maps) if self.channels_last_output else tuple(maps)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Map images [B, 3, H, W] to the last of these, features [B, out_channels, h, w]."""
        return self.stages(images)[-1]


def _size(network: Any, options: Mapping[str, Any]) -> tuple[int, int]:
    """A height and width that a timm model takes."""
    given = options.get("img_size")
    if given is None:
        return tuple(network.default_cfg["input_size"][1:])
    return (given, given) if isinstance(given, int) else tuple(given)
