"""Images from the user's disk: `train/CLASS/*.jpg` and optionally `val/CLASS/*.jpg` and `test/CLASS/*.jpg`.

Images are decoded as in `files.py`. A file that is not a readable image stops the run, or is skipped and listed in `skipped`;
only hidden files and the files of file managers (such as Thumbs.db) are ignored. No file outside the root is read: a link that
leads out of it is an error.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import torch

from necklace.data.cache import PixelCache, read_split
from necklace.data.files import EXTENSIONS, File, open_root, readable, report
from necklace.data.images import SPLIT_NAMES, ImageSet, SplitName

JUNK = frozenset(("thumbs.db", "desktop.ini", "__macosx"))


class Folder:
    """A folder of images with one subfolder for each class.

    Classes are the folders in `train/`, sorted by name. Images are in the order of their paths; folders inside a class folder
    are read as well. Folders other than `train`, `val` and `test` are ignored.

    Attributes:
        root: The folder, with links resolved.
        classes: Names of the classes.
    """

    def __init__(
        self,
        root: str | Path,
        on_corrupt: Literal["stop", "skip"] = "stop",
        memory_gib: float = 4,
        cache: str | Path = "outputs/cache",
    ):
        """List the files and check the folders; images are decoded when a split is requested.

        Args:
            root: The folder that holds `train/`.
            on_corrupt: For a file that is not a readable image: `stop` with an error, or `skip` it and list it in `skipped`.
            memory_gib: A split whose pixels need more than this is kept in a file, not in memory.
            cache: Folder for these files.

        Raises:
            FileNotFoundError: The folder or its train/ does not exist.
            ValueError: An option is wrong, a class folder is empty or unknown, or a file cannot be used.
        """
        self._cache = PixelCache(cache, memory_gib)
        self.root = open_root(root, on_corrupt)
        self.on_corrupt: Literal["stop", "skip"] = on_corrupt
        if not (self.root / "train").is_dir():
            raise FileNotFoundError(
                f"data.root={readable(str(root))} has no folder train/ (images are expected in train/CLASS/)"
            )
        self._listing_problems: dict[str, list[tuple[str, str]]] = {}
        self._decoding_problems: dict[str, list[tuple[str, str]]] = {}
        train = self._class_folders("train")
        self.classes: tuple[str, ...] = tuple(train)
        self._files: dict[str, list[tuple[File, int]]] = {}
        for split in SPLIT_NAMES:
            if split == "train" or (self.root / split).exists():
                self._files[split] = self._list(split, train if split == "train" else self._class_folders(split))

    @property
    def skipped(self) -> tuple[tuple[str, str], ...]:
        """(path relative to the root, reason) of every image left out, for the splits read so far."""
        read = [split for split in SPLIT_NAMES if split in self._decoding_problems]
        return tuple(
            problem for split in read for problem in sorted(self._listing_problems[split] + self._decoding_problems[split])
        )

    def split(self, name: SplitName) -> ImageSet | None:
        """Read and decode the images of a split; None if there is no such folder."""
        if name not in self._files:
            return None
        files = self._files[name]
        labels = torch.tensor([label for _, label in files], dtype=torch.int64)
        images, self._decoding_problems[name] = read_split(
            self.root, [file for file, _ in files], labels, [file.name for file, _ in files], self.on_corrupt, self._cache
        )
        missing = set(range(len(self.classes))) - set(images.labels.tolist()) if name == "train" else set()
        if missing or not len(images):
            folder = self.root / name / (self.classes[min(missing)] if missing else "")
            raise ValueError(f"{readable(str(folder))}: none of its files is a readable image")
        return images

    def _report(self, file: File, reason: str, problems: list[tuple[str, str]]) -> None:
        report(self.root, file.name, reason, problems, self.on_corrupt)

    def _class_folders(self, split: str) -> dict[str, Path]:
        """Return the class folders of a split, sorted by name, with links resolved; reports files outside them."""
        problems = self._listing_problems[split] = []
        folder = self._within_root(self.root / split)
        found: dict[str, Path] = {}
        for entry in _entries(folder):
            path = self.root / split / entry.name
            if entry.is_dir():
                found[entry.name] = self._within_root(path)
            else:
                self._report(File(str(path), f"{split}/{entry.name}"), "a file outside the class folders", problems)
        if not found:
            raise ValueError(f"{readable(str(self.root / split))}: no class folders in it")
        return found

    def _list(self, split: str, folders: dict[str, Path]) -> list[tuple[File, int]]:
        files: list[tuple[File, int]] = []
        for name, folder in folders.items():
            shown = readable(str(self.root / split / name))
            if name not in self.classes:
                raise ValueError(f"{shown}: a class that {readable(str(self.root / 'train'))} does not have")
            count = len(files)
            for file in self._walk(folder, f"{split}/{name}", (folder,)):
                if file.problem is not None:
                    self._report(file, file.problem, self._listing_problems[split])
                else:
                    files.append((file, self.classes.index(name)))
            if len(files) == count:
                raise ValueError(f"{shown}: a class folder without images")
        return files

    def _walk(self, folder: Path, prefix: str, chain: tuple[Path, ...]) -> Iterator[File]:
        """Yield all files below a folder; `chain` are the folders above it, to detect a link back to one of them."""
        for entry in _entries(folder):
            name = f"{prefix}/{entry.name}"
            path = os.path.join(folder, entry.name)
            if entry.is_symlink():
                try:
                    target = Path(path).resolve(strict=True)
                except (OSError, RuntimeError):  # Python 3.11 raises RuntimeError for a loop
                    yield File(path, name, "a broken link")
                    continue
                if not target.is_relative_to(self.root):
                    yield File(path, name, "a link that leads out of data.root")
                    continue
                if target in chain:
                    yield File(path, name, "a link to a folder that contains it")
                    continue
                path = str(target)
            if entry.is_dir():
                yield from self._walk(Path(path), name, (*chain, Path(path)))
            elif not entry.is_file():
                yield File(path, name, "not a regular file")
            elif os.path.splitext(entry.name)[1].lower() not in EXTENSIONS:
                yield File(path, name, "not an image by its extension")
            else:
                yield File(path, name)

    def _within_root(self, folder: Path) -> Path:
        """Resolve the links of a folder.

        Raises:
            ValueError: It leads out of the root.
        """
        resolved = folder.resolve()
        if not resolved.is_relative_to(self.root):
            raise ValueError(f"{readable(str(folder))}: a link that leads out of data.root")
        return resolved


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    """Return the entries of a folder, sorted by name, without hidden files and the files of file managers."""
    with os.scandir(folder) as entries:
        kept = [entry for entry in entries if not entry.name.startswith(".") and entry.name.lower() not in JUNK]
    return sorted(kept, key=lambda entry: entry.name)
