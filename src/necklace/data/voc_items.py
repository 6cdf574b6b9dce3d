"""An image of a VOC data set with what is in its annotation."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from necklace.data.annotated import Objects
from necklace.data.cache import PixelCache, read_split
from necklace.data.files import File, readable
from necklace.data.images import ImageSet, SplitName
from necklace.data.problems import Problems
from necklace.data.voc_layout import Shelf
from necklace.data.voc_xml import Annotation, parse

MAX_XML_BYTES = 1 << 24  # the annotation of a crowded image has about 100 kB


@dataclass(frozen=True)
class Item:
    """An image, the name of its annotation relative to the root, VOC's labels, and the objects that they come from."""

    image: File
    annotation: str
    labels: dict[str, int]
    said: Annotation

    def objects(self, classes: Sequence[str]) -> Objects:
        """The objects with their boxes, their classes as places in `classes`."""
        return Objects(
            np.array([one.corners for one in self.said.objects], dtype=np.float64).reshape(-1, 4),
            np.array([classes.index(one.name) for one in self.said.objects], dtype=np.int64),
            np.array([one.flag for one in self.said.objects], dtype=np.uint8),
            self.said.stated,
        )


class Items:
    """Reads items, adds those that cannot be used to the problems, and counts what a reader should know."""

    def __init__(self, root: Path, problems: Problems, background: bool, max_pixels: int, boxes: bool = False) -> None:
        """Start with nothing counted.

        Args:
            root: The folder to which names are relative.
            problems: Gets what cannot be used.
            background: Whether an image without annotation shows nothing, rather than being a problem.
            max_pixels: As in `files.decode`.
            boxes: Whether boxes are read.
        """
        self._root, self._problems, self._background = root, problems, background
        self._max_pixels, self._boxes = max_pixels, boxes
        self._counts: dict[str, tuple[int, str]] = {}

    @property
    def notes(self) -> list[str]:
        """What was counted, as sentences without full stop."""
        return [f"{what}: {number} (first: {readable(first)})" for what, (number, first) in self._counts.items()]

    def item(self, split: SplitName, shelf: Shelf, name: str, suffix: str = "", listed: bool = False) -> Item | None:
        """Return the image of a name with its labels; None if it is left out because of a problem."""
        images, annotations = shelf.images.get(name, []), shelf.annotations.get(name, [])
        if suffix:
            images = [file for file in images if file.name.lower().endswith(suffix.lower())] or images
        there = "is listed" if listed else "exists"
        lost: tuple[str, str] | None = None
        if not annotations and not (images and self._background):
            reason = f"the image {there}, but this file does not{' exist' * listed} (data.background=allow: it shows nothing)"
            lost = os.path.relpath(shelf.annotation_folder / f"{name}.xml", self._root), reason
        elif not images:
            reason = "the annotation is listed, but this file does not exist"
            if name in shelf.strays:
                reason = f"the annotation is listed, but only {shelf.strays[name]} exists, not an image by its extension"
            lost = os.path.relpath(shelf.folder / f"{name}.jpg", self._root), reason
        for files in (annotations, images):
            if lost is None and len(files) > 1:
                others = ", ".join(os.path.basename(file.name) for file in files)
                lost = files[0].name, f"one of several {'images' if files is images else 'annotations'} of that name: {others}"
            if lost is None and files and files[0].problem:
                lost = files[0].name, files[0].problem
        if lost is not None:
            self._problems.add(split, *lost)
            return None
        image = replace(images[0], max_pixels=self._max_pixels)
        if not annotations:
            self.count(f"{split} images without annotation, taken as showing nothing", images[0].name)
            return Item(image, image.name, {}, Annotation(()))
        said = self._said(split, annotations[0])
        return None if said is None else Item(image, annotations[0].name, said.labels, said)

    def _said(self, split: SplitName, file: File) -> Annotation | None:
        """Return what an annotation says; None if it cannot be used."""
        try:
            with open(file.path, "rb") as content:
                data = content.read(MAX_XML_BYTES + 1)
            if len(data) > MAX_XML_BYTES:
                raise ValueError(f"larger than {MAX_XML_BYTES >> 20} MiB")
            annotation = parse(data, self._boxes)
        except (ValueError, OSError) as error:
            reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
            self._problems.add(split, file.name, reason)
            return None
        for word in annotation.unclear:
            self.count("objects whose <difficult> is no yes and no no, taken as not difficult", f"{word!r} in {file.name}")
        if annotation.guessed:
            self.count("annotations of unknown encoding, read as Windows-1252", file.name)
        return annotation

    def count(self, what: str, example: str, count: int = 1) -> None:
        """Count something that the notes say."""
        number, first = self._counts.get(what, (0, example))
        self._counts[what] = number + count, first


def read_labelled(
    split: SplitName, items: Sequence[Item], classes: Sequence[str], folder: Path, problems: Problems, cache: PixelCache
) -> ImageSet:
    """Read the images of a split with labels, int8 `[N, K]`, and without boxes; their names are relative to `folder`."""
    labels = [[item.labels.get(label, 0) for label in classes] for item in items]
    return read_split(
        split,
        [item.image for item in items],
        torch.tensor(labels, dtype=torch.int8).view(len(items), len(classes)),
        [os.path.relpath(item.image.name, folder.relative_to(problems.root)) for item in items],
        problems,
        cache,
    )
