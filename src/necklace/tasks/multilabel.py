"""Multi-label classification and VOC2007's average precision."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torchmetrics import CatMetric
from torchmetrics.functional.classification import binary_average_precision, binary_precision_recall_curve

from necklace.boxes.scores import ScoreEvidence
from necklace.data.datamodule import Batch
from necklace.distributed import all_gather_object
from necklace.tasks.base import Task
from necklace.tasks.class_weights import weights_tensor


class MultiLabel(Task):
    """Any number of labels per image: binary cross-entropy and mean average precision.

    A label of -1 (only `difficult` objects of the class are in the image) is ignored in the loss and in the metrics. A class
    that no image of a split shows has no average precision there: the mean is over the others, and `test/map_classes` is their
    number.

    Args:
        model: Maps images [B, 3, H, W] to logits [B, K].
        classes: Names of the K classes.
        optimizer: As in `Task`.
        schedule: As in `Task`.
        seed: As in `Task`.
        class_weights: How much the presence of each class counts in the loss, in training only; see `class_weights.py`.
        bias_lr: As in `Task`.

    Raises:
        ValueError: `class_weights` is out of range.
    """

    monitor, label_axes, evidence_kind = "val/map", 2, "scores"
    class_weights: torch.Tensor | None

    def __init__(
        self,
        model: nn.Module,
        classes: Sequence[str],
        optimizer: Callable[[list[dict]], Optimizer],
        schedule: Callable[[Optimizer, int, int], LRScheduler],
        seed: int,
        class_weights: Sequence[float] | None = None,
        bias_lr: float = 1.0,
    ) -> None:
        super().__init__(model, optimizer, schedule, seed, bias_lr)
        self.classes = tuple(classes)
        self.register_buffer("class_weights", weights_tensor(class_weights, self.classes), persistent=False)
        # Both average precisions need the scores of all images: the area under the curve and VOC2007's 11 points.
        self.val_scores, self.test_scores = CatMetric(), CatMetric()
        self._tested: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []  # indices, scores and labels of test's batches

    def losses(self, logits: torch.Tensor, labels: torch.Tensor, training: bool) -> torch.Tensor:
        """Binary cross-entropy of each image [B] in nats, the mean over its classes with a label of 0 or 1."""
        known = (labels >= 0).float()
        target = labels.clamp(min=0).float()
        weights = self.class_weights if training else None
        losses = nn.functional.binary_cross_entropy_with_logits(
            logits, target, weight=known, reduction="none", pos_weight=weights
        )
        return losses.sum(1) / known.sum(1).clamp(min=1)

    def keep(self, stage: str, logits: torch.Tensor, batch: Batch) -> None:
        """Keep the scores of test with the images that they are of."""
        if stage == "test":
            parts = batch.indices, logits.float(), batch.labels.to(torch.int8)
            self._tested.append(tuple(part.cpu().numpy() for part in parts))  # pyright: ignore[reportArgumentType]

    def on_test_epoch_start(self) -> None:
        """Forget an earlier pass."""
        self._tested.clear()

    def update_metrics(self, stage: str, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Keep the scores for the end of the pass; returns whether each image has all classes right (-1 ignored), bool [B]."""
        scores = self.val_scores if stage == "val" else self.test_scores
        scores.update(torch.cat([logits.float(), labels.float()], 1))
        return (((logits > 0) == (labels > 0)) | (labels < 0)).all(1)

    def on_validation_epoch_end(self) -> None:
        """Log the average precisions on val."""
        self._log_precisions("val", self.val_scores)

    def on_test_epoch_end(self) -> None:
        """Log the average precisions on test, and keep what they are derived from."""
        self._log_precisions("test", self.test_scores)
        self.evidence = _evidence([part for own in all_gather_object(self._tested) for part in own])
        self._tested.clear()

    def _log_precisions(self, stage: str, scores: CatMetric) -> None:
        kept = torch.as_tensor(scores.compute())
        scores.reset()
        logits, labels = kept.split(len(self.classes), 1)
        areas, elevens = [], []
        for name, logit, label in zip(self.classes, logits.T, labels.T, strict=True):
            logit, target = logit[label >= 0], label[label >= 0].long()
            if not target.any():
                continue  # average precision is undefined without a positive
            areas.append(binary_average_precision(logit, target))
            elevens.append(eleven_point_precision(logit, target))
            self.log(f"{stage}/ap/{name}", areas[-1])
        # compute() gathers the scores of all ranks, so these values are equal on every rank.
        undefined = torch.tensor(torch.nan)  # a mean over nothing; check_parts() refuses such data before training
        self.log(f"{stage}/map", torch.stack(areas).mean() if areas else undefined)
        self.log(f"{stage}/map07", torch.stack(elevens).mean() if elevens else undefined)
        if stage == "test":
            self.log("test/map_classes", float(len(areas)))


def _evidence(parts: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> ScoreEvidence | None:
    """The evidence of batches in the order of their images; of a pass over a few batches, their images are the split."""
    if not parts:
        return None
    seen = np.sort(np.concatenate([index for index, *_ in parts]))
    placed = [(np.searchsorted(seen, index), scores, labels) for index, scores, labels in parts]
    return ScoreEvidence.joined(placed, images=len(seen))


def eleven_point_precision(scores: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """VOC2007's average precision: the mean over recalls 0, 0.1, ..., 1 of the best precision at that recall or above.

    Source: Everingham et al., The PASCAL VOC Challenge, IJCV 2010, section 4.2.

    Args:
        scores: float [N].
        target: int64 [N], 1 for a positive; at least one.

    Returns:
        A value in [0, 1], float [].
    """
    precision, recall, _ = binary_precision_recall_curve(scores, target)
    precision, recall = precision[:-1], recall[:-1]  # torchmetrics appends the point (recall 0, precision 1)
    # A tolerance of a hundredth of the smallest step of recall, so that 0.1 * 3 does not miss a recall of 0.3.
    slack = 0.01 / len(target)
    best = [precision[recall >= point / 10 - slack].max() for point in range(11)]
    return torch.stack(best).mean()
