"""What a model's outputs on val are worth, in a form that resamples of the images can be made of, for each task's metric.

Accuracies are means over images and over the images of each class; average precisions come from `necklace.boxes`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from necklace.boxes.bootstrap import Measured
from necklace.boxes.evidence import Evidence, evidence_of
from necklace.boxes.precision import mean_defined, weights_of
from necklace.boxes.scores import ScoreEvidence
from necklace.boxes.truth import ImageBoxes
from necklace.data.datamodule import Batch
from necklace.data.images import ImageSet
from necklace.tasks.detection import detections, image_boxes


@dataclass(frozen=True, eq=False)
class Rights:
    """Which of N images of K classes are right, in the split's order.

    Attributes:
        correct: bool [N].
        labels: int64 [N].
    """

    correct: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        """N."""
        return len(self.correct)

    def precisions(self, metric: str, weights: np.ndarray | None = None) -> np.ndarray:
        """The share of right images, of all or of each class, if images occur several times or not at all.

        Args:
            metric: `acc`, or `balanced_acc`.
            weights: int [R, N]; None: once.

        Returns:
            float64 [1, R], or [K, R] of the classes that are there, NaN where a set has no image of the class.

        Raises:
            ValueError: The metric is unknown, or the weights are not whole numbers from 0 for each image.
        """
        if metric not in ("acc", "balanced_acc"):
            raise ValueError(f"{metric}: allowed are acc, balanced_acc")
        times = weights_of(weights, len(self)).astype(np.float64)  # products of whole numbers are exact, and fast as floats
        labels = np.unique(self.labels)[:, None] == self.labels if metric == "balanced_acc" else np.ones((1, len(self)), bool)
        counts, right = labels @ times.T, (labels & self.correct) @ times.T
        return np.where(counts > 0, right / np.maximum(counts, 1), np.nan)


class Outcome(Protocol):
    """What is kept of a pass over val."""

    def add(self, outputs: Any, batch: Batch, size: tuple[int, int]) -> None:
        """Take what the model gives for a batch of images that it saw at a height and width in pixels."""
        ...

    def measured(self) -> Measured:
        """What all images of the pass are worth."""
        ...


class _Labels:
    def __init__(self, split: ImageSet, classes: int) -> None:
        self._split = split
        self._correct = np.zeros(len(split), bool)

    def add(self, outputs: Tensor, batch: Batch, size: tuple[int, int]) -> None:
        self._correct[batch.indices.cpu().numpy()] = (outputs.argmax(1) == batch.labels).cpu().numpy()

    def measured(self) -> Rights:
        return Rights(self._correct, self._split.labels.cpu().numpy())


class _Scores:
    def __init__(self, split: ImageSet, classes: int) -> None:
        self._images = len(split)
        self._parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []

    def add(self, outputs: Tensor, batch: Batch, size: tuple[int, int]) -> None:
        parts = batch.indices, outputs.float(), batch.labels.to(torch.int8)
        self._parts.append(tuple(part.cpu().numpy() for part in parts))  # pyright: ignore[reportArgumentType]

    def measured(self) -> ScoreEvidence:
        return ScoreEvidence.joined(self._parts, images=self._images)


class _Boxes:
    def __init__(self, split: ImageSet, classes: int) -> None:
        self._split, self._classes = split, classes
        self._found: list[ImageBoxes] = []
        self._parts: list[Evidence] = []

    def add(self, outputs: Any, batch: Batch, size: tuple[int, int]) -> None:
        found = zip(batch.indices.tolist(), detections(outputs, size), strict=True)
        # Matched at once: of a split's boxes, once for each change, there would be too many to keep.
        images = [image_boxes(self._split, index, size, own) for index, own in found]
        self._parts.append(evidence_of(images, self._classes))

    def measured(self) -> Evidence:
        return Evidence.joined(self._parts, images=len(self._split))


_OF_METRIC: dict[str, Callable[[ImageSet, int], Outcome]] = {
    "val/acc": _Labels,
    "val/balanced_acc": _Labels,
    "val/map": _Scores,
    "val/box_map": _Boxes,
}


def outcome_of(metric: str, split: ImageSet, classes: int) -> Callable[[], Outcome]:
    """Makes what is kept of a pass over val.

    Args:
        metric: That by which val chose the weights.
        split: Val.
        classes: Number of classes.

    Raises:
        ValueError: The metric is not one that resamples of the images can be made of.
    """
    if metric not in _OF_METRIC:
        raise ValueError(
            f"a knockout needs a metric of val that is known here ({', '.join(_OF_METRIC)}), and this run has {metric}"
        )
    return lambda: _OF_METRIC[metric](split, classes)


def value_of(measured: Measured, metric: str) -> float:
    """The metric itself; NaN where it is not defined."""
    return float(mean_defined(measured.precisions(metric.removeprefix("val/")))[0])
