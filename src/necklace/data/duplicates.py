"""Images whose pixels are equal: in two splits, or with two labels (with boxes: with other boxes).

Equal means: the same decoded pixels at the same shape, whatever the files' names, formats and metadata. An image that was
compressed again is another image.
"""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping

from necklace.data.files import readable
from necklace.data.images import ImageSet, SplitName
from necklace.data.reasons import number_of

Place = tuple[SplitName, int]
"""An image: its split and its index there."""

PAIRS: tuple[tuple[SplitName, SplitName], ...] = (("test", "train"), ("test", "val"), ("val", "train"))
_SAMPLES = 48


def duplicate_notes(images: Mapping[SplitName, ImageSet]) -> list[str]:
    """Say which images are in two splits, and which have an equal with another label in their split.

    Args:
        images: Split to its images.

    Returns:
        Sentences without full stop, such as `3 test images are also in train (first: test/a/x.png = train/a/y.png)`.
    """
    groups = list(_equal(images))
    labels = {split: _labels(one) for split, one in images.items()} if groups else {}
    label = "another label" if all(one.boxes is None for one in images.values()) else "other boxes"
    notes = []
    for split, other in PAIRS:
        pairs = sorted(
            (place, twin)
            for group in groups
            for twin in [min((p for p in group if p[0] == other), default=None)]
            if twin
            for place in group
            if place[0] == split
        )
        if pairs:
            unlike = sum(labels[place[0]][place[1]] != labels[twin[0]][twin[1]] for place, twin in pairs)
            text = f"{number_of(len(pairs), f'{split} image')} {'are' if len(pairs) > 1 else 'is'} also in {other}"
            more = f", {unlike} of them with {label}" if unlike else ""
            notes.append(f"{text}{more} (first: {_shown(images, *pairs[0])})")
    for split in images:
        members = [[place for place in group if place[0] == split] for group in groups]
        unlike = [some for some in members if len({labels[place[0]][place[1]] for place in some}) > 1]
        if unlike:
            count = sum(map(len, unlike))
            first = min(unlike)
            twin = next(place for place in first if labels[place[0]][place[1]] != labels[split][first[0][1]])
            notes.append(f"{count} {split} images have an equal image with {label} (first: {_shown(images, first[0], twin)})")
    return notes


def _equal(images: Mapping[SplitName, ImageSet]) -> Iterator[list[Place]]:
    """Yield each group of two or more equal images, in the order of their indices."""
    # A few bytes of each image tell nearly all apart; only images that agree in these are read whole.
    alike: dict[tuple[int, int, bytes], list[Place]] = defaultdict(list)
    for split, one in images.items():
        for index, key in enumerate(_samples(one)):
            alike[key].append((split, index))
    wanted: dict[SplitName, set[int]] = defaultdict(set)
    for places in alike.values():
        if len(places) > 1:
            for split, index in places:
                wanted[split].add(index)
    equal: dict[tuple[int, int, bytes], list[Place]] = defaultdict(list)
    for split, chosen in wanted.items():
        for index, (height, width, pixels) in enumerate(_pixels(images[split])):
            if index in chosen:
                equal[height, width, hashlib.sha256(pixels).digest()].append((split, index))
    yield from (places for places in equal.values() if len(places) > 1)


def _samples(images: ImageSet) -> Iterable[tuple[int, int, bytes]]:
    """Give height, width and a few bytes of each image."""
    if images.starts is None and images.common_shape is not None:  # in one piece: an image at a time takes half a second
        rows = images.pixels.view(len(images), -1)
        some = rows[:, :: max(1, rows.shape[1] // _SAMPLES)].contiguous()
        content, size = some.numpy().tobytes(), some.shape[1]
        return [(*images.common_shape, content[at : at + size]) for at in range(0, len(content), size)]
    return ((h, w, bytes(pixels[:: max(1, len(pixels) // _SAMPLES)])) for h, w, pixels in _pixels(images))


def _pixels(images: ImageSet) -> Iterator[tuple[int, int, memoryview]]:
    """Yield height, width and the bytes of each image."""
    starts = (images.offsets[:-1] if images.starts is None else images.starts).tolist()
    content = images.pixels.contiguous().numpy().data
    for start, (height, width) in zip(starts, images.shapes.tolist(), strict=True):
        yield height, width, content[start : start + height * width * 3]


def _labels(images: ImageSet) -> list[int] | list[tuple[int, ...]] | list[bytes]:
    """What each image is said to show, and where."""
    if images.boxes is not None:
        every = (images.boxes.of(index) for index in range(len(images)))
        return [b"".join(part.numpy().tobytes() for part in parts) for parts in every]
    labels = images.labels.tolist()
    return labels if images.labels.ndim == 1 else list(map(tuple, labels))


def _shown(images: Mapping[SplitName, ImageSet], *places: Place) -> str:
    return " = ".join(readable(images[split].names[index]) for split, index in places)
