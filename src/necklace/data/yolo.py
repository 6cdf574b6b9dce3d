"""YOLO's layout: `data.yaml`, images in `images/`, and a text file of labels for each image in `labels/`.

`data.yaml` names the classes and, for each split, a folder of images, a list of image files, or several of them. Its paths are
relative to its `path`, or to the root where that is not here: exports carry paths of the machine that made them, such as
`/content/data` or `../train/images`. None leads out of the root, unless `links` says otherwise. The label file of an image has
its path with the last `images` replaced by `labels`, or lies beside it.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np

from necklace.data.annotated import Objects
from necklace.data.boxed_source import BoxedSource, Entry
from necklace.data.files import MAX_PIXELS, File, readable
from necklace.data.images import SPLIT_NAMES, SplitName
from necklace.data.names import split_of
from necklace.data.tree import OUTSIDE
from necklace.data.voc_lists import lines_of
from necklace.data.yolo_txt import read_labels
from necklace.data.yolo_yaml import YoloYaml, read_yaml


class Yolo(BoxedSource):
    """Images with boxes, from YOLO's text files. See the module's docstring."""

    def __init__(  # noqa: PLR0913, the options of its config
        self,
        root: str | Path,
        on_corrupt: Literal["stop", "skip"] = "stop",
        memory_gib: float = 4,
        cache: str | Path | None = None,
        background: Literal["stop", "allow"] = "stop",
        max_pixels: int = MAX_PIXELS,
        links: Literal["inside", "follow"] = "inside",
        boxes: bool = False,
    ):
        """Read `data.yaml` and the labels; images are decoded when a split is requested.

        Args:
            root: The folder that holds `data.yaml`.
            on_corrupt: For files that cannot be used: `stop` with an error, or `skip` them and list them in `skipped`.
            memory_gib: Batches of a split whose pixels need more than this are made from a file, not from memory.
            cache: Folder for files of decoded images, see `cache.py`; None: each process decodes them into memory.
            background: For an image without label file: `stop` as at a file that cannot be used, or `allow` it to show nothing.
            max_pixels: An image of more pixels is a file that cannot be used.
            links: Which links are followed: those that stay `inside` the root, or all of them (`follow`).
            boxes: Whether the images come with boxes, or with labels alone.

        Raises:
            FileNotFoundError: The root, its `data.yaml`, or a folder or list that it names does not exist.
            ValueError: An option is wrong, `data.yaml` is none, or a file cannot be used.
        """
        super().__init__(root, on_corrupt, memory_gib, cache, None, max_pixels, links, boxes)
        if background not in ("stop", "allow"):
            raise ValueError(f"data.background={background}: must be stop or allow")
        self._background, self._bare = background == "allow", dict[SplitName, list[str]]()
        self._yaml = self._yaml_file()
        try:
            said = read_yaml(self._yaml)
        except ValueError as error:
            raise ValueError(f"{readable(str(self._yaml))}: {readable(str(error))}") from None
        self.classes = said.names
        base = self._base(said)
        found: dict[SplitName, list[Entry]] = {}
        seen: dict[Path, str] = {}
        for key, places in said.splits.items():
            split = split_of(key)
            assert split in SPLIT_NAMES
            paths = [self._place(base, place, key) for place in places]
            for path in paths:
                if path in seen:
                    raise ValueError(
                        f"{readable(str(self._yaml))}: {seen[path]} and {key} are the same images, {readable(str(path))}"
                    )
                seen[path] = key
            files = [file for path in paths for file in self._images(path, base)]
            if not files:
                raise ValueError(f"{readable(str(self._yaml))}: no image in {key}: {readable(', '.join(places))}")
            found[split] = [entry for file in files for entry in self._entries(split, file)]
        for split, names in self._bare.items():
            self._said.append(
                f"{split} images without label file, taken as showing nothing: {len(names)} (first: {readable(names[0])})"
            )
        self._count_unused(found)
        self._count_labels(found)
        self._use({split: found[split] for split in SPLIT_NAMES if split in found}, divided=True)

    def _yaml_file(self) -> Path:
        """The file that names classes and splits.

        Raises:
            FileNotFoundError: There is none.
            ValueError: There are several.
        """
        names = [name for name in self._tree(self.root).files if name.lower().endswith((".yaml", ".yml"))]
        chosen = [name for name in names if name.lower() in ("data.yaml", "data.yml")] or names
        if not chosen:
            raise FileNotFoundError(
                f"{readable(str(self.root / 'data.yaml'))}: no such file; it names the classes and the folders of the splits, "
                "such as names: [cat, dog], train: images/train, val: images/val"
            )
        if len(chosen) > 1:
            raise ValueError(f"{readable(str(self.root))}: {readable(', '.join(chosen[:5]))}: call the right one data.yaml")
        return self._tree.resolved(self.root / chosen[0])

    def _base(self, said: YoloYaml) -> Path:
        """The folder to which the paths in `data.yaml` are relative."""
        if said.path is None:
            return self.root
        path = self.root / said.path
        if path.is_dir() and self._tree.allows(path.resolve()):
            return path
        self._said.append(
            f"path in {readable(self._yaml.name)} is no folder in data.root, which stands for it: {readable(said.path)}"
        )
        return self.root

    def _place(self, base: Path, place: str, key: str) -> Path:
        """The folder or list of a split.

        Raises:
            FileNotFoundError: It does not exist.
            ValueError: It is outside the root.
        """
        text = place.replace("\\", "/") if "\\" in place else place
        inner = text
        while inner.startswith(("../", "./", "/")):  # as exports have it, for a folder beside data.yaml
            inner = inner.partition("/")[2]
        outside = None
        for path in (base / text, self.root / text, base / inner, self.root / inner):
            if "\0" in text or not path.exists():
                continue
            if self._tree.allows(path.resolve()):
                return path.resolve()
            outside = outside or path
        shown = readable(str(self._yaml))
        if outside is not None:
            raise ValueError(f"{shown}: {key}: {readable(place)}: {OUTSIDE.replace('a link', 'a path')}")
        raise FileNotFoundError(f"{shown}: {key}: {readable(place)}: no such folder or list in {readable(str(base))}")

    def _images(self, path: Path, base: Path) -> list[File]:
        """The images of a folder or list, with the problems that they have."""
        if path.is_dir():
            return list(self._below(path))
        if path.suffix.lower() != ".txt":
            return [self._places.file(path.parent, path.name)]
        files = []
        for line in filter(None, lines_of(path)):
            tried = [self._places.file(folder, line) for folder in dict.fromkeys((path.parent, base, self.root))]
            files.append(next((file for file in tried if file.problem is None), tried[0]))
        return files

    def _below(self, folder: Path) -> Iterator[File]:
        content = self._tree(folder)
        for files in content.images.values():
            for file in files:
                yield File(file.path, file.name, file.problem, self._max_pixels)
        for name in content.strays.values():
            yield File(str(folder / name), os.path.relpath(folder / name, self.root), "not an image by its extension")
        for name in content.folders:
            yield from self._below(folder / name)

    def _entries(self, split: SplitName, file: File) -> list[Entry]:
        """The image with its labels; nothing if one of the two cannot be used."""
        if file.problem is not None:
            self._problems.add(split, file.name, file.problem)
            return []
        label = self._label(file)
        if label is None:
            if self._background:
                self._bare.setdefault(split, []).append(file.name)
                return [(file, Objects(np.empty((0, 4)), np.empty(0, np.int64), np.empty(0, np.uint8)))]
            reason = "the image exists, but this file does not (data.background=allow: it shows nothing)"
            self._problems.add(split, os.path.relpath(_label_paths(file.path)[0], self.root), reason)
            return []
        try:
            if label.problem is not None:
                raise ValueError(label.problem)
            return [(file, read_labels(label.path, len(self.classes)))]
        except (ValueError, OSError) as error:
            reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
            self._problems.add(split, label.name, reason)
            return []

    def _label(self, file: File) -> File | None:
        """The label file of an image; None if there is none."""
        for path in _label_paths(file.path):
            if os.path.lexists(path):
                return self._places.file(Path(path).parent, os.path.basename(path))
        return None

    def _count_labels(self, found: dict[SplitName, list[Entry]]) -> None:
        """Note the label files that belong to no image."""
        images = {file.path for entries in found.values() for file, _ in entries}
        used = {path for image in images for path in _label_paths(image)}
        used |= {str(self.root / name) for split in SPLIT_NAMES for name, _ in self._problems.of(split)}
        folders = sorted({os.path.dirname(_label_paths(image)[0]) for image in images})
        alone = [
            os.path.relpath(os.path.join(folder, name), self.root)
            for folder in folders
            if self._is_below(folder)
            for name in self._tree(Path(folder)).files
            if name.lower().endswith(".txt") and name.lower() != "classes.txt" and os.path.join(folder, name) not in used
        ]
        if alone:
            self._said.append(f"label files without image, not used: {len(alone)} (first: {readable(min(alone))})")


def _label_paths(image: str) -> list[str]:
    """Where the label file of an image may be."""
    beside = f"{os.path.splitext(image)[0]}.txt"
    parts = beside.split(os.sep)
    places = [index for index, part in enumerate(parts[:-1]) if part == "images"]
    if not places:
        return [beside]
    return [os.sep.join([*parts[: places[-1]], "labels", *parts[places[-1] + 1 :]]), beside]
