"""The necks: a feature map [B, C, h, w] in, a feature map [B, out_channels, h, w] out, for every h and w.

Pure torch: importing this package brings in neither Lightning nor Hydra nor Weights & Biases, so a neck can be taken
from here into any other code base. A neck is called `Neck(channels, **options)` and has an attribute `out_channels`;
there is no class to inherit from and nothing to register.
"""

from necklace.necks.control import ConvNeck, NoNeck
from necklace.necks.focal import FocalModulation, FocalParts
from necklace.necks.focal_block import FocalBlock
from necklace.necks.spp import SPP, SPPF, ConvBNAct

__all__ = ["SPP", "SPPF", "ConvBNAct", "ConvNeck", "FocalBlock", "FocalModulation", "FocalParts", "NoNeck"]
