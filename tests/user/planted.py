"""A user's neck whose accuracy is planted: that of each run is near `share`, so that verdicts are known beforehand.

Which images are right is drawn by the run's own weights: what trains the same is right on the same.
"""

import deadly
import torch

from necklace.necks import ConvNeck
from necklace.tasks.classification import Classification


class Planted(ConvNeck):
    """ConvNeck with a known outcome, and the fuse of `deadly`."""

    def __init__(self, channels: int, width: int = 8, share: float = 0.5, raises: bool = False) -> None:
        super().__init__(channels, width)
        self.share, self.raises = share, raises

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Transform [B, C, h, w], or not."""
        if self.training:
            deadly.reached("step")
            if self.raises:
                raise ValueError("this neck raises")
        return super().forward(x)


def update_metrics(self: Classification, stage: str, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """As if so many images were right."""
    neck = self.model.neck
    if isinstance(neck, Planted):
        weights = sum(float(value.double().abs().sum()) for value in neck.parameters())
        generator = torch.Generator().manual_seed(int(1e9 * weights) % 2**60 + int(labels.sum()))
        right = torch.rand(len(labels), generator=generator) < neck.share
        classes = torch.where(right, labels, (labels + 1) % logits.shape[1])
        logits = torch.nn.functional.one_hot(classes, logits.shape[1]).float()
    return original(self, stage, logits, labels)


original = Classification.update_metrics
Classification.update_metrics = update_metrics  # type: ignore[method-assign]
