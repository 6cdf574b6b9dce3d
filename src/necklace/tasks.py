"""The LightningModules: loss, metrics, optimiser. They know no config and no files."""

from collections.abc import Callable, Iterable

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.types import OptimizerLRSchedulerConfig
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torchmetrics import MeanMetric
from torchmetrics.classification import MulticlassAccuracy

from necklace.data.datamodule import Batch
from necklace.streams import stream_seed


class Classification(pl.LightningModule):
    """One label per image: cross-entropy and top-1 accuracy.

    Args:
        model: Maps images [B, 3, H, W] to logits [B, K].
        num_classes: K.
        optimizer: Makes the optimizer from parameter groups.
        schedule: Makes the schedule from the optimizer, the steps in all and the steps of an epoch.
        seed: The run's seed, for dropout.
        label_smoothing: Share of the target that is spread over all classes.
    """

    def __init__(
        self,
        model: nn.Module,
        num_classes: int,
        optimizer: Callable[[list[dict]], Optimizer],
        schedule: Callable[[Optimizer, int, int], LRScheduler],
        seed: int,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__()
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"task.label_smoothing={label_smoothing}: must lie in [0, 1)")
        self.model = model
        self.make_optimizer, self.make_schedule, self.seed = optimizer, schedule, seed
        self.train_loss = nn.CrossEntropyLoss(label_smoothing=label_smoothing)
        self.epoch_loss, self.val_loss, self.test_loss = MeanMetric(), MeanMetric(), MeanMetric()
        # Averaging over classes, torchmetrics' default, is another figure than top-1 accuracy wherever classes differ in size.
        self.val_acc = MulticlassAccuracy(num_classes, average="micro")
        self.test_acc = MulticlassAccuracy(num_classes, average="micro")
        self.test_correct: list[tuple[torch.Tensor, torch.Tensor]] = []

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Map images [B, 3, H, W] to logits [B, K]."""
        return self.model(images)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Tie dropout to the step, so that a resumed run draws what the undisturbed one would have drawn."""
        torch.manual_seed(stream_seed(self.seed, "dropout", self.global_step, self.global_rank))

    def training_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
        """Loss of one step.

        Raises:
            FloatingPointError: The loss is NaN or infinite.
        """
        loss = self.train_loss(self(batch.images), batch.labels)
        if not torch.isfinite(loss):
            raise FloatingPointError(
                f"the training loss is {loss.item()} at step {self.global_step} (epoch {self.current_epoch}); "
                "a lower optimizer.lr or trainer.gradient_clip_val=1 may help"
            )
        self.epoch_loss.update(loss.detach(), len(batch.labels))
        return loss

    def on_train_epoch_end(self) -> None:
        """Log the epoch's mean loss and last learning rate."""
        self.log("train/loss", self.epoch_loss.compute())
        self.epoch_loss.reset()
        self.log("lr", self.optimizers().param_groups[0]["lr"])  # pyright: ignore[reportAttributeAccessIssue]

    def _evaluate(self, batch: Batch, stage: str, mean_loss: MeanMetric, accuracy: MulticlassAccuracy) -> torch.Tensor:
        logits = self(batch.images)
        loss = nn.functional.cross_entropy(logits, batch.labels)
        mean_loss.update(loss, len(batch.labels))
        accuracy.update(logits, batch.labels)
        self.log(f"{stage}/loss", mean_loss, on_epoch=True, on_step=False)
        self.log(f"{stage}/acc", accuracy, on_epoch=True, on_step=False)
        return logits

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Update the val metrics."""
        self._evaluate(batch, "val", self.val_loss, self.val_acc)

    def on_test_start(self) -> None:
        """Forget the correctness of an earlier test."""
        self.test_correct.clear()

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Update the test metrics and keep which images were right."""
        logits = self._evaluate(batch, "test", self.test_loss, self.test_acc)
        self.test_correct.append((batch.indices.cpu(), (logits.argmax(1) == batch.labels).cpu()))

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """Weight decay for matrices and filters only: not for biases, norms and LayerScale, which have one axis."""
        parameters = [p for p in self.parameters() if p.requires_grad]
        groups = [
            {"params": [p for p in parameters if p.ndim > 1]},
            {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
        ]
        optimizer = self.make_optimizer([group for group in groups if group["params"]])
        total_steps = int(self.trainer.estimated_stepping_batches)
        epochs = self.trainer.max_epochs or 1
        schedule = self.make_schedule(optimizer, total_steps, max(1, total_steps // epochs))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def correctness(parts: Iterable[tuple[torch.Tensor, torch.Tensor]], count: int) -> torch.Tensor:
    """Put per-batch correctness back into the split's own order.

    Args:
        parts: Pairs of indices int64 [B] and correctness bool [B].
        count: Images in the split.

    Returns:
        bool [count].

    Raises:
        ValueError: An image is missing or came twice.
    """
    pairs = list(parts)
    index = torch.cat([i for i, _ in pairs]) if pairs else torch.empty(0, dtype=torch.long)
    if not torch.equal(index.sort().values, torch.arange(count)):
        raise ValueError(f"{len(index)} results ({len(index.unique())} different images) for {count} test images")
    correct = torch.empty(count, dtype=torch.bool)
    correct[index] = torch.cat([c for _, c in pairs])
    return correct
