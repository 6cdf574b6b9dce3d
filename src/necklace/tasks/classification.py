"""Single-label classification."""

from collections.abc import Callable, Sequence

import torch
from pytorch_lightning.trainer.states import TrainerFn
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torchmetrics.classification import MulticlassAccuracy

from necklace.tasks.base import Task
from necklace.tasks.class_counts import ClassCounts, balanced_accuracy, class_accuracies
from necklace.tasks.class_weights import weights_tensor

MONITORS = ("val/acc", "val/balanced_acc")


class Classification(Task):
    """One label per image: cross-entropy, top-1 accuracy, and accuracy by class.

    Balanced accuracy is the mean over the classes that the split shows. The accuracy of a class is logged after training only.

    Args:
        model: Maps images [B, 3, H, W] to logits [B, K].
        classes: Names of the K classes.
        optimizer: As in `Task`.
        schedule: As in `Task`.
        seed: As in `Task`.
        label_smoothing: Share of the target that is spread over all classes, in training only; in [0, 1).
        class_weights: How much the loss of an image of each class counts, in training only; see `class_weights.py`.
        monitor: The val metric that selects the checkpoint, `val/acc` or `val/balanced_acc`; None: `val/acc`.
        bias_lr: As in `Task`.

    Raises:
        ValueError: There are fewer than two classes, or an option is out of range.
    """

    monitor, label_axes = "val/acc", 1
    class_weights: torch.Tensor | None

    def __init__(  # noqa: PLR0913, the options of its config
        self,
        model: nn.Module,
        classes: Sequence[str],
        optimizer: Callable[[list[dict]], Optimizer],
        schedule: Callable[[Optimizer, int, int], LRScheduler],
        seed: int,
        label_smoothing: float = 0.0,
        class_weights: Sequence[float] | None = None,
        monitor: str | None = None,
        bias_lr: float = 1.0,
    ) -> None:
        super().__init__(model, optimizer, schedule, seed, bias_lr)
        if len(classes) < 2:
            raise ValueError(f"data: the only class is {', '.join(classes)!r}: classification needs at least 2")
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"task.label_smoothing={label_smoothing}: must lie in [0, 1)")
        if monitor is not None and monitor not in MONITORS:
            raise ValueError(f"task.monitor={monitor}: must be null, {' or '.join(MONITORS)}")
        self.classes, self.label_smoothing, self.monitor = tuple(classes), label_smoothing, monitor or "val/acc"
        self.register_buffer("class_weights", weights_tensor(class_weights, self.classes), persistent=False)
        # torchmetrics averages over classes by default, which differs from top-1 accuracy where classes differ in size.
        self.val_acc = MulticlassAccuracy(len(classes), average="micro")
        self.test_acc = MulticlassAccuracy(len(classes), average="micro")
        self.val_counts, self.test_counts = ClassCounts(len(classes)), ClassCounts(len(classes))

    def losses(self, logits: torch.Tensor, labels: torch.Tensor, training: bool) -> torch.Tensor:
        """Cross-entropy of each image [B] in nats; in training with label smoothing and the weight of the image's class."""
        smoothing = self.label_smoothing if training else 0.0
        losses = nn.functional.cross_entropy(logits, labels, reduction="none", label_smoothing=smoothing)
        if self.class_weights is None or not training:
            return losses
        # Not cross_entropy's own weights, which also weigh the classes that smoothing spreads the target over.
        return losses * self.class_weights[labels]

    def update_metrics(self, stage: str, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Update the accuracies; returns whether each image is predicted correctly, bool [B]."""
        accuracy, counts = (self.val_acc, self.val_counts) if stage == "val" else (self.test_acc, self.test_counts)
        predicted = logits.argmax(1)
        accuracy.update(logits, labels)
        counts.update(predicted, labels)
        self.log(f"{stage}/acc", accuracy, on_epoch=True, on_step=False)
        return predicted == labels

    def on_validation_epoch_end(self) -> None:
        """Log the accuracies by class on val."""
        self._log_by_class("val", self.val_counts)

    def on_test_epoch_end(self) -> None:
        """Log the accuracies by class on test."""
        self._log_by_class("test", self.test_counts)

    def _log_by_class(self, stage: str, metric: ClassCounts) -> None:
        counts = metric.compute().cpu()
        metric.reset()
        self.predicted[stage] = counts[1].tolist()
        # compute() has added up all ranks, so these values are equal on every rank.
        values = {f"{stage}/balanced_acc": balanced_accuracy(counts)}
        if self.trainer.state.fn != TrainerFn.FITTING:  # a learning curve of hundreds of classes can be read by nobody
            for name, accuracy in zip(self.classes, class_accuracies(counts), strict=True):
                if accuracy is not None:
                    values[f"{stage}/class_acc/{name}"] = accuracy
        for name, value in values.items():
            self.log(name, value, sync_dist=True, reduce_fx="max")
