"""The scores and labels of a multi-label test, from which every average precision on them is derived again."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from necklace.boxes.files import read_arrays, write_arrays
from necklace.boxes.precision import in_blocks, mean_defined, steps, voc07, weights_of

SCORE_MEASURES = {"map": steps, "map07": voc07}


@dataclass(frozen=True, eq=False)
class ScoreEvidence:
    """Scores and labels of N images and K classes, in the split's order.

    Attributes:
        scores: float32 [N, K], the higher the likelier. Only their order counts, and which are equal.
        labels: int8 [N, K], 1 shown, 0 not shown, -1 unknown: that image does not count for the class.

    Raises:
        ValueError: An array has another type or shape, a score is NaN or infinite, or a label is another.
    """

    scores: np.ndarray
    labels: np.ndarray

    def __post_init__(self) -> None:
        for name, kind in (("scores", np.float32), ("labels", np.int8)):
            values = getattr(self, name)
            if values.dtype != kind or values.ndim != 2 or values.shape != self.scores.shape:
                shape = f"[images, classes], as many as of `{'labels' if name == 'scores' else 'scores'}`"
                raise ValueError(f"evidence: `{name}` is {values.dtype} {list(values.shape)}: due is {np.dtype(kind)} {shape}")
        if not np.isfinite(self.scores).all():
            raise ValueError(
                f"evidence: `scores` holds {self.scores[~np.isfinite(self.scores)][0]}: allowed are finite numbers"
            )
        if (np.abs(self.labels.astype(np.int16)) > 1).any():
            raise ValueError("evidence: `labels` holds another value than -1, 0 and 1")

    def __len__(self) -> int:
        """N."""
        return len(self.scores)

    @classmethod
    def joined(cls, parts: Iterable[tuple[np.ndarray, np.ndarray, np.ndarray]], images: int) -> "ScoreEvidence":
        """Put together the batches of a split, in the split's order.

        Args:
            parts: Positions int [n], scores float32 [n, K] and labels int8 [n, K].
            images: Of the split.

        Raises:
            ValueError: An image is missing or occurs twice.
        """
        index, scores, labels = (np.concatenate(column) for column in zip(*parts, strict=True))
        order = np.argsort(index, kind="stable")
        if not np.array_equal(index[order], np.arange(images)):
            raise ValueError(f"scores of {len(index)} images ({len(np.unique(index))} different) for a split of {images}")
        return cls(scores[order], labels[order])

    def metrics(self, class_names: Sequence[str]) -> dict[str, float]:
        """`map`, `map07`, `ap/CLASS` in [0, 1] and `map_classes`, as `tasks/multilabel.py` logs them.

        Args:
            class_names: Of the K classes.

        Returns:
            What is defined: a class that no image shows has no average precision and is not in the means.

        Raises:
            ValueError: There are not K different names.
        """
        classes = self.scores.shape[1]
        if len(class_names) != classes or len(set(class_names)) != classes:
            raise ValueError(f"{len(class_names)} names for {classes} classes: as many different ones are needed")
        values = {name: self.precisions(name) for name in SCORE_MEASURES}
        shown = ~np.isnan(values["map"][:, 0])
        found = {name: float(mean_defined(value)[0]) for name, value in values.items() if shown.any()}
        each = zip(class_names, values["map"][:, 0], strict=True)
        found |= {f"ap/{name}": float(value) for name, value in each if not np.isnan(value)}
        return found | {"map_classes": float(shown.sum())}

    def precisions(self, metric: str, weights: np.ndarray | None = None) -> np.ndarray:
        """The average precision of each class, if images occur several times or not at all.

        Args:
            metric: One of `SCORE_MEASURES`.
            weights: int [R, N], how often each image occurs in each of R sets; None: once.

        Returns:
            float64 [K, R]; NaN where no image of a set shows the class.

        Raises:
            ValueError: The metric is unknown, or the weights are not whole numbers from 0 for each image.
        """
        if metric not in SCORE_MEASURES:
            raise ValueError(f"{metric}: allowed are {', '.join(SCORE_MEASURES)}")
        times = weights_of(weights, len(self))
        return np.stack([self._class(metric, number, times) for number in range(self.scores.shape[1])])

    def _class(self, metric: str, number: int, times: np.ndarray) -> np.ndarray:
        """The average precision of a class, [R]. Images with equal scores enter together, as one point of the curve."""
        image = np.flatnonzero(self.labels[:, number] >= 0)
        image = image[np.argsort(-self.scores[image, number], kind="stable")]
        shown = self.labels[image, number] == 1
        ranked = self.scores[image, number]
        ends = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))[: len(ranked)]

        def part(some: np.ndarray) -> np.ndarray:
            objects, weights = some[:, image[shown]].sum(1), some[:, image]
            right, seen = np.cumsum(weights * shown, axis=1)[:, ends], np.cumsum(weights, axis=1)[:, ends]
            value = SCORE_MEASURES[metric](right, seen, np.maximum(objects, 1)) if len(ends) else np.zeros(len(objects))
            return np.where(objects > 0, value, np.nan)

        return in_blocks(part, times, len(image))

    def save(self, path: Path) -> str:
        """Write it; returns the SHA-256 of the file.

        Raises:
            ValueError: It is too large.
        """
        return write_arrays(path, {"scores": self.scores, "labels": self.labels})

    @classmethod
    def load(cls, path: Path, sha256: str | None = None) -> "ScoreEvidence":
        """Read what `save` wrote.

        Args:
            path: The file.
            sha256: What `save` gave; None: not compared.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: It is another file than was written, or not such a file.
        """
        arrays = read_arrays(path, {"scores": ("<f4", 2), "labels": ("|i1", 2)}, sha256)
        try:
            return cls(**arrays)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
