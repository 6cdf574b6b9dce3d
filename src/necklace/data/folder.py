"""Images from the user's disk: `train/CLASS/*.jpg`, optionally with `val/` and `test/`, or `CLASS/*.jpg` alone.

Which folder is which split is found in `layout.py`, images are decoded as in `files.py`. A file that is not a readable image
stops the run, or is skipped and listed in `skipped`; only hidden files and the litter of file managers, network drives and
notebooks are passed over. No file outside the root is read, unless `links` says so: a link that leads out of it is an error.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import torch

from necklace.data.cache import PixelCache, read_split
from necklace.data.files import MAX_PIXELS, File, check_max_pixels, open_root, readable
from necklace.data.formats import EXTENSIONS, why_odd_name
from necklace.data.images import ImageSet, SplitName
from necklace.data.layout import check_class_folders, entries, is_about, layout_of, why_no_classes
from necklace.data.problems import Problems
from necklace.data.reasons import counted, number_of
from necklace.data.splits import TEST_FRACTION, split_indices

OUTSIDE = "a link that leads out of data.root (data.links=follow follows it)"


class Folder:
    """A folder of images with one subfolder for each class.

    Classes are the folders in `train/`, sorted by name. Images are in the order of their paths; folders inside a class folder
    are read as well. Without `train/`, the classes are the folders in the root; val and test are then split off by a rule that
    depends on the names and numbers of files alone.

    Attributes:
        root: The folder, with links resolved.
        classes: Names of the classes.
        notes: How val and test were split off, if they were.
    """

    def __init__(  # noqa: PLR0913, the options of its config
        self,
        root: str | Path,
        on_corrupt: Literal["stop", "skip"] = "stop",
        memory_gib: float = 4,
        cache: str | Path | None = None,
        max_pixels: int = MAX_PIXELS,
        links: Literal["inside", "follow"] = "inside",
        val_fraction: float = 0.1,
        test_fraction: float | None = None,
    ):
        """List the files and check the folders; images are decoded when a split is requested.

        Args:
            root: The folder that holds `train/`, or the class folders.
            on_corrupt: For a file that is not a readable image: `stop` with an error, or `skip` it and list it in `skipped`.
            memory_gib: Batches of a split whose pixels need more than this are made from a file, not from memory.
            cache: Folder for files of decoded images, see `cache.py`; None: each process decodes them into memory.
            max_pixels: An image of more pixels is a file that cannot be used.
            links: Which links are followed: those that stay `inside` the root, or all of them (`follow`).
            val_fraction: Without train/: share of each class that becomes val, of what test leaves.
            test_fraction: Without train/: share of each class that becomes test; None for `TEST_FRACTION`.

        Raises:
            FileNotFoundError: The folder or its train/ does not exist.
            ValueError: An option is wrong, a class folder is empty or unknown, the layout is another, or a file cannot be used.
        """
        self._cache = PixelCache(cache, memory_gib)
        self._max_pixels = check_max_pixels(max_pixels)
        if links not in ("inside", "follow"):
            raise ValueError(f"data.links={links}: must be inside (links within data.root only) or follow")
        self._follow = links == "follow"
        self.root = open_root(root, on_corrupt)
        self._problems = Problems(self.root, on_corrupt)
        self._read: set[SplitName] = set()
        self._files: dict[SplitName, list[tuple[File, int]]] = {}
        self.notes: tuple[str, ...] = ()
        layout = layout_of(self.root)
        self._places: dict[SplitName, Path] = {split: self.root / name for split, name in layout.splits.items()}
        for name in layout.loose:
            self._problems.add("train", name, f"an image outside the {'split' if layout.splits else 'class'} folders")
        if layout.splits:
            if test_fraction is not None:
                raise ValueError(
                    f"data.test_fraction={test_fraction}: only for class folders without train/, but "
                    f"{readable(str(self.root))} has {layout.splits['train']}/"
                )
            folders = {split: self._class_folders(split, name) for split, name in layout.splits.items()}
            check_class_folders(self.root / layout.splits["train"], list(folders["train"]))
            self.classes: tuple[str, ...] = tuple(folders["train"])
            for split, name in layout.splits.items():
                self._files[split] = self._list(split, f"{name}/", folders[split])
        else:
            self.classes = tuple(layout.classes)
            within = {name: self._within_root(self.root / name) for name in layout.classes}
            share = TEST_FRACTION if test_fraction is None else test_fraction
            self._split_off(self._list("train", "", within), val_fraction, share)
        self._problems.raise_if_any(self._unread())

    @property
    def skipped(self) -> tuple[tuple[str, str], ...]:
        """(path relative to the root, reason) of every image left out, for the splits read so far."""
        return self._problems.skipped(self._read)

    def split(self, name: SplitName) -> ImageSet | None:
        """Read and decode the images of a split; None if there is no such folder."""
        if name not in self._files:
            return None
        files = self._files[name]
        labels = torch.tensor([label for _, label in files], dtype=torch.int64)
        names = [file.name for file, _ in files]
        images = read_split(name, [file for file, _ in files], labels, names, self._problems, self._cache)
        self._read.add(name)
        self._problems.raise_if_any(self._unread())
        missing = set(range(len(self.classes))) - set(images.labels.tolist()) if name == "train" else set()
        if missing or not len(images):
            folder = self._places.get(name, self.root) / (self.classes[min(missing)] if missing else "")
            used = {file.name for file, label in files if not missing or label == min(missing)}
            reasons = counted(reason for path, reason in self._problems.of(name) if path in used)
            raise ValueError(f"{readable(str(folder))}: none of its files is a readable image: {reasons}")
        return images

    def _unread(self) -> dict[SplitName, list[File]]:
        """The files of the splits that are not decoded yet."""
        return {split: [file for file, _ in files] for split, files in self._files.items() if split not in self._read}

    def _class_folders(self, split: SplitName, name: str) -> dict[str, Path]:
        """Return the class folders of a split, sorted by name, with links resolved; reports files outside them."""
        folder = self._within_root(self.root / name)
        found: dict[str, Path] = {}
        outside: list[tuple[str, str]] = []
        for entry in entries(folder):
            if entry.is_dir():
                found[entry.name] = self._within_root(self.root / name / entry.name)
            elif entry.is_symlink() and not os.path.exists(entry.path):
                outside.append((f"{name}/{entry.name}", "a broken link"))
            elif not is_about(entry.name):
                outside.append((f"{name}/{entry.name}", "a file outside the class folders"))
        if not found:
            raise ValueError(f"{readable(str(self.root / name))}: {why_no_classes(folder)}")
        for path, reason in outside:
            self._problems.add(split, path, reason)
        return found

    def _list(self, split: SplitName, prefix: str, folders: dict[str, Path]) -> list[tuple[File, int]]:
        """Return the image files in the class folders of a split with their labels; reports all other files in them."""
        files: list[tuple[File, int]] = []
        for name, folder in folders.items():
            shown = readable(str(self.root / prefix / name))
            if name not in self.classes:
                alike = [readable(own) for own in self.classes if own.casefold() == name.casefold()]
                hint = f", but {alike[0]}: class names differ in upper and lower case too" if alike else ""
                raise ValueError(f"{shown}: a class that {readable(str(self._places['train']))} does not have{hint}")
            count, problems = len(files), 0
            for file in self._walk(folder, f"{prefix}{name}", (folder,)):
                if file.problem is not None:
                    self._problems.add(split, file.name, file.problem)
                    problems += 1
                else:
                    files.append((file, self.classes.index(name)))
            if len(files) == count and split == "train":
                found = f" ({number_of(problems, 'other file')})" if problems else ""
                raise ValueError(f"{shown}: a class folder without images{found}")
        if not files:
            raise ValueError(f"{readable(str(self.root / prefix))}: no images in its class folders")
        return files

    def _split_off(self, files: list[tuple[File, int]], val_fraction: float, test_fraction: float) -> None:
        """Split the files of a root without splits into test, val and train, class by class."""
        for option, fraction in (("val_fraction", val_fraction), ("test_fraction", test_fraction)):
            if not 0 < fraction < 1:
                raise ValueError(f"data.{option}={fraction}: must lie between 0 and 1")
        labels = torch.tensor([label for _, label in files], dtype=torch.int64)
        rest, test = split_indices(labels, test_fraction, "test")
        kept, val = split_indices(labels[rest], val_fraction)
        parts: dict[SplitName, torch.Tensor] = {"train": rest[kept], "val": rest[val], "test": test}
        for split, indices in parts.items():
            if not len(indices):
                raise ValueError(f"{readable(str(self.root))}: its {len(files)} images are too few to split off val and test")
            self._files[split] = [files[index] for index in indices.tolist()]
        self.notes = (
            f"without train/, of each class a share was split off by rule: test {len(test)} images "
            f"(data.test_fraction={test_fraction}), then val {len(val)} (data.val_fraction={val_fraction})",
        )

    def _walk(self, folder: Path, prefix: str, chain: tuple[Path, ...]) -> Iterator[File]:
        """Yield all files below a folder; `chain` are the folders above it, to detect a link back to one of them."""
        for entry in entries(folder):
            name = f"{prefix}/{entry.name}"
            path = entry.path
            if entry.is_symlink():
                try:
                    target = Path(path).resolve(strict=True)
                except (OSError, RuntimeError):  # Python 3.11 raises RuntimeError for a loop
                    yield File(path, name, "a broken link")
                    continue
                if not self._follow and not target.is_relative_to(self.root):
                    yield File(path, name, OUTSIDE)
                    continue
                if target in chain:
                    yield File(path, name, "a link to a folder that contains it")
                    continue
                path = str(target)
            if entry.is_dir():
                yield from self._walk(Path(path), name, (*chain, Path(path)))
            elif not entry.is_file():
                yield File(path, name, "not a regular file")
            elif "".join(entry.name.rpartition(".")[1:]).lower() not in EXTENSIONS:
                yield File(path, name, why_odd_name(path))
            else:
                yield File(path, name, max_pixels=self._max_pixels)

    def _within_root(self, folder: Path) -> Path:
        """Resolve the links of a folder.

        Raises:
            ValueError: It leads out of the root, and links are not followed.
        """
        resolved = folder.resolve()
        if not self._follow and not resolved.is_relative_to(self.root):
            raise ValueError(f"{readable(str(folder))}: {OUTSIDE}")
        return resolved
