"""What sources of images with boxes have in common once they know which file shows what."""

import os
import stat
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np

from necklace.boxes.truth import COUNTS
from necklace.data.annotated import Objects, read_boxed
from necklace.data.cache import PixelCache
from necklace.data.files import MAX_PIXELS, File, check_max_pixels, open_root, readable
from necklace.data.images import SPLIT_NAMES, ImageSet, SplitName
from necklace.data.problems import Problems
from necklace.data.reasons import counted
from necklace.data.splits import TEST_FRACTION, split_by_rule
from necklace.data.tree import OUTSIDE, Tree

Entry = tuple[File, Objects]
"""An image file and what its annotation says."""


class BoxedSource:
    """A source of images with boxes. A subclass finds `classes` and the images of each split, and calls `_use`.

    Attributes:
        root: The folder, with links resolved; no file outside it is read, unless `links` is `follow`.
        classes: Names of the classes.
    """

    classes: tuple[str, ...] = ()

    def __init__(  # noqa: PLR0913, the options of its config
        self,
        root: str | Path,
        on_corrupt: Literal["stop", "skip"] = "stop",
        memory_gib: float = 4,
        cache: str | Path | None = None,
        test_fraction: float | None = None,
        max_pixels: int = MAX_PIXELS,
        links: Literal["inside", "follow"] = "inside",
        boxes: bool = False,
    ):
        """Open the root.

        Raises:
            FileNotFoundError: It does not exist.
            ValueError: An option is wrong.
        """
        if links not in ("inside", "follow"):
            raise ValueError(f"data.links={links}: must be inside (links within data.root only) or follow")
        if test_fraction is not None and not 0 < test_fraction < 1:
            raise ValueError(f"data.test_fraction={test_fraction}: must lie between 0 and 1")
        self.root = open_root(root, on_corrupt)
        self._cache, self._max_pixels, self._boxes = PixelCache(cache, memory_gib), check_max_pixels(max_pixels), boxes
        self._test_fraction = test_fraction
        self._tree = Tree(self.root, links == "follow")
        self._problems = Problems(self.root, on_corrupt)
        self._places = Places(self._tree, self._max_pixels)
        self._said: list[str] = []
        self._changed: dict[SplitName, list[str]] = {}
        self._found: dict[SplitName, list[Entry]] = {}
        self._read: set[SplitName] = set()

    @property
    def skipped(self) -> tuple[tuple[str, str], ...]:
        """(path relative to the root, reason) of every file left out, for the splits read so far."""
        return self._problems.skipped(self._read)

    @property
    def notes(self) -> tuple[str, ...]:
        """Finished sentences without full stop."""
        return (*self._said, *(note for name in SPLIT_NAMES for note in self._changed.get(name, ())))

    def split(self, name: SplitName) -> ImageSet | None:
        """Read and decode the images of a split; None if there is no such split. Labels are int8 `[N, K]`."""
        if name not in self._found:
            return None
        images, self._changed[name] = read_boxed(name, self._found[name], len(self.classes), self._problems, self._cache)
        self._read.add(name)
        self._problems.raise_if_any(self._undecoded())
        if not len(images):
            raise self._none_left(name)
        return images if self._boxes else replace(images, boxes=None)

    def _use(self, found: dict[SplitName, list[Entry]], divided: bool) -> None:
        """Take these as the images of the splits; without splits, all are train, and test is split off by a rule.

        Raises:
            ValueError: No image of train shows an object, or a file cannot be used.
        """
        self._check_once(found)
        if not any(bool((one.flags == COUNTS).any()) for _, one in found["train"]):
            self._problems.raise_if_any()
            raise self._none_left("train", " shows an object that counts")
        if divided and self._test_fraction is not None:
            raise ValueError(f"data.test_fraction={self._test_fraction}: annotations say which images are for test already")
        if not divided:
            share = TEST_FRACTION if self._test_fraction is None else self._test_fraction
            entries = sorted(found["train"], key=lambda entry: os.path.splitext(entry[0].name)[0])
            kept, held_out = split_by_rule([_shown(one) for _, one in entries], share)
            rule = f"split off as test, as nothing says which images are (data.test_fraction={share})"
            self._said.append(f"{len(held_out)} of {len(entries)} images are {rule}")
            found = {"train": [entries[index] for index in kept]}
            if held_out:
                found["test"] = [entries[index] for index in held_out]
        self._found = found
        self._problems.raise_if_any(self._undecoded())

    def _check_once(self, found: dict[SplitName, list[Entry]]) -> None:
        """Take out images that are there twice: in one split all of them, in two splits the later."""
        seen: dict[str, SplitName] = {}
        for split, entries in found.items():
            times = Counter(file.path for file, _ in entries)
            for path, name in {file.path: file.name for file, _ in entries}.items():
                if times[path] > 1:
                    self._problems.add(split, name, f"an image that is there several times: {times[path]}")
                elif path in seen:
                    self._problems.add(split, name, f"an image that is in another split already: in {seen[path]}")
            found[split] = [entry for entry in entries if times[entry[0].path] == 1 and entry[0].path not in seen]
            seen.update((path, split) for path in times)

    def _count_unused(self, found: dict[SplitName, list[Entry]]) -> None:
        """Note the images that lie beside those that are used."""
        used = {file.path for entries in found.values() for file, _ in entries}
        used |= {str(self.root / name) for split in SPLIT_NAMES for name, _ in self._problems.of(split)}
        beside = [
            file.name
            for folder in sorted({os.path.dirname(path) for path in used})
            if self._is_below(folder)
            for files in self._tree(Path(folder)).images.values()
            for file in files
            if file.path not in used
        ]
        if beside:
            self._said.append(f"images without annotation, not used: {len(beside)} (first: {readable(min(beside))})")

    def _is_below(self, folder: str) -> bool:
        """Whether it is a folder of the root."""
        path = Path(folder)
        return path.is_dir() and path.is_relative_to(self.root) and self._tree.allows(path.resolve())

    def _undecoded(self) -> dict[SplitName, list[File]]:
        return {split: [file for file, _ in found] for split, found in self._found.items() if split not in self._read}

    def _none_left(self, split: SplitName, what: str = " can be used") -> ValueError:
        reasons = counted(reason for _, reason in self._problems.of(split))
        return ValueError(f"{readable(str(self.root))}: no image of the {split} split{what}{f': {reasons}' if reasons else ''}")


def _shown(objects: Objects) -> tuple[tuple[int, bool], ...]:
    """The classes of an image's objects, and whether one of each counts."""
    counting = set(objects.classes[objects.flags == COUNTS].tolist())
    return tuple((one, one in counting) for one in np.unique(objects.classes).tolist())


class Places:
    """Finds files that a text names, inside the root only."""

    def __init__(self, tree: Tree, max_pixels: int) -> None:
        self._tree, self._max_pixels = tree, max_pixels
        self._folders: dict[str, str] = {}

    def file(self, folder: Path, name: str) -> File:
        """The file of a name relative to a folder; its `problem` says why it must not be read, if there is a reason."""
        if "\0" in name or not name.strip():
            return File("", name, f"a file name that is none: {name[:80]!r}", self._max_pixels)
        path = os.path.normpath(os.path.join(folder, name))
        if not os.path.lexists(path) and "\\" in name:  # written on Windows
            path = os.path.normpath(os.path.join(folder, name.replace("\\", "/")))
        shown = os.path.relpath(path, self._tree.root)
        return File(path, shown, self._problem(path), self._max_pixels)

    def exists(self, folder: Path, name: str) -> bool:
        """Whether a name leads to a file that may be read."""
        return self.file(folder, name).problem is None

    def _problem(self, path: str) -> str | None:
        """Why a file must not be read, if there is a reason."""
        parent, base = os.path.split(path)
        try:
            if parent not in self._folders:  # many files, few folders
                self._folders[parent] = os.path.realpath(parent)
            resolved = os.path.join(self._folders[parent], base)
            if not self._tree.allows(Path(resolved)):
                return OUTSIDE.replace("a link", "a path")
            mode = os.lstat(resolved).st_mode
            if stat.S_ISLNK(mode):
                target = Path(resolved).resolve(strict=True)
                if not self._tree.allows(target):
                    return OUTSIDE
                mode = target.stat().st_mode
        except FileNotFoundError:
            return "the file does not exist"
        except (OSError, RuntimeError, ValueError) as error:  # a loop of links, a name that is too long
            return f"a path that cannot be followed: {getattr(error, 'strerror', None) or error}"
        return None if stat.S_ISREG(mode) else "not a regular file"
