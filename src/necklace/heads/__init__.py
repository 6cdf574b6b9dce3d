"""Heads: feature map [B, C, h, w] to logits [B, K], or several maps to boxes.

Every head is built from `channels`, `num_classes`, `map_size` (height and width of the training images' feature map, None where
they vary) and `stride`; only `Flatten` needs the last two. A dense head, one with `dense = True`, is built from `channels` and
`strides` of all maps that the backbone hands out, and `num_classes`.
"""

from necklace.heads.corner import Corner
from necklace.heads.dense import Dense, DenseHead
from necklace.heads.flatten import Flatten
from necklace.heads.gap import Gap
from necklace.heads.pyramid import Pyramid

__all__ = ["Corner", "Dense", "DenseHead", "Flatten", "Gap", "Pyramid"]
