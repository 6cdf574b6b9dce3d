"""A small network that converges within minutes on one core: the plan of airbench94, with a larger last map.

Paper: Jordan, 94% on CIFAR-10 in 3.29 Seconds on a Single GPU, 2024, https://arxiv.org/abs/2404.00498. From it are the three
groups of two convolutions with the pool after a group's first one, the frozen whitening convolution (there after Page, How to
Train Your ResNet, 2018), convolutions that start as the identity (after Zagoruyko and Komodakis, 2017), and BatchNorm without a
scale and with a short memory. The second convolution of a group is a residual branch, as in the same paper's larger networks.

Deviations:
* The third group has no pool, so a neck sees 7x7 positions of a 32x32 image, not 3x3.
* ReLU instead of GELU, which costs up to a third of a CPU's training step. The whitened channels come in pairs of both signs,
  so that ReLU loses none of them.
* The whitening has no bias, so that the network's largest map needs no gradient.
* Widths are width, 3 * width and 3 * width instead of 64, 256 and 256.
"""

from collections.abc import Iterable

import torch
from torch import nn

from necklace.backbones.base import Backbone

PATCH = 2  # side in pixels of the patches that are whitened
DIRECTIONS = 3 * PATCH * PATCH
SHRINK = 5e-4  # added to the variances, so that directions that hardly vary are not blown up
SMALLEST = 5  # side in pixels of the smallest image, which gives one position


class FastCnn(Backbone):
    """The network.

    Args:
        width: Channels of the first group; the second and third have three times as many.
    """

    def __init__(self, width: int = 64) -> None:
        if width < 8:
            raise ValueError(f"backbone.width={width}: must be at least 8")
        super().__init__(out_channels=3 * width, stride=4)
        self.whitening = nn.Conv2d(3, 2 * DIRECTIONS, PATCH, bias=False)
        self.whitening.weight.requires_grad_(False)
        groups: list[nn.Module] = []
        channels = 2 * DIRECTIONS
        for out_channels, pooled in ((width, True), (3 * width, True), (3 * width, False)):
            groups += [_conv(channels, out_channels, pooled), _Residual(*_conv(out_channels, out_channels, pooled=False))]
            channels = out_channels
        self.groups = nn.Sequential(*groups)
        self.load_pretrained(self, None)

    def prepare(self, batches: Iterable[torch.Tensor]) -> None:
        """Set the whitening from training images: its outputs on their patches are uncorrelated, with variance 1.

        Args:
            batches: Normalised images [B, 3, H, W].
        """
        products, count = torch.zeros(DIRECTIONS, DIRECTIONS, dtype=torch.double), 0
        for images in batches:
            patches = nn.functional.unfold(images.detach().cpu(), PATCH).transpose(1, 2).reshape(-1, DIRECTIONS).double()
            products += patches.T @ patches
            count += len(patches)
        variances, directions = torch.linalg.eigh(products / count)
        # An eigenvector's sign is the solver's choice; both signs are used, the one with a positive sum first.
        directions = directions.T.flip(0)
        directions = directions * torch.where(directions.sum(1, keepdim=True) < 0, -1.0, 1.0)
        scaled = directions / (variances.flip(0)[:, None] + SHRINK).sqrt()
        weight = torch.cat([scaled, -scaled]).view(-1, 3, PATCH, PATCH)
        self.whitening.weight.data.copy_(weight)

    def map_size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of the feature map of an image: 7x7 for 32x32."""
        return (height - PATCH + 1) // 4, (width - PATCH + 1) // 4

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Map images [B, 3, H, W] to features [B, 3 * width, (H - 1) // 4, (W - 1) // 4].

        Raises:
            ValueError: The images are too small.
        """
        if min(images.shape[2:]) < SMALLEST:
            height, width = images.shape[2:]
            raise ValueError(
                f"backbone=fast_cnn: images of {height}x{width} pixels are too small: the least side is {SMALLEST}"
            )
        return self.groups(torch.relu(self.whitening(images)))


class _Residual(nn.Sequential):
    """x + f(x)."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return input + super().forward(input)


def _conv(channels: int, out_channels: int, pooled: bool) -> nn.Sequential:
    """A 3x3 convolution that starts as the identity on the first channels, perhaps a pool, BatchNorm without scale, ReLU."""
    convolution = nn.Conv2d(channels, out_channels, 3, padding=1, bias=False)
    nn.init.dirac_(convolution.weight[: min(channels, out_channels)].data)
    norm = nn.BatchNorm2d(out_channels, momentum=0.4)
    norm.weight.requires_grad_(False)
    pool = [nn.MaxPool2d(2)] if pooled else []
    return nn.Sequential(convolution, *pool, norm, nn.ReLU())
