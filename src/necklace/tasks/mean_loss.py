"""The mean loss over the images of all ranks."""

from typing import Any

import torch
from torchmetrics import Metric


class MeanLoss(Metric):
    """A mean over images from the means of batches; a NaN makes it NaN.

    Not torchmetrics' MeanMetric: it looks for a NaN in each update, which waits for the device, and where it is told not to
    (`nan_strategy="disable"`), it ignores the weights.
    """

    total: torch.Tensor
    images: torch.Tensor

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.add_state("total", torch.tensor(0.0), dist_reduce_fx="sum")
        self.add_state("images", torch.tensor(0.0), dist_reduce_fx="sum")

    def update(self, mean: torch.Tensor, images: int) -> None:
        """Add a batch.

        Args:
            mean: Mean loss of its images, float [].
            images: Their number.
        """
        self.total += mean.detach() * images
        self.images += images

    def compute(self) -> torch.Tensor:
        """The mean over all images, float []."""
        return self.total / self.images
