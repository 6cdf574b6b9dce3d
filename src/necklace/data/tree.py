"""Folders below a root, each read once: what they hold, by the names of the files. Nothing outside the root is read."""

import os
from functools import cached_property
from pathlib import Path

from necklace.data.files import File, readable
from necklace.data.formats import EXTENSIONS
from necklace.data.names import is_litter

TEXT = frozenset((".txt", ".json", ".csv", ".md", ".yaml", ".yml", ".html", ".xml", ".cache", ".log", ".py", ".zip", ".gz"))


OUTSIDE = "a link that leads out of data.root (data.links=follow follows it)"


class Tree:
    """Folders below a root, each read once."""

    def __init__(self, root: Path, follow: bool = False) -> None:
        """Start with nothing read.

        Args:
            root: The root, with links resolved.
            follow: Whether links that lead out of the root are followed.
        """
        self.root, self.follow = root, follow
        self._read: dict[Path, FolderContent] = {}

    def __call__(self, path: Path) -> "FolderContent":
        """The content of a folder.

        Raises:
            ValueError: It leads out of the root.
        """
        if path not in self._read:
            self.resolved(path)
            self._read[path] = FolderContent(self, path)
        return self._read[path]

    def allows(self, resolved: Path) -> bool:
        """Whether a path without links may be read."""
        return self.follow or resolved.is_relative_to(self.root)

    def resolved(self, path: Path) -> Path:
        """Resolve the links of a path.

        Raises:
            ValueError: It leads out of the root.
        """
        try:
            found = path.resolve()
        except RuntimeError:  # as in _problem()
            raise ValueError(f"{readable(str(path))}: a broken link") from None
        if not self.allows(found):
            raise ValueError(f"{readable(str(path))}: {OUTSIDE}")
        return found


class FolderContent:
    """What is in a folder, without litter; images and annotations by their name without extension."""

    def __init__(self, tree: Tree, path: Path) -> None:
        self.path, self._tree = path, tree
        with os.scandir(path) as entries:
            kept = sorted((entry for entry in entries if not is_litter(entry.name)), key=lambda entry: entry.name)
        # A folder with the name of an image stands among the files, so that it is reported.
        self.folders = [entry.name for entry in kept if _is_folder(entry) and _kind(entry.name) not in ("image", "annotation")]
        folders = frozenset(self.folders)
        self._files = [entry for entry in kept if entry.name not in folders]

    @cached_property
    def images(self) -> dict[str, list[File]]:
        """Name to the images of that name."""
        return self._by_name("image")

    @cached_property
    def annotations(self) -> dict[str, list[File]]:
        """Name to the XML files of that name."""
        return self._by_name("annotation")

    @cached_property
    def strays(self) -> dict[str, str]:
        """Name to a file of that name that is neither, nor text."""
        return {os.path.splitext(entry.name)[0]: entry.name for entry in self._files if _kind(entry.name) == "stray"}

    @property
    def files(self) -> list[str]:
        """Names of all files."""
        return [entry.name for entry in self._files]

    def _by_name(self, kind: str) -> dict[str, list[File]]:
        found: dict[str, list[File]] = {}
        prefix = os.path.relpath(self.path, self._tree.root)
        prefix = "" if prefix == "." else f"{prefix}/"
        for entry in self._files:
            if _kind(entry.name) == kind:
                file = File(entry.path, prefix + entry.name, _problem(self._tree, entry))
                found.setdefault(os.path.splitext(entry.name)[0], []).append(file)
        return found


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a loop of links
        return False


def _kind(name: str) -> str:
    suffix = os.path.splitext(name)[1].lower()
    if suffix in EXTENSIONS:
        return "image"
    return "annotation" if suffix == ".xml" else "text" if suffix in TEXT or not suffix else "stray"


def _problem(tree: Tree, entry: "os.DirEntry[str]") -> str | None:
    """Why a file must not be read, if there is a reason."""
    if entry.is_symlink():
        try:
            target = Path(entry.path).resolve(strict=True)
        except (OSError, RuntimeError):  # Python 3.11 raises RuntimeError for a loop of links
            return "a broken link"
        if not tree.allows(target):
            return OUTSIDE
    return None if entry.is_file() else "not a regular file"
