"""What of a model's detections re-derives every number on them, and nothing more: no boxes, no scores, only the ranking.

A detection counts by its image, its place in the ranking of its class, and whether it was right at each IoU and range of areas.
Detections that count nowhere, and those below the last right one of their class, change no average precision of any resample of
the images, so a joined evidence does not hold them.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from necklace.boxes.checks import COLUMNS, OBJECTS, check
from necklace.boxes.files import read_arrays, write_arrays
from necklace.boxes.matching import ALL_IOUS, AREAS, IGNORABLE, OWN_CLASS, RIGHT, Matches, Objects, match
from necklace.boxes.measures import MEASURES, Measure
from necklace.boxes.precision import in_blocks, mean_defined, ranked_precision, weights_of
from necklace.boxes.truth import ImageBoxes

MOST_IMAGES = 10_000_000  # of a split; it is what a file can state without showing it


_FILE = {"images": ("<i8", 0), "starts": ("<i8", 1), "image": ("<i4", 1), "true": ("<u2", 2), "ignored": ("<u2", 2)}
_FILE |= {"voc": ("|u1", 1), "object_image": ("<i4", 1), "object_class": ("<i4", 1), "object_ranges": ("|u1", 1)}
_AT_ONCE = 1000  # images whose boxes are matched together, or fewer:
_PAIRS_AT_ONCE = 2**20  # about as many pairs of a detection and a true box


@dataclass(frozen=True, eq=False)
class Evidence:
    """The ranked detections of K classes on some images of a split, and the objects that there are.

    Attributes:
        images: int32 [n], the images' positions in the split, ascending; also of those without boxes.
        starts: int64 [K + 2], where each class begins in the columns; what follows class K - 1 is the ranking of all classes
            as one.
        image: int32 [D], each detection's image; within a class in falling order of score, then of image.
        true: uint16 [D, 4], as in `Matches`.
        ignored: uint16 [D, 4], as in `Matches`.
        voc: uint8 [D], as in `Matches`.
        object_image: int32 [P], the image of each object that counts, in order of class and image.
        object_class: int32 [P].
        object_ranges: uint8 [P], as in `Objects`.
        scores: float32 [D], or None: joined evidence has the order alone.

    Raises:
        ValueError: A column has another type, length, range or order, or an image has more right detections than objects.
    """

    images: np.ndarray
    starts: np.ndarray
    image: np.ndarray
    true: np.ndarray
    ignored: np.ndarray
    voc: np.ndarray
    object_image: np.ndarray
    object_class: np.ndarray
    object_ranges: np.ndarray
    scores: np.ndarray | None = None

    def __post_init__(self) -> None:
        check(self)

    def __len__(self) -> int:
        """The number of images."""
        return len(self.images)

    @property
    def classes(self) -> int:
        """K."""
        return len(self.starts) - 2

    @classmethod
    def joined(cls, parts: Iterable["Evidence"], images: int) -> "Evidence":
        """Put together the parts of a split, in the split's order, however its images were dealt to them.

        Args:
            parts: From `evidence_of`.
            images: Of the split.

        Raises:
            ValueError: An image of the split is in none of the parts or in two, the parts have different numbers of classes,
                or one was joined before.
        """
        found = list(parts)
        if len({part.classes for part in found}) != 1:
            raise ValueError(f"evidence of {sorted({part.classes for part in found})} classes: all parts need the same number")
        if any(part.scores is None for part in found):
            raise ValueError("evidence that was joined or read from a file has no scores left, so it cannot be joined again")
        indices = np.sort(np.concatenate([part.images for part in found]))
        if not np.array_equal(indices, np.arange(images)):
            missing = np.setdiff1d(np.arange(images), indices)
            twice = indices[1:][np.diff(indices) == 0]
            raise ValueError(
                f"evidence of {len(indices)} images ({len(np.unique(indices))} different ones) for a split of {images}: "
                f"{len(missing)} are missing{_first(missing)} and {len(twice)} occur again{_first(twice)}"
            )
        columns = {name: np.concatenate([getattr(part, name) for part in found]) for name in (*COLUMNS, "scores")}
        owner = np.concatenate([np.repeat(np.arange(part.classes + 1), np.diff(part.starts)) for part in found])
        # Stable, so that equal scores of an image keep their order: an image is in one part only.
        order = np.lexsort((columns["image"], -columns.pop("scores"), owner))
        objects = {name: np.concatenate([getattr(part, name) for part in found]) for name in OBJECTS}
        owner, columns = owner[order], {name: values[order] for name, values in columns.items()}
        kept = _needed(owner, columns)
        return cls(
            images=indices.astype(np.int32),
            starts=np.searchsorted(owner[kept], np.arange(found[0].classes + 2)),
            **{name: values[kept] for name, values in columns.items()},
            **_in_order(objects),
        )

    def subset(self, images: np.ndarray) -> "Evidence":
        """The evidence of some of the images alone.

        Args:
            images: int [m], positions in the split, ascending.

        Raises:
            ValueError: They are not ascending, or one is not in the evidence.
        """
        if not np.isin(images, self.images).all() or (np.diff(images) <= 0).any():
            raise ValueError("images of a subset: allowed are ascending positions of images that the evidence is of")
        kept, objects = np.isin(self.image, images), np.isin(self.object_image, images)
        return Evidence(
            images=images.astype(np.int32),
            starts=np.append(0, np.cumsum(kept))[self.starts],
            **{name: getattr(self, name)[kept] for name in COLUMNS},
            **{name: getattr(self, name)[objects] for name in OBJECTS},
            scores=None if self.scores is None else self.scores[kept],
        )

    def metrics(self, class_names: Sequence[str]) -> dict[str, float]:
        """All that is measured on detections.

        Args:
            class_names: Of the K classes.

        Returns:
            `MEASURES`, `box_ap/CLASS` and `box_ap50/CLASS` (both by COCO's rules, in all areas), each in [0, 1], and
            `box_map_classes`, the number of classes with an object that counts. What is not defined, as where a class or range
            of areas has no object, is not among them.

        Raises:
            ValueError: There are not K different names.
        """
        if len(class_names) != self.classes or len(set(class_names)) != self.classes:
            raise ValueError(f"{len(class_names)} names for {self.classes} classes: as many different ones are needed")
        found: dict[str, float] = {}
        for name in MEASURES:
            values = self.precisions(name)
            means = mean_defined(values)
            if not np.isnan(means[0]):
                found[name] = float(means[0])
            each = {"box_map": "box_ap", "box_map50": "box_ap50"}.get(name)
            if each:
                pairs = zip(class_names, values[:, 0], strict=True)
                found |= {f"{each}/{name}": float(value) for name, value in pairs if not np.isnan(value)}
        return found | {"box_map_classes": float(len(np.unique(self.object_class)))}

    def precisions(self, metric: str, weights: np.ndarray | None = None) -> np.ndarray:
        """The average precision of each class, if images occur several times or not at all.

        Args:
            metric: One of `MEASURES`.
            weights: int [R, n], how often each of `images` occurs in each of R sets; None: once.

        Returns:
            float64 [K, R], or [1, R] where all classes are one; NaN where a set has no object of the class.

        Raises:
            ValueError: The metric is unknown, or the weights are not whole numbers from 0 for each image.
        """
        if metric not in MEASURES:
            raise ValueError(f"{metric}: allowed are {', '.join(MEASURES)}")
        times = weights_of(weights, len(self.images))
        measure = MEASURES[metric]
        numbers = [self.classes] if measure.together else range(self.classes)
        return np.stack([self._ranked(measure, number, times) for number in numbers])

    def _ranked(self, measure: Measure, number: int, times: np.ndarray) -> np.ndarray:
        """The average precision of a class, or of all as one, [R]; the mean over the IoUs."""
        rows = slice(*self.starts[number : number + 2])
        if measure.rule is None:
            return self._right_classes(rows, measure.ious, times)
        if measure.area is None:
            right, counted = (self.voc[rows] == RIGHT)[None], (self.voc[rows] != IGNORABLE)[None]
        else:
            bits = np.array(measure.ious)[:, None]
            right = (self.true[rows, measure.area] >> bits & 1).astype(bool)
            counted = (self.ignored[rows, measure.area] >> bits & 1) == 0
        owners = slice(None)
        if not measure.together:
            owners = slice(*np.searchsorted(self.object_class, [number, number + 1]))
        objects = self.object_image[owners]
        if measure.area is not None:
            objects = objects[self.object_ranges[owners] >> measure.area & 1 == 1]
        image, owned = np.searchsorted(self.images, self.image[rows]), np.searchsorted(self.images, objects)
        rule = measure.rule

        def part(some: np.ndarray) -> np.ndarray:
            return ranked_precision(rule, some, some[:, owned].sum(1), image, right, counted)

        return in_blocks(part, times, int(right.any(0).sum()))

    def _right_classes(self, rows: slice, ious: Sequence[int], times: np.ndarray) -> np.ndarray:
        """The share of the found objects whose detection has their class, [R]; NaN where none was found."""
        image, bits = np.searchsorted(self.images, self.image[rows]), np.array(ious)[:, None]
        hits = [(self.true[rows, place] >> bits & 1).sum(0) for place in (0, OWN_CLASS)]
        found, own = (np.bincount(image, each, len(self.images)) for each in hits)
        total = times @ found
        return np.where(total > 0, (times @ own) / np.maximum(total, 1), np.nan)

    def save(self, path: Path) -> str:
        """Write the evidence of a whole split; returns the SHA-256 of the file.

        Raises:
            ValueError: It is a part, or too large.
        """
        if not np.array_equal(self.images, np.arange(len(self.images))) or len(self.images) > MOST_IMAGES:
            raise ValueError(f"{path}: only evidence of all images of a split, at most {MOST_IMAGES:,}, is written")
        names = (*_FILE,)[1:]
        return write_arrays(path, {"images": np.array(len(self.images))} | {name: getattr(self, name) for name in names})

    @classmethod
    def load(cls, path: Path, sha256: str | None = None) -> "Evidence":
        """Read what `save` wrote.

        Args:
            path: The file.
            sha256: What `save` gave; None: not compared.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: It is another file than was written, or not such a file.
        """
        arrays = read_arrays(path, _FILE, sha256)
        number = int(arrays.pop("images"))
        if not 0 <= number <= MOST_IMAGES:
            raise ValueError(f"{path}: `images` is {number}: allowed are 0 to {MOST_IMAGES:,}")
        try:
            return cls(images=np.arange(number, dtype=np.int32), **arrays)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error


def evidence_of(images: Iterable[ImageBoxes], num_classes: int) -> Evidence:
    """The evidence of some images of a split, which `Evidence.joined` puts together with that of the others.

    Args:
        images: In any order, each once; read one after the other, so that they need not all be in memory.
        num_classes: K.

    Raises:
        ValueError: An image occurs twice, or a class is not below K.
    """
    if num_classes < 1:
        raise ValueError(f"{num_classes} classes: at least 1 is needed")
    indices: list[int] = []
    rows: list[Matches] = []
    objects: list[Objects] = []
    for some in portions(images):
        indices += [image.index for image in some]
        within, together, found = match(some, num_classes)
        rows += [within, together]
        objects.append(found)
    if len(set(indices)) < len(indices):
        raise ValueError(f"boxes of {len(indices)} images, but only {len(set(indices))} different ones: each is due once")
    owner = np.concatenate([part.classes for part in rows]) if rows else np.empty(0, np.int32)
    kinds = {**COLUMNS, "scores": np.float32}
    empty = {name: np.empty((0, len(AREAS)) if name in ("true", "ignored") else 0, kind) for name, kind in kinds.items()}
    columns = {name: np.concatenate([empty[name], *(getattr(part, name) for part in rows)]) for name in kinds}
    order = np.lexsort((columns["image"], -columns["scores"], owner))
    parts = {"object_image": "image", "object_class": "classes", "object_ranges": "ranges"}
    return Evidence(
        images=np.sort(np.array(indices, np.int32)),
        starts=np.searchsorted(owner[order], np.arange(num_classes + 2)),
        **{name: values[order] for name, values in columns.items()},
        **_in_order(
            {
                name: np.concatenate([np.empty(0, OBJECTS[name]), *(getattr(part, source) for part in objects)])
                for name, source in parts.items()
            }
        ),
    )


def portions(images: Iterable[ImageBoxes]) -> Iterator[list[ImageBoxes]]:
    """The images some at a time, so that neither their number nor their boxes need more than a bounded memory."""
    some: list[ImageBoxes] = []
    pairs = 0
    for image in images:
        some.append(image)
        pairs += len(image.flags) * len(image.scores)
        if len(some) == _AT_ONCE or pairs >= _PAIRS_AT_ONCE:
            yield some
            some, pairs = [], 0
    if some:
        yield some


def _needed(owner: np.ndarray, columns: dict[str, np.ndarray]) -> np.ndarray:
    """Which detections can change a number, bool [D]: those that count, down to the last right one of their class."""
    right = columns["true"].any(1) | (columns["voc"] == RIGHT)
    counts = (columns["ignored"] != ALL_IOUS).any(1) | (columns["voc"] != IGNORABLE)
    last = np.full(owner.max(initial=0) + 1, -1)
    np.maximum.at(last, owner[right], np.flatnonzero(right))
    return counts & (np.arange(len(owner)) <= last[owner])


def _in_order(objects: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Objects in order of class, image and ranges of areas."""
    order = np.lexsort((objects["object_ranges"], objects["object_image"], objects["object_class"]))
    return {name: values[order] for name, values in objects.items()}


def _first(images: np.ndarray) -> str:
    return f" (the first is image {images[0]})" if len(images) else ""
