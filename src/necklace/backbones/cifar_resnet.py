"""The CIFAR ResNets, the 6n + 2-layer networks of He et al.

Paper: He et al., Deep Residual Learning for Image Recognition, 2016, section 4.2, https://arxiv.org/abs/1512.03385. Neither
torchvision nor timm has them.

Deviation: a shortcut that changes shape is a 1x1 convolution with BatchNorm (the paper's option B) instead of zero-padded
channels (option A).
"""

from collections.abc import Sequence

import torch
from torch import nn

from necklace.backbones.base import Backbone, places_of

STRIDES = (1, 2, 4)


class _StridedPointwise(nn.Conv2d):
    """A strided 1x1 convolution; with eight or fewer input channels it subsamples first, then convolves with stride 1.

    Same numbers, a tenth slower. It works around torch 2.14.1, whose strided 1x1 convolution on a CPU in channels_last, with
    eight or fewer input channels, writes out of bounds in the backward pass for some map sizes.
    """

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Convolve [B, C, h, w] to [B, out_channels, ceil(h / stride), ceil(w / stride)]."""
        if self.in_channels > 8:
            return super().forward(input)
        rows, columns = self.stride
        subsampled = input[:, :, ::rows, ::columns].contiguous(memory_format=torch.channels_last)
        return nn.functional.conv2d(subsampled, self.weight, self.bias)


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
        depth: Total number of layers, 6n + 2: 8, 14, 20, 26, 32, ...
        width: Channels of the first stage; the second and third have 2 * width and 4 * width.
        stages: Strides of the maps to hand out, of 1, 2 and 4; what follows the last is cut. None: the last map alone.
    """

    def __init__(self, depth: int = 8, width: int = 16, stages: Sequence[int] | None = None) -> None:
        if depth < 8 or (depth - 2) % 6:
            raise ValueError(f"backbone.depth={depth}: a CIFAR ResNet has 6n + 2 layers: 8, 14, 20, 26, 32, ...")
        if width < 1:
            raise ValueError(f"backbone.width={width}: must be at least 1")
        places = [2] if stages is None else places_of(stages, STRIDES, "a CIFAR ResNet")
        super().__init__(out_channels=width * 2 ** places[-1], stride=STRIDES[places[-1]])
        self.channels = tuple(width * 2**place for place in places)
        self.strides = tuple(STRIDES[place] for place in places)
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
        # The number of the last layer of each stage.
        self.ends = tuple(len(layers) - 1 - (2 - place) * (depth - 2) // 6 for place in places)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        del self.layers[self.ends[-1] + 1 :]
        self.load_pretrained(self.layers, None)

    def stages(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The maps of images [B, 3, H, W] at the strides that were asked for."""
        maps, x = [], images
        for number, layer in enumerate(self.layers):
            x = layer(x)
            if number in self.ends:
                maps.append(x)
        return tuple(maps)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Map images [B, 3, H, W] to features [B, 4 * width, ceil(H / 4), ceil(W / 4)]."""
        return self.layers(images)
