"""Heads: feature map [B, C, h, w] to logits [B, K].

Every head is built from `channels`, `num_classes`, `map_size` (height and width of the training images' feature map, None where
they vary) and `stride`; only `Flatten` needs the last two.
"""

from necklace.heads.flatten import Flatten
from necklace.heads.gap import Gap
from necklace.heads.pyramid import Pyramid

__all__ = ["Flatten", "Gap", "Pyramid"]
