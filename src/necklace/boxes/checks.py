"""What evidence cannot be. A file of it comes from somewhere, and a wrong one must not become a number."""

from typing import TYPE_CHECKING, NoReturn

import numpy as np

from necklace.boxes.matching import ALL_IOUS, AREAS, IGNORABLE, IOUS, OWN_CLASS, RIGHT

if TYPE_CHECKING:
    from necklace.boxes.evidence import Evidence

COLUMNS = {"image": np.int32, "true": np.uint16, "ignored": np.uint16, "voc": np.uint8}  # of the detections
OBJECTS = {"object_image": np.int32, "object_class": np.int32, "object_ranges": np.uint8}


def check(evidence: "Evidence") -> None:
    """Refuse evidence that no detections can have given.

    Raises:
        ValueError: A column has another type, length, range or order, or an image has more right detections than objects.
    """
    _check_types(evidence)
    _check_ranges(evidence)
    for together in (False, True):
        _check_right(evidence, together)


def _check_types(evidence: "Evidence") -> None:
    kinds = {"images": np.int32, "starts": np.int64, **COLUMNS, **OBJECTS}
    lengths = dict.fromkeys(COLUMNS, len(evidence.image)) | dict.fromkeys(OBJECTS, len(evidence.object_image))
    if evidence.scores is not None:
        kinds["scores"], lengths["scores"] = np.float32, len(evidence.image)
    for name, kind in kinds.items():
        values = getattr(evidence, name)
        shape = (lengths.get(name, len(values)), *([len(AREAS)] if name in ("true", "ignored") else []))
        if values.dtype != kind or values.shape != shape:
            _refuse(f"`{name}` is {values.dtype} {list(values.shape)}: due is {np.dtype(kind)} {list(shape)}")


def _check_ranges(evidence: "Evidence") -> None:
    images, starts, true, ignored = evidence.images, evidence.starts, evidence.true, evidence.ignored
    if (np.diff(images) <= 0).any() or (images < 0).any():
        _refuse("`images` are not ascending positions")
    if len(starts) < 3 or starts[0] != 0 or starts[-1] != len(evidence.image) or (np.diff(starts) < 0).any():
        _refuse(f"`starts` do not ascend from 0 to the {len(evidence.image)} detections")
    for name in ("image", "object_image"):
        if not np.isin(getattr(evidence, name), images).all():
            _refuse(f"`{name}` holds an image that is not of the {len(images)}")
    if ((evidence.object_class < 0) | (evidence.object_class >= evidence.classes)).any():
        _refuse(f"`object_class` holds a class that is not of the {evidence.classes}")
    if (np.diff(_keys(evidence.object_class, evidence.object_image)) < 0).any():
        _refuse("the objects are not in order of class and image")
    if (evidence.object_ranges >= 2 ** len(AREAS)).any():
        _refuse("`object_ranges` holds an unknown range of areas")
    if ((true | ignored) & ~ALL_IOUS).any() or (true & ignored).any():
        _refuse("`true` or `ignored` hold an unknown IoU, or one at which a detection is both")
    if (evidence.voc > IGNORABLE).any():
        _refuse(f"`voc` holds {evidence.voc.max()}: allowed are 0, 1 and 2")
    voc, true, ignored = evidence.voc[starts[-2] :], true[starts[-2] :], ignored[starts[-2] :]
    own = true[:, OWN_CLASS]
    if (
        (voc != IGNORABLE).any()
        or (ignored[:, OWN_CLASS + 1 :] != ALL_IOUS).any()
        or (ignored[:, OWN_CLASS] != ALL_IOUS & ~own).any()
    ):
        _refuse("with all classes as one, VOC's rules or a range of areas count")
    if (own & ~true[:, 0]).any():
        _refuse("with all classes as one, a detection has the class of an object that it did not find")


def _check_right(evidence: "Evidence", together: bool) -> None:
    """No image has more right detections (of a class) than objects: else, a recall could be above 1."""
    numbers = np.arange(evidence.classes + 1, dtype=np.int64)
    owner = np.repeat(numbers, np.diff(evidence.starts))
    right = (evidence.true.any(1) | (evidence.voc == RIGHT)) & ((owner == evidence.classes) == together)
    due = np.zeros_like(evidence.object_class) if together else evidence.object_class
    keys, place = np.unique(_keys(due, evidence.object_image), return_inverse=True)
    found = _keys(np.zeros_like(owner) if together else owner, evidence.image)[right]
    if not np.isin(found, keys).all():
        _refuse("a detection is right in an image that has no such object")
    found = np.searchsorted(keys, found)
    true, voc = evidence.true[right], evidence.voc[right]
    outcomes = [(voc == RIGHT, np.ones(len(place), bool))]
    for area in range(1 if together else len(AREAS)):
        inside = evidence.object_ranges >> area & 1 == 1
        outcomes += [(true[:, area] >> number & 1 == 1, inside) for number in range(len(IOUS))]
    for hits, inside in outcomes:
        if (np.bincount(found[hits], minlength=len(keys)) > np.bincount(place[inside], minlength=len(keys))).any():
            _refuse("an image has more right detections than objects")


def _keys(classes: np.ndarray, images: np.ndarray) -> np.ndarray:
    return classes.astype(np.int64) * 2**32 + images


def _refuse(problem: str) -> NoReturn:
    raise ValueError(f"evidence: {problem}")
