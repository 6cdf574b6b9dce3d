"""How far a metric depends on which images are in the split: resamples of its images, with replacement.

A resample is the set in which image i is there `weights[i]` times. Its metric is exact, not approximated: it is what an
evaluation of that set gives. Equal scores are ranked by image, then by detection, then by copy. So the copies of an image stand
where it stood; and where one image has several detections of a class with equal scores, all copies of the first come before
those of the second.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol, TypeVar

import numpy as np

from necklace.boxes.precision import mean_defined

_AT_ONCE = 250  # resamples

T = TypeVar("T")


class Measured(Protocol):
    """`Evidence`, or `ScoreEvidence`."""

    def __len__(self) -> int:
        """N, the number of images."""
        ...

    def precisions(self, metric: str, weights: np.ndarray | None = None) -> np.ndarray:
        """The average precisions [K, R] of each class, NaN where a set has nothing to be found."""
        ...


def resampled(evidence: Measured, metric: str, weights: np.ndarray) -> np.ndarray:
    """A mean average precision of R sets that are made of the evidence's images.

    Args:
        evidence: Of N images.
        metric: A key of `MEASURES`, or of `SCORE_MEASURES`.
        weights: int [R, N], how often each image is in each set. All ones give what `metrics` gives, bit for bit.

    Returns:
        float64 [R]. As in `metrics`, the mean is over the classes that have an object in that set; NaN where none has.

    Raises:
        ValueError: The metric is unknown, or the weights are not whole numbers from 0 for each image.
    """
    return mean_defined(evidence.precisions(metric, weights))


def draws(images: int, resamples: int, generator: np.random.Generator) -> np.ndarray:
    """How often each image is drawn when as many as there are are drawn with replacement, int64 [resamples, images]."""
    return generator.multinomial(images, np.full(images, 1 / images), size=resamples)


def paired_interval(
    row: Sequence[Measured], baseline: Sequence[Measured], metric: str, generator: np.random.Generator, resamples: int = 2000
) -> tuple[float, float] | None:
    """95 % percentile interval over images of a row's metric minus the baseline's, for these weights.

    Every resample is the same images for all runs. A run's metric is averaged over the seeds of its row.

    Args:
        row: One evidence for each seed, of the same images.
        baseline: Likewise; there may be another number of seeds.
        metric: As in `resampled`.
        generator: For the resamples.
        resamples: How many; those without an object to be found do not count.

    Returns:
        Its ends, or None where no resample has anything to be found.

    Raises:
        ValueError: There is no run, or the runs are of different numbers of images.
    """
    sizes = {len(evidence) for evidence in (*row, *baseline)}
    if not row or not baseline or len(sizes) != 1 or sizes == {0}:
        raise ValueError(
            f"{len(row)} runs and a baseline of {len(baseline)}, on {sorted(sizes)} images: allowed are runs on the same images"
        )
    differences = []
    for start in range(0, resamples, _AT_ONCE):
        weights = draws(len(row[0]), min(_AT_ONCE, resamples - start), generator)
        means = [np.mean([resampled(evidence, metric, weights) for evidence in runs], axis=0) for runs in (row, baseline)]
        differences.append(means[0] - means[1])
    found = np.concatenate(differences)
    found = found[~np.isnan(found)]
    if not len(found):
        return None
    low, high = np.quantile(found, [0.025, 0.975])
    return float(low), float(high)


def drops(
    base: Measured, changed: Mapping[T, Measured], metric: str, generator: np.random.Generator, resamples: int = 2000
) -> dict[T, tuple[float, float] | None]:
    """95 % percentile intervals over images of how much lower a metric is where a model was changed, for these weights.

    Every resample is the same images for all, so that they can be compared with each other.

    Args:
        base: Of the model as it is.
        changed: Of its changes, on the same images.
        metric: As in `resampled`.
        generator: For the resamples.
        resamples: How many; those in which the metric is not defined do not count.

    Returns:
        For each change the ends of the interval of `base` minus it; None where no resample defines it.

    Raises:
        ValueError: They are of different numbers of images, or of none.
    """
    sizes = {len(base), *(len(evidence) for evidence in changed.values())}
    if len(sizes) != 1 or sizes == {0}:
        raise ValueError(f"changes of a model, on {sorted(sizes)} images: allowed are the same images, at least 1")
    found: dict[T, list[np.ndarray]] = {key: [] for key in changed}
    for start in range(0, resamples, _AT_ONCE):
        weights = draws(len(base), min(_AT_ONCE, resamples - start), generator)
        whole = resampled(base, metric, weights)
        for key, evidence in changed.items():
            found[key].append(whole - resampled(evidence, metric, weights))
    ends: dict[T, tuple[float, float] | None] = {}
    for key, parts in found.items():
        defined = np.concatenate(parts)
        defined = defined[~np.isnan(defined)]
        low, high = np.quantile(defined, [0.025, 0.975]) if len(defined) else (np.nan, np.nan)
        ends[key] = (float(low), float(high)) if len(defined) else None
    return ends
