"""Backbones: images [B, 3, H, W] to one feature map [B, out_channels, ceil(H / stride), ceil(W / stride)].

`CifarResNet` is ours, since the 6n+2-layer networks of He et al. 2016 (arXiv 1512.03385, section 4.2) are in neither library.
Everything else comes from torchvision and timm, cut after one stage. Deviation of `CifarResNet` from the paper: a shortcut that
changes shape is a 1x1 convolution with BatchNorm (the paper's option B) instead of zero-padded channels (option A).
"""

import copy
import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import timm
import torch
import torchvision
from torch import nn
from torchvision.models.feature_extraction import create_feature_extractor

TORCHVISION_STAGES = {"layer1": 4, "layer2": 8, "layer3": 16, "layer4": 32}


class Backbone(nn.Module):
    """A network that ends in one feature map.

    Attributes:
        out_channels: Channels of the feature map.
        stride: Input pixels per step of the feature map.
        pretrained: Tensors taken from a weights file and tensors in all, `(0, total)` without a file.
    """

    def __init__(self, out_channels: int, stride: int) -> None:
        super().__init__()
        self.out_channels = out_channels
        self.stride = stride
        self.pretrained = (0, 0)

    def load_pretrained(self, network: nn.Module, path: str | None, skip: Sequence[str] = ()) -> None:
        """Fill `network` from a weights file, or just count its tensors where `path` is None."""
        names = loadable_names(network)
        self.pretrained = (0, len(names)) if path is None else load_weights(network, path, skip)


class _StridedPointwise(nn.Conv2d):
    """A 1x1 convolution of a stride that, with few channels, takes the pixels first and convolves what is left.

    The same numbers, a tenth slower; but torch 2.14.1's own, on a CPU in channels_last with eight or fewer input channels,
    writes past its memory in the backward pass for some map sizes.
    """

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Map [B, C, h, w] to [B, out_channels, ceil(h / stride), ceil(w / stride)]."""
        if self.in_channels > 8:
            return super().forward(input)
        rows, columns = self.stride
        taken = input[:, :, ::rows, ::columns].contiguous(memory_format=torch.channels_last)
        return nn.functional.conv2d(taken, self.weight, self.bias)


class _BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut (He et al. 2016)."""

    def __init__(self, channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, out_channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.shortcut = nn.Sequential()
        if stride != 1 or channels != out_channels:
            self.shortcut = nn.Sequential(
                _StridedPointwise(channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels)
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class CifarResNet(Backbone):
    """The CIFAR ResNet of He et al. 2016: three stages of n blocks at strides 1, 2 and 4.

    Args:
        depth: Layers in all, 6n + 2: 8, 14, 20, 32, ...
        width: Channels of the first stage; the others have two and four times as many.
    """

    def __init__(self, depth: int = 8, width: int = 16) -> None:
        if depth < 8 or (depth - 2) % 6:
            raise ValueError(f"backbone.depth={depth}: a CIFAR ResNet has 6n + 2 layers: 8, 14, 20, 26, 32, ...")
        if width < 1:
            raise ValueError(f"backbone.width={width}: must be at least 1")
        super().__init__(out_channels=4 * width, stride=4)
        layers: list[nn.Module] = [
            nn.Conv2d(3, width, 3, 1, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
        ]
        channels = width
        for stage in range(3):
            for block in range((depth - 2) // 6):
                out_channels = width * 2**stage
                layers.append(_BasicBlock(channels, out_channels, 2 if stage and not block else 1))
                channels = out_channels
        self.layers = nn.Sequential(*layers)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        self.load_pretrained(self.layers, None)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Map images [B, 3, H, W] to features [B, 4 * width, ceil(H / 4), ceil(W / 4)]."""
        return self.layers(images)


class TorchvisionResNet(Backbone):
    """A ResNet of torchvision, cut after one stage.

    Args:
        name: A torchvision ResNet, such as `resnet18` or `resnet50`.
        stage: The last stage that is kept: `layer1` to `layer4`.
        stem: `imagenet` (7x7 convolution of stride 2 and a max-pool: stride 4) or `cifar` (one 3x3 convolution of stride 1).
        pretrained: A local weights file (.pth, .pt or .safetensors), or None.
        pretrained_skip: Prefixes of layers that may stay at their initial values, such as `conv1` with another stem.
    """

    def __init__(
        self,
        name: str = "resnet18",
        stage: str = "layer4",
        stem: str = "imagenet",
        pretrained: str | None = None,
        pretrained_skip: Sequence[str] = (),
    ) -> None:
        known = [known for known in torchvision.models.list_models() if hasattr(torchvision.models.resnet, known)]
        if name not in known:
            raise ValueError(f"backbone.name={name}: not a torchvision ResNet; known: {', '.join(known)}")
        if stage not in TORCHVISION_STAGES:
            raise ValueError(f"backbone.stage={stage}: must be one of {', '.join(TORCHVISION_STAGES)}")
        if stem not in ("imagenet", "cifar"):
            raise ValueError(f"backbone.stem={stem}: must be imagenet or cifar")
        network = torchvision.models.get_model(name, weights=None)
        if stem == "cifar":
            network.conv1 = nn.Conv2d(3, 64, 3, 1, 1, bias=False)
            nn.init.kaiming_normal_(network.conv1.weight, mode="fan_out", nonlinearity="relu")
            network.maxpool = nn.Identity()
        last = getattr(network, stage)[-1]
        channels = (last.conv3 if hasattr(last, "conv3") else last.conv2).out_channels
        super().__init__(channels, TORCHVISION_STAGES[stage] // (4 if stem == "cifar" else 1))
        self.stage = stage
        self.network = create_feature_extractor(network, [stage])
        self.load_pretrained(self.network, pretrained, pretrained_skip)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Map images [B, 3, H, W] to the stage's features [B, out_channels, h, w]."""
        return self.network(images)[self.stage]


class TimmBackbone(Backbone):
    """Any timm model that can hand out its features, cut after one stage.

    Args:
        name: A timm model name, such as `focalnet_tiny_srf`.
        stage: Index into the model's feature stages; -1 is the last.
        pretrained: A local weights file in timm's names, or None.
        pretrained_skip: Prefixes of layers that may stay at their initial values.
        options: Further arguments of the timm model, such as `{focal_levels: [2, 2, 2, 2]}`.
    """

    def __init__(
        self,
        name: str,
        stage: int = -1,
        pretrained: str | None = None,
        pretrained_skip: Sequence[str] = (),
        options: Mapping[str, Any] | None = None,
    ) -> None:
        if not timm.is_model(name):
            near = difflib.get_close_matches(name, timm.list_models(), 5)
            raise ValueError(f"backbone.name={name}: not a timm model; near it: {', '.join(near) or 'none'}")
        with torch.device("meta"):
            every: Any = timm.create_model(name, features_only=True, **(options or {}))
        stages = len(every.feature_info.channels())
        if not -stages <= stage < stages:
            raise ValueError(f"backbone.stage={stage}: {name} has the stages 0 to {stages - 1} (or -{stages} to -1)")
        index = stage % stages
        network: Any = timm.create_model(name, features_only=True, out_indices=(index,), **(options or {}))
        super().__init__(network.feature_info.channels()[0], network.feature_info.reduction()[0])
        # Some feature wrappers hand out [B, h, w, C]; timm says so in this attribute.
        self.channels_last_output = getattr(network, "output_fmt", None) is not None and str(network.output_fmt.value) == "NHWC"
        self.network = network
        self.load_pretrained(self.network, pretrained, pretrained_skip)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Map images [B, 3, H, W] to the stage's features [B, out_channels, h, w]."""
        features = self.network(images)[0]
        return features.permute(0, 3, 1, 2) if self.channels_last_output else features


def loadable_names(network: nn.Module) -> list[str]:
    """Names of the tensors that a weights file has to fill; BatchNorm's step counters are not among them."""
    return [name for name in network.state_dict() if not name.endswith("num_batches_tracked")]


def load_weights(network: nn.Module, path: str, skip: Sequence[str] = ()) -> tuple[int, int]:
    """Fill a network from a local file; every tensor must come from it, but for the named exceptions.

    Tensors of the file that the network has no place for (later stages, the classifier) are left; a tensor of the network
    that the file lacks, or holds in another shape, would silently stay random, so it is an error.

    Args:
        network: The network to fill, in place.
        path: A .safetensors file, or a .pth/.pt file with a state dict (bare, or under `state_dict` or `model`).
        skip: Name prefixes of tensors that may stay as they are.

    Returns:
        The number of tensors loaded, and of all that the network has.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is not a state dict, or does not cover the network.
    """
    given = read_state_dict(path)
    own = network.state_dict()
    required = loadable_names(network)
    loaded, missing, misshapen = {}, [], []
    for name in required:
        source = next((key for key in _file_names(name) if key in given), None)
        if source is not None and given[source].shape == own[name].shape:
            loaded[name] = given[source]
        elif not any(name.startswith(prefix) for prefix in skip):
            if source is None:
                missing.append(name)
            else:
                misshapen.append(f"{name} {tuple(given[source].shape)} instead of {tuple(own[name].shape)}")
    if missing or misshapen:
        problems = [f"lacks {_some(missing)}"] * bool(missing) + [f"has {_some(misshapen)}"] * bool(misshapen)
        raise ValueError(
            f"backbone.pretrained={path}: covers {len(loaded)} of {len(required)} tensors; the file "
            f"{' and '.join(problems)}. Name layers that may stay random in backbone.pretrained_skip"
        )
    network.load_state_dict(loaded, strict=False)
    return len(loaded), len(required)


def read_state_dict(path: str) -> dict[str, torch.Tensor]:
    """Read a file of named tensors without running any code from it."""
    if not Path(path).is_file():
        raise FileNotFoundError(f"backbone.pretrained={path}: there is no such file")
    if path.endswith(".safetensors"):
        from safetensors.torch import load_file

        return load_file(path)
    content = torch.load(path, map_location="cpu", weights_only=True)
    for key in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not all(isinstance(value, torch.Tensor) for value in content.values()):
        raise ValueError(f"backbone.pretrained={path}: holds no state dict (a dict of name to tensor)")
    return content


def _file_names(name: str) -> list[str]:
    """Names under which a file may hold a tensor: timm's feature wrappers add `model.` and write `stages_0` for `stages.0`."""
    bare = name.removeprefix("model.")
    head, _, index = bare.partition(".")[0].rpartition("_")
    nested = [f"{head}.{index}.{bare.partition('.')[2]}"] if head and index.isdigit() else []
    return [name, bare, *nested]


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def receptive_field(backbone: Backbone, limit: int = 512) -> int | None:
    """Measure how many input pixels, along one side, reach one position of the feature map.

    Every weight is replaced by its absolute value and every max-pool by a mean, so that no gradient cancels, dies in a ReLU or
    goes to the largest pixel alone; the extent of the non-zero gradient of one central output is the receptive field.

    Args:
        backbone: The network; it is copied, not changed.
        limit: The largest square image that is tried, in pixels.

    Returns:
        The side in pixels, or None where it reaches over a whole `limit` x `limit` image (attention, global pooling).
    """
    probe = copy.deepcopy(backbone).double().cpu().eval()
    with torch.no_grad():
        for tensor in probe.parameters():
            # A constant keeps zero-initialised layers (the last BatchNorm of a residual branch) from hiding their branch.
            tensor.copy_(tensor.abs() + 1e-3)
    for name, module in list(probe.named_modules()):
        if isinstance(module, nn.MaxPool2d):
            mean = nn.AvgPool2d(module.kernel_size, module.stride, module.padding, module.ceil_mode)
            probe.set_submodule(name, mean)
    size = 32
    while size <= limit:
        images = torch.ones(1, 3, size, size, dtype=torch.double, requires_grad=True)
        features = probe(images)
        centre = features[0, :, features.shape[2] // 2, features.shape[3] // 2].sum()
        (gradient,) = torch.autograd.grad(centre, images)
        touched = gradient[0].abs().sum(0) > 0
        rows, columns = touched.any(1).nonzero().flatten(), touched.any(0).nonzero().flatten()
        inside = min(int(rows[0]), int(columns[0])) > 0 and max(int(rows[-1]), int(columns[-1])) < size - 1
        if inside:
            return max(int(rows[-1] - rows[0]), int(columns[-1] - columns[0])) + 1
        size *= 2
    return None
