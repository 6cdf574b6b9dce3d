"""A user's neck whose accuracy is planted: that of each run is near `share`, so that a verdict is known beforehand.

How many images are right is drawn anew for each test, by the neck's own weights: what trains the same is right on the same.
"""

import torch

from necklace.necks import ConvNeck
from necklace.tasks.classification import Classification
from tests.user.deadly import reached


class Planted(ConvNeck):
    """ConvNeck with a known outcome."""

    def __init__(self, channels: int, width: int = 8, share: float = 0.5) -> None:
        super().__init__(channels, width)
        self.share = share
