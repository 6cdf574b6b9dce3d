"""Single-label classification."""

from collections.abc import Callable, Sequence

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torchmetrics.classification import MulticlassAccuracy

from necklace.tasks.base import Task


class Classification(Task):
    """One label per image: cross-entropy and top-1 accuracy.

    Args:
        model: Maps images [B, 3, H, W] to logits [B, K].
        classes: Names of the K classes.
        optimizer: As in `Task`.
        schedule: As in `Task`.
        seed: As in `Task`.
        label_smoothing: Share of the target that is spread over all classes, in training only; in [0, 1).

    Raises:
        ValueError: There are fewer than two classes, or `label_smoothing` is out of range.
    """

    monitor, label_axes = "val/acc", 1

    def __init__(
        self,
        model: nn.Module,
        classes: Sequence[str],
        optimizer: Callable[[list[dict]], Optimizer],
        schedule: Callable[[Optimizer, int, int], LRScheduler],
        seed: int,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__(model, optimizer, schedule, seed)
        if len(classes) < 2:
            raise ValueError(f"data: the only class is {', '.join(classes)!r}: classification needs at least 2")
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"task.label_smoothing={label_smoothing}: must lie in [0, 1)")
        self.label_smoothing = label_smoothing
        # torchmetrics averages over classes by default, which differs from top-1 accuracy where classes differ in size.
        self.val_acc = MulticlassAccuracy(len(classes), average="micro")
        self.test_acc = MulticlassAccuracy(len(classes), average="micro")

    def losses(self, logits: torch.Tensor, labels: torch.Tensor, training: bool) -> torch.Tensor:
        """Cross-entropy of each image [B] in nats."""
        smoothing = self.label_smoothing if training else 0.0
        return nn.functional.cross_entropy(logits, labels, reduction="none", label_smoothing=smoothing)

    def update_metrics(self, stage: str, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Update the accuracy; returns whether each image is predicted correctly, bool [B]."""
        accuracy = self.val_acc if stage == "val" else self.test_acc
        accuracy.update(logits, labels)
        self.log(f"{stage}/acc", accuracy, on_epoch=True, on_step=False)
        return logits.argmax(1) == labels
