"""SPP and SPPF: spatial pyramid pooling that keeps the map's size, as in YOLO detectors.

Paper: He et al., Spatial Pyramid Pooling in Deep Convolutional Networks, 2014, https://arxiv.org/abs/1406.4729. Its
pyramid (a fixed number of bins, so a vector of fixed length for every image size) is the head `Pyramid`. This file has
the form of YOLOv3 and YOLOv5: parallel stride-1 max-pools of several sizes, whose output map has the size of the input.
Reference: ultralytics/yolov5, models/common.py (classes Conv, SPP, SPPF); SPPF came with its pull request 4420.
Licence: that file is AGPL-3.0. No code is copied; only the definition and the names of the weights (`cv1.conv`,
`cv1.bn`, `cv2.conv`, `cv2.bn`) are the same, so that YOLOv5's weights load.

Deviations:
* BatchNorm has torch's defaults (eps 1e-5, momentum 0.1). YOLOv5 sets eps 1e-3 and momentum 0.03 for the whole model
  after it is built; to reproduce its outputs from its weights, set eps to 1e-3.
* SiLU follows both convolutions, as in YOLOv5. Newer Ultralytics releases dropped the first one in SPPF, which makes
  SPPF differ from SPP.
* An even kernel size is an error; in YOLOv5 it changes the map's size by one and fails at the concatenation.

SPP is defined with parallel pools; both are computed as a chain, see `pools`.

With equal seeds, SPP with three kernels and SPPF start from equal weights (the same two convolutions, drawn in the same
order), so the pair is an A/A test for a comparison of necks.
"""

from collections.abc import Sequence

from torch import Tensor, nn

from necklace.necks import options
from necklace.necks.blocks import ConvBNAct
from necklace.necks.pools import with_pools


class SPP(nn.Module):
    """Parallel stride-1 max-pools of several sizes between two 1x1 convolutions."""

    def __init__(self, channels: int, out_channels: int | None = None, kernel_sizes: Sequence[int] = (5, 9, 13)) -> None:
        """Build the neck.

        Args:
            channels: Channels of the input, at least 2: the pools get half of them.
            out_channels: Channels of the output; None for the input's.
            kernel_sizes: Window of each pool, in positions; odd.
        """
        super().__init__()
        hidden = options.integer("channels", channels, minimum=2) // 2
        self.out_channels = channels if out_channels is None else options.integer("out_channels", out_channels)
        self.kernel_sizes = options.odds("kernel_sizes", kernel_sizes)
        self.cv1 = ConvBNAct(channels, hidden)
        self.cv2 = ConvBNAct(hidden * (len(self.kernel_sizes) + 1), self.out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Pool the map.

        Args:
            x: Feature map [B, channels, h, w].

        Returns:
            Feature map [B, out_channels, h, w].
        """
        return self.cv2(with_pools(self.cv1(x), self.kernel_sizes))

    def extra_repr(self) -> str:
        """The pools, which are no submodules."""
        return f"kernel_sizes={self.kernel_sizes}"


class SPPF(nn.Module):
    """One stride-1 max-pool chained three times between two 1x1 convolutions.

    Two chained 5-pools equal a 9-pool, three a 13-pool, also at the border (the padding is -inf). So SPPF with kernel k
    equals SPP with kernels (k, 2k - 1, 3k - 2).
    """

    def __init__(self, channels: int, out_channels: int | None = None, kernel_size: int = 5) -> None:
        """Build the neck.

        Args:
            channels: Channels of the input, at least 2: the pool gets half of them.
            out_channels: Channels of the output; None for the input's.
            kernel_size: Window of the pool, in positions; odd.
        """
        super().__init__()
        hidden = options.integer("channels", channels, minimum=2) // 2
        self.out_channels = channels if out_channels is None else options.integer("out_channels", out_channels)
        self.kernel_size = options.odd("kernel_size", kernel_size)
        self.cv1 = ConvBNAct(channels, hidden)
        self.cv2 = ConvBNAct(hidden * 4, self.out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Pool the map.

        Args:
            x: Feature map [B, channels, h, w].

        Returns:
            Feature map [B, out_channels, h, w].
        """
        reach = self.kernel_size - 1
        return self.cv2(with_pools(self.cv1(x), [1 + reach, 1 + 2 * reach, 1 + 3 * reach]))

    def extra_repr(self) -> str:
        """The pool, which is no submodule."""
        return f"kernel_size={self.kernel_size}"
