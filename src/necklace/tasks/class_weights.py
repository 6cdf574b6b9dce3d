"""Weights of classes in the loss, against imbalance: `task.class_weights`.

With one label an image, a weight multiplies the loss of each image of the class. `balanced` is N / (K * images of the class),
over the K classes that train has: all classes then count the same, and the mean weight over the images of train is 1. With
several labels an image, a weight multiplies the loss of the class where it is present, not where it is absent; `balanced` is
images without / images with it.

A step's loss is the weighted sum over the images of all ranks, divided by the number of images, not by the sum of the weights.
So its gradient is that of the weighted loss over all of train, in expectation, however the images fall into batches and ranks;
and `balanced` draws (`data.sampler`) have the same expectation. Numbers are taken as given: twice the weights, twice the loss.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch


def balanced_weights(labels: torch.Tensor, classes: int) -> list[float]:
    """The weights that `balanced` stands for; a class that they cannot be computed for has 1.

    Args:
        labels: int64 [N], or int8 [N, K] (1 present, 0 absent, -1 ignored), of the training images.
        classes: K.
    """
    if labels.ndim == 1:
        counts = labels.bincount(minlength=classes)
        share = len(labels) / int((counts > 0).sum())
        return [share / count if count else 1.0 for count in counts.tolist()]
    present, absent = ((labels == value).sum(0).tolist() for value in (1, 0))
    return [without / having if without and having else 1.0 for having, without in zip(present, absent, strict=True)]


def weights_tensor(weights: Any, classes: Sequence[str]) -> torch.Tensor | None:
    """Check weights and make them a tensor, float32 [K]; None for none.

    Args:
        weights: A number for each class, or None.
        classes: Names of the K classes.

    Raises:
        ValueError: They are not so many, or not positive and finite.
    """
    if weights is None:
        return None
    values = list(weights) if isinstance(weights, Sequence) and not isinstance(weights, str) else []
    if len(values) != len(classes) or not all(map(_is_weight, values)):
        named = ", ".join(classes[:10]) + (", ..." if len(classes) > 10 else "")
        raise ValueError(
            f"task.class_weights={weights}: must be null, balanced, or {len(classes)} positive finite numbers, "
            f"one for each class ({named})"
        )
    return torch.tensor(values, dtype=torch.float32)


def _is_weight(value: object) -> bool:
    """Whether it is a positive number that float32 can hold."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return math.isfinite(value) and torch.finfo(torch.float32).tiny <= value <= torch.finfo(torch.float32).max
