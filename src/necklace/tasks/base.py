"""The base class of all tasks: a LightningModule with loss, metrics and optimizer. It knows no config and no files."""

import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NoReturn

import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins.precision import Precision
from pytorch_lightning.utilities import GradClipAlgorithmType
from pytorch_lightning.utilities.types import OptimizerLRSchedulerConfig
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from necklace.data.augment import Share
from necklace.data.datamodule import Batch
from necklace.seeding import seed_device, stream_seed
from necklace.tasks.mean_loss import MeanLoss
from necklace.tasks.shared_layers import SharedDropout, share_dropout

# Steps from one look at their losses to the next: to look at a loss waits for the device.
LOOK = 50


class Task(pl.LightningModule):
    """A model with a loss for each image, an optimizer, metrics, and the correctness of each test image.

    Args:
        model: Maps images [B, 3, H, W] to logits [B, K].
        optimizer: Builds the optimizer from parameter groups.
        schedule: Builds the schedule from the optimizer, the total steps and the steps per epoch.
        seed: The run's seed, for dropout.
        bias_lr: Factor on the learning rate of biases, above 0; with BatchNorm's, large ones train faster (airbench94: 64).

    Raises:
        ValueError: `bias_lr` is not above 0.

    Attributes:
        monitor: The val metric that selects the checkpoint; larger is better.
        label_axes: Number of axes of the labels that the task expects: 1 for [B], 2 for [B, K].
        dense: Whether the task takes what a dense head predicts.
        test_correct: Pairs of indices int64 [B] and correctness bool [B], one for each test batch; none where an image is not
            simply right or wrong.
        evidence: What the metrics of the last test can be derived from again, with a method `save`; None where that is
            `test_correct`, or nothing.
        evidence_kind: The kind of the evidence, as the record names it.
        predicted: Stage to the number of images that its last pass took for each class; empty with several labels an image.
    """

    monitor: str
    label_axes: int
    dense = False
    evidence_kind: str | None = None

    def __init__(
        self,
        model: nn.Module,
        optimizer: Callable[[list[dict]], Optimizer],
        schedule: Callable[[Optimizer, int, int], LRScheduler],
        seed: int,
        bias_lr: float = 1.0,
    ) -> None:
        super().__init__()
        if not bias_lr > 0:
            raise ValueError(f"task.bias_lr={bias_lr}: must be above 0")
        self.model, self.bias_lr = model, bias_lr
        self.make_optimizer, self.make_schedule, self.seed = optimizer, schedule, seed
        self.epoch_loss, self.val_loss, self.test_loss = MeanLoss(), MeanLoss(), MeanLoss()
        self._recent = torch.zeros(LOOK)  # losses of the latest steps
        self._seen: list[int] = []  # numbers of these steps
        self._loss_sum = torch.zeros(())  # of the epoch's images on this rank
        self._images = 0
        self.evidence: Any = None
        self.test_correct: list[tuple[torch.Tensor, torch.Tensor]] = []
        self.step_lr = 0.0
        self.predicted: dict[str, list[int]] = {}
        self._dropouts: list[SharedDropout] = []

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute; the name of the hook that runs, which Lightning sets 47 times a step, without a search."""
        if name == "_current_fx_name":
            object.__setattr__(self, name, value)
        else:
            super().__setattr__(name, value)

    @classmethod
    def load_from_checkpoint(cls, checkpoint_path: Any, *_: Any, **__: Any) -> NoReturn:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Not how a run is loaded: a checkpoint has the weights, and the run's folder has what they belong to.

        Raises:
            TypeError: Always; it names the way that works.
        """
        path = Path(str(checkpoint_path))
        folder = path.parents[1] if path.parent.name == "checkpoints" else "outputs/STUDY/RUN"
        raise TypeError(f"{cls.__name__}.load_from_checkpoint: load the run instead: necklace.load({str(folder)!r}).model")

    def losses(self, logits: Any, labels: Any, training: bool) -> torch.Tensor:
        """The loss of each image, float [B].

        Args:
            logits: float [B, K], or what the head predicts.
            labels: int64 [B], or int8 [B, K], or what the batch has in their place.
            training: Whether it is a training step.
        """
        raise NotImplementedError

    def keep(self, stage: str, logits: Any, batch: Batch) -> None:
        """Keep of a batch of `val` or `test` what metrics and evidence need beyond `update_metrics`; nothing by default."""

    def update_metrics(self, stage: str, logits: Any, labels: Any) -> torch.Tensor | None:
        """Update the metrics of `val` or `test` with a batch.

        Args:
            stage: `val` or `test`.
            logits: As for `losses`.
            labels: As for `losses`.

        Returns:
            Whether each image is predicted correctly, bool [B]; None where it is not simply right or wrong.
        """
        raise NotImplementedError

    def forward(self, images: torch.Tensor) -> Any:
        """Map images [B, 3, H, W] to logits [B, K], in float32 where the model computes in less.

        So losses and metrics are of full precision: on a CPU, autocast would leave the softmax in bf16.
        """
        logits = self.model(images)
        return logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits

    def setup(self, stage: str) -> None:
        """Let dropout draw for the images of all ranks, where there are several."""
        if stage == "fit" and self.trainer.world_size > 1:
            self._dropouts = share_dropout(self.model)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Seed dropout by epoch and batch, so that a resumed run makes the same draws as an uninterrupted one.

        And as another number of ranks: all draw the same, for all images of the step.
        """
        seed_device(self.device, stream_seed(self.seed, "dropout", self.current_epoch, batch_idx, 0))
        for layer in self._dropouts:
            layer.share = Share(self.global_rank, self.trainer.world_size, batch.total)

    def training_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
        """Loss of one step: the mean over the images of all ranks.

        DDP averages the gradients of the ranks, so each rank's sum is scaled by the number of ranks. A mean of the ranks' means
        would give more weight to the images of a rank that has fewer of them.

        Raises:
            FloatingPointError: The loss of this step, or of one of the `LOOK` before it, is NaN or infinite.
        """
        losses = self.losses(self(batch.images), batch.labels, training=True)
        total = losses.sum()
        loss = total * (self.trainer.world_size / batch.total)
        self._remember(loss.detach(), total.detach(), len(losses))
        return loss

    def _remember(self, loss: torch.Tensor, total: torch.Tensor, images: int) -> None:
        """Keep a step's loss on the device, to be looked at later."""
        if self._recent.device != loss.device:
            self._recent, self._loss_sum = self._recent.to(loss.device), self._loss_sum.to(loss.device)
        self._recent[len(self._seen)] = loss
        self._seen.append(self.global_step)
        self._loss_sum, self._images = self._loss_sum + total, self._images + images
        if len(self._seen) == LOOK:
            self._check_losses()

    def _check_losses(self) -> None:
        """Look at the losses that were not looked at yet.

        Raises:
            FloatingPointError: One is NaN or infinite; it names the first such step.
        """
        losses, steps = self._recent[: len(self._seen)].tolist(), self._seen
        self._seen = []
        for loss, step in zip(losses, steps, strict=True):
            if not math.isfinite(loss):
                raise FloatingPointError(
                    f"the training loss is {loss} at step {step} (epoch {self.current_epoch + 1}); "
                    "a lower optimizer.lr or trainer.gradient_clip_val=1 may help"
                )

    def on_validation_start(self) -> None:
        """Look at the losses of the epoch's last steps before val is evaluated, and anything is saved."""
        self._check_losses()

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Keep the learning rate that the step takes: after it, the schedule has already set the next one."""
        self.step_lr = float(optimizer.param_groups[0]["lr"])

    def on_train_epoch_end(self) -> None:
        """Log the mean loss of the epoch and the learning rate of its last step."""
        self._check_losses()
        self.epoch_loss.update(self._loss_sum / self._images, self._images)
        self._loss_sum, self._images = torch.zeros_like(self._loss_sum), 0
        self.log("train/loss", self.epoch_loss.compute())  # over all ranks
        self.epoch_loss.reset()
        self.log("lr", self.step_lr)

    def _evaluate(self, batch: Batch, stage: str, mean_loss: MeanLoss) -> torch.Tensor | None:
        logits = self(batch.images)
        losses = self.losses(logits, batch.labels, training=False)
        mean_loss.update(losses.mean(), len(losses))
        self.log(f"{stage}/loss", mean_loss, on_epoch=True, on_step=False)
        self.keep(stage, logits, batch)
        return self.update_metrics(stage, logits, batch.labels)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Update the val metrics."""
        self._evaluate(batch, "val", self.val_loss)

    def on_test_start(self) -> None:
        """Clear what an earlier test left."""
        self.test_correct.clear()
        self.evidence = None

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Update the test metrics and keep the correctness of each image."""
        correct = self._evaluate(batch, "test", self.test_loss)
        if correct is not None:
            self.test_correct.append((batch.indices.cpu(), correct.cpu()))

    def configure_gradient_clipping(
        self, optimizer: Any, gradient_clip_val: float | None = None, gradient_clip_algorithm: str | None = None
    ) -> None:
        """Clip as Lightning does, also for a fused optimizer in bf16.

        Lightning refuses a fused optimizer in every mixed precision, since with a scaler the gradients are still scaled here;
        bf16 has no scaler.
        """
        plugin: Any = self.trainer.precision_plugin
        if self.trainer.precision == "bf16-mixed":
            Precision.clip_gradients(
                plugin, optimizer, gradient_clip_val or 0.0, GradClipAlgorithmType(gradient_clip_algorithm or "norm")
            )
        else:
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """Build optimizer and schedule; biases, norms and LayerScale (parameters with one axis) get no weight decay."""
        weights, norms, biases = [], [], []
        for name, parameter in self.named_parameters():
            if parameter.requires_grad:
                apart = self.bias_lr != 1 and name.endswith("bias")
                (weights if parameter.ndim > 1 else biases if apart else norms).append(parameter)
        groups = [{"params": weights}, *({"params": found, "weight_decay": 0.0} for found in (norms, biases))]
        optimizer = self.make_optimizer([group for group in groups if group["params"]])
        if biases:
            optimizer.param_groups[-1]["lr"] *= self.bias_lr
        total_steps = int(self.trainer.estimated_stepping_batches)
        epochs = self.trainer.max_epochs or 1
        schedule = self.make_schedule(optimizer, total_steps, max(1, total_steps // epochs))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def correctness(parts: Iterable[tuple[torch.Tensor, torch.Tensor]], count: int) -> torch.Tensor:
    """Merge the correctness of batches into the order of the split.

    Args:
        parts: Pairs of indices int64 [B] and correctness bool [B].
        count: Images in the split.

    Returns:
        bool [count].

    Raises:
        ValueError: An image is missing or occurs twice.
    """
    pairs = list(parts)
    index = torch.cat([i for i, _ in pairs]) if pairs else torch.empty(0, dtype=torch.long)
    if not torch.equal(index.sort().values, torch.arange(count)):
        raise ValueError(f"{len(index)} results ({len(index.unique())} different images) for {count} test images")
    correct = torch.empty(count, dtype=torch.bool)
    correct[index] = torch.cat([c for _, c in pairs])
    return correct
