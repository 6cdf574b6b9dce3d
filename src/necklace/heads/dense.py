"""A head that predicts a box and a score for each class at every point of several maps: the dense, anchor-free head.

Papers: Tian et al., FCOS: Fully Convolutional One-Stage Object Detection, ICCV 2019, https://arxiv.org/abs/1904.01355, has the
points and the four distances; Lin et al., Feature Pyramid Networks, CVPR 2017, https://arxiv.org/abs/1612.03144, has the
pyramid, which is torchvision's.

Deviations from FCOS:
* BatchNorm of its own for each level instead of GroupNorm over all of them. GroupNorm takes its mean over the whole image, so
  every point would see all of it: a neck with global context, hidden in the head.
* Two convolutions for classes and two for boxes instead of four, 64 channels instead of 256.
* No centreness: a class's score says how well the box fits as well, see `tasks/assignment.py`.
* No ranges of sizes for the levels: which level an object belongs to is found by the assignment.
* No factor for each level: a distance is exp(x) steps of the map.
"""

import math
from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

PRIOR = 0.01  # score of every class at every point before the first step
REACH = 2.0  # distance from a point to the sides of its box before the first step, in steps of the map
MOST = 1000.0  # largest such distance


class Dense(NamedTuple):
    """What a dense head predicts at A points of B images.

    Attributes:
        scores: Logits, float [B, A, K].
        boxes: float32 [B, A, 4], in pixels of the batch's images; they may reach beyond the image.
        points: float32 [A, 2], x and y of each point in these pixels.
        strides: float32 [A], input pixels per step of the map that a point belongs to.
    """

    scores: Tensor
    boxes: Tensor
    points: Tensor
    strides: Tensor


class DenseHead(nn.Module):
    """A pyramid over several maps, and shared convolutions that predict classes and boxes at every point of it.

    Args:
        channels: Channels of each map, from fine to coarse; the last is the neck's.
        num_classes: K.
        strides: Input pixels per step of each map.
        levels: How many of the last maps are used. 1: the neck's map alone, without a pyramid.
        width: Channels of the pyramid and the convolutions.
        depth: Convolutions before the class scores, and before the boxes.
        kernel: Side of these convolutions; 1 sees no more than the map does.

    Raises:
        ValueError: There are fewer maps than levels, or an option is out of range.
    """

    dense = True

    def __init__(
        self,
        channels: Sequence[int],
        num_classes: int,
        strides: Sequence[int],
        levels: int = 3,
        width: int = 64,
        depth: int = 2,
        kernel: int = 3,
    ) -> None:
        for name, value in (("levels", levels), ("width", width), ("depth", depth)):
            if value < 1:
                raise ValueError(f"head.{name}={value}: must be at least 1")
        if kernel < 1 or kernel % 2 == 0:
            raise ValueError(f"head.kernel={kernel}: must be odd")
        if levels > len(channels):
            raise ValueError(
                f"head.levels={levels}: the backbone hands out {len(channels)} map{'s' * (len(channels) > 1)}, at stride "
                f"{', '.join(map(str, strides))}; name more with backbone.stages, such as [8,16,32], or take head.levels=1"
            )
        super().__init__()
        self.levels, self.strides = levels, tuple(int(stride) for stride in strides[-levels:])
        used = [int(count) for count in channels[-levels:]]
        if levels > 1:
            from torchvision.ops import FeaturePyramidNetwork  # here: a plan that makes no such head need not wait for it

            self.pyramid = FeaturePyramidNetwork(used, width, norm_layer=nn.BatchNorm2d)
        else:
            self.lateral = nn.Sequential(nn.Conv2d(used[0], width, 1, bias=False), nn.BatchNorm2d(width))
        self.class_tower = _Tower(width, depth, kernel, levels)
        self.box_tower = _Tower(width, depth, kernel, levels)
        # Linear layers at each point, which as 1x1 convolutions to so few channels would take a slow path on a CPU.
        self.scores = nn.Linear(width, num_classes)
        self.distances = nn.Linear(width, 4)
        for layer, bias in ((self.scores, -math.log(1 / PRIOR - 1)), (self.distances, math.log(REACH))):
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.constant_(layer.bias, bias)

    def maps(self, features: Sequence[Tensor]) -> list[Tensor]:
        """The predictions of each level before they are decoded: [B, K + 4, h, w] of features [B, C, h, w]."""
        if self.levels > 1:
            named = OrderedDict((str(number), x) for number, x in enumerate(features[-self.levels :]))
            levels = list(self.pyramid(named).values())
        else:
            levels = [self.lateral(features[-1])]
        maps = []
        for number, x in enumerate(levels):
            towers = (tower(x, number).permute(0, 2, 3, 1) for tower in (self.class_tower, self.box_tower))
            parts = [layer(points) for layer, points in zip((self.scores, self.distances), towers, strict=True)]
            maps.append(torch.cat(parts, 3).permute(0, 3, 1, 2))
        return maps

    def forward(self, features: Sequence[Tensor]) -> Dense:
        """Predict classes and boxes.

        Args:
            features: [B, C, h, w] of each map, from fine to coarse; the last is the neck's.
        """
        maps = self.maps(features)
        points, strides = zip(*(_points(x, stride) for x, stride in zip(maps, self.strides, strict=True)), strict=True)
        flat = torch.cat([x.permute(0, 2, 3, 1).flatten(1, 2) for x in maps], 1)
        scores, raw = flat[..., :-4], flat[..., -4:].float()  # a box of hundreds of pixels is too much for bf16
        place, step = torch.cat(points), torch.cat(strides)
        distances = raw.clamp(max=math.log(MOST)).exp() * step[:, None]
        boxes = torch.cat([place - distances[..., :2], place + distances[..., 2:]], 2)
        return Dense(scores, boxes, place, step)


class _Tower(nn.Module):
    """Convolutions that all levels share, with a BatchNorm for each level."""

    def __init__(self, width: int, depth: int, kernel: int, levels: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(width, width, kernel, padding=kernel // 2, bias=False) for _ in range(depth))
        self.norms = nn.ModuleList(nn.ModuleList(nn.BatchNorm2d(width) for _ in range(depth)) for _ in range(levels))
        for conv in self.convs:
            nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")  # pyright: ignore[reportArgumentType]

    def forward(self, x: Tensor, level: int) -> Tensor:
        """Map [B, width, h, w] of a level to the same shape."""
        norms: nn.ModuleList = self.norms[level]  # pyright: ignore[reportAssignmentType]
        for conv, norm in zip(self.convs, norms, strict=True):
            x = torch.relu(norm(conv(x)))
        return x


def _points(x: Tensor, stride: int) -> tuple[Tensor, Tensor]:
    """The points of a map [B, C, h, w] in pixels, x and y, float32 [h * w, 2], and its stride for each, [h * w]."""
    height, width = x.shape[2:]
    rows, columns = (torch.arange(size, device=x.device) for size in (height, width))
    grid = torch.stack([columns.expand(height, width), rows[:, None].expand(height, width)], 2)
    points = (grid.flatten(0, 1) + 0.5) * stride
    return points, torch.full_like(points[:, 0], stride)
