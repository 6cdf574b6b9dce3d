"""How often each class is shown, predicted and predicted rightly: accuracy by class and balanced accuracy."""

import torch
from torchmetrics import Metric


class ClassCounts(Metric):
    """Counts images by class, over all batches and ranks.

    torchmetrics' own accuracy by class needs [B, K * K] of memory in a batch under deterministic algorithms, takes a class that
    no image shows but some are taken for as one with accuracy 0, and does not say what the images are taken for.

    Args:
        classes: K.
    """

    full_state_update = False
    counts: torch.Tensor

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.add_state("counts", torch.zeros(3, classes, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, predicted: torch.Tensor, labels: torch.Tensor) -> None:
        """Count a batch; both are int64 [B]."""
        numbers = torch.arange(self.counts.shape[1], device=labels.device)
        for row, images in enumerate((labels, predicted, labels[predicted == labels])):
            self.counts[row] += (images[:, None] == numbers).sum(0)  # bincount is not deterministic on a GPU

    def compute(self) -> torch.Tensor:
        """int64 [3, K]: images that show each class, images taken for it, and images rightly taken for it."""
        return self.counts


def class_accuracies(counts: torch.Tensor) -> list[float | None]:
    """The accuracy of each class, None where no image shows it, from `ClassCounts.compute`."""
    shown, _, right = counts.tolist()
    return [hits / images if images else None for images, hits in zip(shown, right, strict=True)]


def balanced_accuracy(counts: torch.Tensor) -> float:
    """The mean of the accuracies of the classes that at least one image shows, from `ClassCounts.compute`."""
    found = [accuracy for accuracy in class_accuracies(counts) if accuracy is not None]
    return sum(found) / len(found)
