"""Necks: a feature map [B, C, h, w] to a feature map [B, out_channels, h, w], for every h and w.

Pure torch: importing this package imports neither Lightning nor Hydra nor Weights & Biases, so a neck can be used in any other
code base. A neck is called as `Neck(channels, **options)` and has an attribute `out_channels`; there is no base class and no
registry.
"""

from necklace.necks.attention import SelfAttention
from necklace.necks.blocks import ConvBNAct
from necklace.necks.control import ConvNeck, NoNeck
from necklace.necks.focal import FocalModulation
from necklace.necks.focal_block import FocalBlock
from necklace.necks.focal_parts import FocalParts
from necklace.necks.gc import GlobalContext
from necklace.necks.mean_concat import MeanConcat
from necklace.necks.spp import SPP, SPPF

__all__ = [
    "SPP",
    "SPPF",
    "ConvBNAct",
    "ConvNeck",
    "FocalBlock",
    "FocalModulation",
    "FocalParts",
    "GlobalContext",
    "MeanConcat",
    "NoNeck",
    "SelfAttention",
]
