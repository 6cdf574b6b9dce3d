"""Detection: boxes with classes, from a dense head.

Loss of an image: quality focal loss over all points and classes (Li et al., Generalized Focal Loss, NeurIPS 2020,
https://arxiv.org/abs/2006.04388, with exponent 2) plus `BOX_WEIGHT` * GIoU loss of the assigned points (Rezatofighi et al.,
CVPR 2019, https://arxiv.org/abs/1902.09630), each weighted with its target score; the sum over the sum of the target scores, at
least 1. So an image's loss does not depend on its batch, and the mean over the images of all ranks is exact. An image without
objects has the focal loss of its background alone. The class of an ignored box or a crowd is not counted within that box.

Predictions: at each point the classes above `LEAST_SCORE`, the best `CANDIDATES` of an image, non-maximum suppression within
each class, the best `MOST` of what is left. Each image is treated by itself, ties in a fixed order.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from pytorch_lightning.trainer.states import TrainerFn
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torchvision.ops import generalized_box_iou_loss, nms

from necklace.boxes.evidence import Evidence, evidence_of
from necklace.boxes.truth import COUNTS, ImageBoxes
from necklace.data.boxes import Targets
from necklace.data.datamodule import Batch
from necklace.data.images import ImageSet
from necklace.distributed import all_gather_object
from necklace.heads import Dense
from necklace.tasks.assignment import PAIRS, assign, inside
from necklace.tasks.base import Task

BOX_WEIGHT = 2.0
# Scores below this would change average precision by next to nothing, and cost time: 0.05 instead of 0.01 costs 0.4 points.
LEAST_SCORE = 0.001
CANDIDATES = 1000
OVERLAP = 0.6  # IoU above which the worse of two boxes of a class goes
MOST = 100  # boxes of an image, as COCO counts
CURVE = ("box_map", "box_map50", "box_map75", "box_loc")  # what a learning curve shows; all else is measured after training


class Detections(NamedTuple):
    """The predicted boxes of an image, the best first.

    Attributes:
        boxes: float32 [D, 4], in pixels of the image that the model saw, within it.
        scores: float32 [D], in (0, 1).
        classes: int64 [D].
    """

    boxes: Tensor
    scores: Tensor
    classes: Tensor


class Detection(Task):
    """Any number of boxes an image, each of one class.

    Args:
        model: Maps images [B, 3, H, W] to `heads.Dense`.
        classes: Names of the K classes.
        optimizer: As in `Task`.
        schedule: As in `Task`.
        seed: As in `Task`.
        bias_lr: As in `Task`.
    """

    monitor, label_axes, dense, evidence_kind = "val/box_map", 2, True, "boxes"

    def __init__(
        self,
        model: nn.Module,
        classes: Sequence[str],
        optimizer: Callable[[list[dict]], Optimizer],
        schedule: Callable[[Optimizer, int, int], LRScheduler],
        seed: int,
        bias_lr: float = 1.0,
    ) -> None:
        super().__init__(model, optimizer, schedule, seed, bias_lr)
        self.classes = tuple(classes)
        self._found: list[ImageBoxes] = []  # of the pass so far, on this rank

    def forward(self, images: Tensor) -> Dense:
        """Map images [B, 3, H, W] to predictions, in float32 where the model computes in less."""
        outputs: Dense = self.model(images)
        return outputs._replace(scores=outputs.scores.float())

    def losses(self, logits: Dense, labels: Targets, training: bool) -> Tensor:
        """The loss of each image, float [B]."""
        return detection_losses(logits, labels)

    def keep(self, stage: str, logits: Dense, batch: Batch) -> None:
        """Keep the true and the predicted boxes of each image, in pixels of the stored image."""
        split = self._split(stage)
        size = batch.images.shape[2], batch.images.shape[3]
        for index, found in zip(batch.indices.tolist(), detections(logits, size), strict=True):
            self._found.append(image_boxes(split, index, size, found))

    def update_metrics(self, stage: str, logits: Dense, labels: Targets) -> None:
        """Nothing: average precision needs all images, see `keep`."""

    def on_validation_epoch_start(self) -> None:
        """Forget an earlier pass, which may have been broken off."""
        self._found.clear()

    def on_test_epoch_start(self) -> None:
        """Likewise."""
        self._found.clear()

    def on_validation_epoch_end(self) -> None:
        """Log the average precisions on val."""
        self._log_precisions("val")

    def on_test_epoch_end(self) -> None:
        """Log the average precisions on test, and keep what they are derived from."""
        self.evidence = self._log_precisions("test")

    def _log_precisions(self, stage: str) -> Evidence:
        """Gather what all ranks found, and log what it gives."""
        seen = sorted(index for own in all_gather_object([image.index for image in self._found]) for index in own)
        if len(seen) < len(self._split(stage)):  # a pass over a few batches: their images count as the split
            place = {index: number for number, index in enumerate(seen)}
            self._found = [replace(image, index=place[image.index]) for image in self._found]
        parts = all_gather_object(evidence_of(self._found, len(self.classes)))
        self._found.clear()
        evidence = Evidence.joined(parts, images=len(seen))
        for name, value in evidence.metrics(self.classes).items():
            if name in CURVE or self.trainer.state.fn != TrainerFn.FITTING:
                self.log(f"{stage}/{name}", value, sync_dist=True, reduce_fx="max")  # equal on every rank
        return evidence

    def _split(self, stage: str) -> ImageSet:
        """The images that are evaluated."""
        data: Any = getattr(self.trainer, "datamodule")  # noqa: B009, which Lightning attaches without declaring it
        return data.splits[stage]


def detection_losses(outputs: Dense, targets: Targets) -> Tensor:
    """The loss of each image, see the module's docstring.

    Args:
        outputs: Predictions for B images.
        targets: Their true boxes.

    Returns:
        float [B], finite also without any object.
    """
    scores = outputs.scores.sigmoid()
    assigned = assign(scores.detach(), outputs.boxes.detach(), outputs.points, targets)
    due = torch.zeros_like(scores)
    due.flatten(0, 1)[assigned.place, targets.classes[assigned.box]] = assigned.score
    entropy = nn.functional.binary_cross_entropy_with_logits(outputs.scores, due, reduction="none")
    focal = entropy * (due - scores).square()
    if bool((targets.flags != COUNTS).any()):
        focal = focal.masked_fill(_uncounted(outputs, targets) & (due == 0), 0.0)
    apart = generalized_box_iou_loss(outputs.boxes.flatten(0, 1)[assigned.place], targets.boxes[assigned.box])
    # One value a point, so that an image's sum is taken in one order whatever else is in the batch.
    box = torch.zeros_like(scores[..., 0]).flatten().index_put((assigned.place,), apart * assigned.score)
    total = focal.sum((1, 2)) + BOX_WEIGHT * box.view(scores.shape[:2]).sum(1)
    return total / due.sum((1, 2)).clamp(min=1)


def _uncounted(outputs: Dense, targets: Targets) -> Tensor:
    """Where a class lies in an ignored box or a crowd of that class: bool [B, A, K]."""
    found = torch.zeros_like(outputs.scores, dtype=torch.bool)
    ignored = (targets.flags != COUNTS).nonzero().flatten()
    for some in ignored.split(max(1, PAIRS // len(outputs.points))):
        row, point = inside(outputs.points, targets.boxes[some]).nonzero(as_tuple=True)
        found[targets.image[some][row], point, targets.classes[some][row]] = True
    return found


@torch.no_grad()
def detections(outputs: Dense, size: tuple[int, int]) -> list[Detections]:
    """The predicted boxes of each image.

    Args:
        outputs: Predictions for B images.
        size: Height and width of these images in pixels.
    """
    scores = outputs.scores.float().sigmoid().cpu()
    ends = torch.tensor([size[1], size[0]] * 2, dtype=torch.float32)
    boxes = torch.minimum(outputs.boxes.cpu().clamp(min=0), ends)
    return [_best(own, where) for own, where in zip(scores, boxes, strict=True)]


def _best(scores: Tensor, boxes: Tensor) -> Detections:
    """The best boxes of an image, from scores [A, K] and boxes [A, 4]."""
    point, classes = (scores > LEAST_SCORE).nonzero(as_tuple=True)
    kept = (boxes[:, 2:] > boxes[:, :2]).all(1)[point]  # what lies outside the image has been clipped to nothing
    point, classes = point[kept], classes[kept]
    score = scores[point, classes]
    order = score.argsort(descending=True, stable=True)[:CANDIDATES]
    point, classes, score = point[order], classes[order], score[order]
    # Classes far from each other do not suppress each other. In double precision, the shift changes no IoU.
    where = boxes[point].double()
    size = float(where.max()) if len(where) else 0.0
    apart = where + (classes.double() * (size + 1))[:, None]
    best = nms(apart, score.double(), OVERLAP)[:MOST]
    return Detections(boxes[point[best]], score[best], classes[best])


def image_boxes(split: ImageSet, index: int, size: tuple[int, int], found: Detections) -> ImageBoxes:
    """The true and the predicted boxes of an image, both in pixels of the stored image.

    Args:
        split: The image's split, with boxes.
        index: The image.
        size: Height and width in pixels at which the model saw it.
        found: What it found.
    """
    assert split.boxes is not None
    height, width = split.shapes[index].tolist()
    true, classes, flags = split.boxes.of(index)
    scale = torch.tensor([width / size[1], height / size[0]] * 2)
    return ImageBoxes(
        index=index,
        height=height,
        width=width,
        true_boxes=true.numpy(),
        true_classes=classes.numpy(),
        flags=flags.numpy(),
        boxes=(found.boxes * scale).numpy(),
        scores=found.scores.numpy(),
        classes=found.classes.numpy(),
    )
