"""The LightningModules: loss, metrics, optimiser. They know no config and no files."""

from collections.abc import Callable, Iterable, Sequence

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.types import OptimizerLRSchedulerConfig
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torchmetrics import CatMetric, MeanMetric
from torchmetrics.classification import MulticlassAccuracy
from torchmetrics.functional.classification import binary_average_precision, binary_precision_recall_curve

from necklace.data.datamodule import Batch
from necklace.streams import stream_seed


class Task(pl.LightningModule):
    """What all tasks share: a model, a loss for each image, an optimizer, and which test images were right.

    Args:
        model: Maps images [B, 3, H, W] to logits [B, K].
        optimizer: Makes the optimizer from parameter groups.
        schedule: Makes the schedule from the optimizer, the steps in all and the steps of an epoch.
        seed: The run's seed, for dropout.

    Attributes:
        monitor: The val metric, larger is better, that chooses the checkpoint.
        label_axes: Axes of the labels that the task takes: 1 for [B], 2 for [B, K].
    """

    monitor: str
    label_axes: int

    def __init__(
        self,
        model: nn.Module,
        optimizer: Callable[[list[dict]], Optimizer],
        schedule: Callable[[Optimizer, int, int], LRScheduler],
        seed: int,
    ) -> None:
        super().__init__()
        self.model = model
        self.make_optimizer, self.make_schedule, self.seed = optimizer, schedule, seed
        self.epoch_loss, self.val_loss, self.test_loss = MeanMetric(), MeanMetric(), MeanMetric()
        self.test_correct: list[tuple[torch.Tensor, torch.Tensor]] = []

    def losses(self, logits: torch.Tensor, labels: torch.Tensor, training: bool) -> torch.Tensor:
        """The loss of each image [B]."""
        raise NotImplementedError

    def update_metrics(self, stage: str, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Take a batch into the metrics of `val` or `test`; gives which images are right, bool [B]."""
        raise NotImplementedError

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Map images [B, 3, H, W] to logits [B, K]."""
        return self.model(images)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Tie dropout to epoch and batch, so that a resumed run draws what the undisturbed one would have drawn."""
        torch.manual_seed(stream_seed(self.seed, "dropout", self.current_epoch, batch_idx, self.global_rank))

    def training_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
        """Loss of one step: the sum over the images of all ranks, divided by their number.

        DDP averages the ranks' gradients, so each rank's sum is scaled by the number of ranks; a mean of the ranks' means would
        weigh the images of a rank with fewer of them more.

        Raises:
            FloatingPointError: The loss is NaN or infinite.
        """
        losses = self.losses(self(batch.images), batch.labels, training=True)
        loss = losses.sum() * (self.trainer.world_size / batch.total)
        if not torch.isfinite(loss):
            raise FloatingPointError(
                f"the training loss is {loss.item()} at step {self.global_step} (epoch {self.current_epoch}); "
                "a lower optimizer.lr or trainer.gradient_clip_val=1 may help"
            )
        self.epoch_loss.update(losses.detach().mean(), len(losses))
        return loss

    def on_train_epoch_end(self) -> None:
        """Log the epoch's mean loss and last learning rate."""
        self.log("train/loss", self.epoch_loss.compute())
        self.epoch_loss.reset()
        self.log("lr", self.optimizers().param_groups[0]["lr"])  # pyright: ignore[reportAttributeAccessIssue]

    def _evaluate(self, batch: Batch, stage: str, mean_loss: MeanMetric) -> torch.Tensor:
        logits = self(batch.images)
        losses = self.losses(logits, batch.labels, training=False)
        mean_loss.update(losses.mean(), len(losses))
        self.log(f"{stage}/loss", mean_loss, on_epoch=True, on_step=False)
        return self.update_metrics(stage, logits, batch.labels)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Update the val metrics."""
        self._evaluate(batch, "val", self.val_loss)

    def on_test_start(self) -> None:
        """Forget the correctness of an earlier test."""
        self.test_correct.clear()

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Update the test metrics and keep which images were right."""
        correct = self._evaluate(batch, "test", self.test_loss)
        self.test_correct.append((batch.indices.cpu(), correct.cpu()))

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


class Classification(Task):
    """One label per image: cross-entropy and top-1 accuracy.

    Args:
        model: Maps images [B, 3, H, W] to logits [B, K].
        classes: Names of the K classes.
        optimizer: As in `Task`.
        schedule: As in `Task`.
        seed: As in `Task`.
        label_smoothing: Share of the target that is spread over all classes, in training.
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
            raise ValueError(f"data: the only class is {', '.join(classes)!r}: classification tells at least 2 apart")
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"task.label_smoothing={label_smoothing}: must lie in [0, 1)")
        self.label_smoothing = label_smoothing
        # Averaging over classes, torchmetrics' default, is another figure than top-1 accuracy wherever classes differ in size.
        self.val_acc = MulticlassAccuracy(len(classes), average="micro")
        self.test_acc = MulticlassAccuracy(len(classes), average="micro")

    def losses(self, logits: torch.Tensor, labels: torch.Tensor, training: bool) -> torch.Tensor:
        """Cross-entropy of each image [B] in nats."""
        smoothing = self.label_smoothing if training else 0.0
        return nn.functional.cross_entropy(logits, labels, reduction="none", label_smoothing=smoothing)

    def update_metrics(self, stage: str, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Take a batch into the accuracy; gives which images are right, bool [B]."""
        accuracy = self.val_acc if stage == "val" else self.test_acc
        accuracy.update(logits, labels)
        self.log(f"{stage}/acc", accuracy, on_epoch=True, on_step=False)
        return logits.argmax(1) == labels


class MultiLabel(Task):
    """Any number of labels per image: binary cross-entropy and mean average precision.

    A label of -1 (a class that only a `difficult` object shows) is judged neither in the loss nor in the metrics.

    Args:
        model: Maps images [B, 3, H, W] to logits [B, K].
        classes: Names of the K classes.
        optimizer: As in `Task`.
        schedule: As in `Task`.
        seed: As in `Task`.
    """

    monitor, label_axes = "val/map", 2

    def __init__(
        self,
        model: nn.Module,
        classes: Sequence[str],
        optimizer: Callable[[list[dict]], Optimizer],
        schedule: Callable[[Optimizer, int, int], LRScheduler],
        seed: int,
    ) -> None:
        super().__init__(model, optimizer, schedule, seed)
        self.classes = tuple(classes)
        # The area under the precision-recall curve and VOC2007's 11 points are read off the same scores.
        self.val_scores, self.test_scores = CatMetric(), CatMetric()

    def losses(self, logits: torch.Tensor, labels: torch.Tensor, training: bool) -> torch.Tensor:
        """Binary cross-entropy of each image [B], the mean over its judged classes."""
        judged = (labels >= 0).float()
        target = labels.clamp(min=0).float()
        losses = nn.functional.binary_cross_entropy_with_logits(logits, target, weight=judged, reduction="none")
        return losses.sum(1) / judged.sum(1).clamp(min=1)

    def update_metrics(self, stage: str, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Keep the scores until the end of the pass; gives which images have every judged class right, bool [B]."""
        scores = self.val_scores if stage == "val" else self.test_scores
        scores.update(torch.cat([logits.float(), labels.float()], 1))
        return (((logits > 0) == (labels > 0)) | (labels < 0)).all(1)

    def on_validation_epoch_end(self) -> None:
        """Log val's average precisions."""
        self._log_precisions("val", self.val_scores)

    def on_test_epoch_end(self) -> None:
        """Log test's average precisions."""
        self._log_precisions("test", self.test_scores)

    def _log_precisions(self, stage: str, scores: CatMetric) -> None:
        kept = torch.as_tensor(scores.compute())
        scores.reset()
        logits, labels = kept.split(len(self.classes), 1)
        areas, elevens = [], []
        for name, logit, label in zip(self.classes, logits.T, labels.T, strict=True):
            logit, target = logit[label >= 0], label[label >= 0].long()
            if not target.any():
                continue  # no image of this split shows the class: it has no precision to average
            areas.append(binary_average_precision(logit, target))
            elevens.append(eleven_point_precision(logit, target))
            self.log(f"{stage}/ap/{name}", areas[-1])
        # Every rank has gathered all scores already, so the figures are equal on all of them.
        self.log(f"{stage}/map", torch.stack(areas).mean() if areas else torch.tensor(0.0))
        self.log(f"{stage}/map07", torch.stack(elevens).mean() if elevens else torch.tensor(0.0))


def eleven_point_precision(scores: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """VOC2007's average precision: the mean, over the recalls 0, 0.1, ..., 1, of the best precision at that recall or above.

    Source: Everingham et al., The PASCAL VOC Challenge, IJCV 2010, section 4.2.

    Args:
        scores: float [N].
        target: int64 [N], 1 for a positive; at least one.

    Returns:
        A value in [0, 1], float [].
    """
    precision, recall, _ = binary_precision_recall_curve(scores, target)
    precision, recall = precision[:-1], recall[:-1]  # the last is torchmetrics' own point (recall 0, precision 1)
    # A hundredth of the smallest step of recall keeps 0.1 * 3 from missing a recall of 0.3.
    slack = 0.01 / len(target)
    best = [precision[recall >= point / 10 - slack].max() for point in range(11)]
    return torch.stack(best).mean()


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
