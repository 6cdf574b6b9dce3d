"""Image lists of the VOC layout: `ImageSets/Main/train.txt` with the name of an image on each line.

A line is read for the name only, whatever else tools write there: the extension, folders of this layout before it (with either
slash), quotes, a flag or a path to the annotation in further columns, a comment, any line end, a byte order mark. What the name
of a file would be is decided by the files that exist.
"""

import codecs
import re
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

from necklace.data.formats import EXTENSIONS
from necklace.data.names import SplitWord, is_litter, looks_like_a_split, split_of


class Names:
    """The names that images and annotations have, to find those that a list means."""

    def __init__(self, names: Iterable[str], folders: Iterable[str]) -> None:
        """Index the names.

        Args:
            names: Names of images and annotations, without extension.
            folders: Names of the folders that may stand before a name.
        """
        self._names = frozenset(names)
        self._folders = frozenset(name.casefold() for name in folders)
        alike: dict[str, set[str]] = {}
        for name in self._names:
            alike.setdefault(_folded(name), set()).add(name)
        self._folded = {key: found.pop() for key, found in alike.items() if len(found) == 1}

    def of_line(self, line: str) -> tuple[str, str] | None:
        """Return the name that a line means, and its extension if it states one; None for a comment.

        Raises:
            ValueError: It means no name here.
        """
        if line in self._names:
            return line, ""
        first = ""
        for reading in _readings(line):
            path = PurePosixPath(reading.strip("\"'").replace("\\", "/"))
            if path.parent != PurePosixPath() and path.parent.name.casefold() not in self._folders:
                first = first or reading
                continue
            name, suffix = path.name, path.suffix.lower()
            known = self._known(name)
            if known is None and (suffix in EXTENSIONS or suffix == ".xml"):
                known = self._known(path.stem)
                if known is not None:
                    return known, "" if suffix == ".xml" else path.suffix
            if known is not None:
                return known, ""
        if line.startswith(("#", "//", ";")):
            return None
        if not line.isascii() and _in_windows_1252(line) != line:
            return self.of_line(_in_windows_1252(line))
        if first or line in (".", "..") or "\0" in line:
            raise ValueError(f"{(first or line)[:80]!r}: must be the name of a file without folders")
        raise ValueError(f"{line[:80]!r}: neither an image nor an annotation of that name exists")

    def _known(self, name: str) -> str | None:
        return name if name in self._names else self._folded.get(_folded(name))


def _folded(name: str) -> str:
    """A name as systems compare it that do not tell cases apart, or that store accents as characters of their own."""
    return unicodedata.normalize("NFC", name).casefold()


def _in_windows_1252(line: str) -> str:
    """A line whose bytes are not UTF-8, read as the encoding that old tools write."""
    try:
        line.encode("utf-8")
    except UnicodeEncodeError:  # bytes that were not decoded
        return line.encode("utf-8", "surrogateescape").decode("cp1252", "replace")
    return line


def _readings(line: str) -> Iterator[str]:
    """Yield a line, then without its last column, and so on: a name may have blanks and commas in it."""
    while line:
        yield line
        shorter = re.sub(r"[\s,;|]+[^\s,;|]*$", "", line)
        line = shorter if shorter != line else ""


def lines_of(path: Path) -> list[str]:
    """The lines of a list, stripped of blanks; a blank line is empty."""
    data = path.read_bytes()
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):  # PowerShell writes such lists
        data = data.decode("utf-16", "replace").encode("utf-8", "surrogatepass")
    # bytes.splitlines() splits at line ends only; str.splitlines() also splits at rare characters that a name may have.
    return [line.decode("utf-8", "surrogateescape").strip("\ufeff \t") for line in data.splitlines()]


def find_lists(folder: Path, all_files: bool) -> tuple[dict[SplitWord, str], list[str]]:
    """Return the lists of a folder by the split that they are for, and the names of the others.

    Args:
        folder: The folder.
        all_files: Whether it is a folder of lists, so that each file in it is one.

    Raises:
        ValueError: Two lists are for one split, or it is unclear what a list is for.
    """
    lists: dict[SplitWord, str] = {}
    others: list[str] = []
    for path in sorted(folder.iterdir()):
        if is_litter(path.name) or (path.is_dir() and not path.is_symlink()):
            continue
        word = split_of(path.stem) if path.suffix.lower() == ".txt" else None
        if word is None:
            if all_files:
                others.append(path.name)
        elif word == "unclear":
            raise ValueError(f"{path}: may list images to validate or to test on: rename it to val.txt or test.txt")
        elif word in lists:
            raise ValueError(f"{path.parent}: {lists[word]} and {path.name} are both lists of {word} images: keep one of them")
        else:
            lists[word] = path.name
    return lists, others


def check_others(folder: Path, others: Iterable[str], classes: Iterable[str]) -> list[str]:
    """Say which files of a folder of lists are not read.

    VOC's lists for one class each, such as `cat_train.txt`, are passed over: they hold what the annotations hold.

    Args:
        folder: The folder.
        others: Names of the files in it that are for no split.
        classes: Names of the classes.

    Raises:
        ValueError: One looks like a list of a split.
    """
    known = {name.casefold() for name in classes}
    unread = []
    for name in others:
        stem = Path(name).stem
        subject, _, split = stem.rpartition("_")
        if split_of(split) and (subject.casefold() in known or _is_flagged(folder / name)):
            continue
        if looks_like_a_split(name):
            raise ValueError(
                f"{folder / name}: looks like the list of a split, but is none of train.txt, val.txt, test.txt and "
                "trainval.txt: rename it or move it away"
            )
        unread.append(name)
    return unread


def _is_flagged(path: Path) -> bool:
    """Whether a list says of each image whether it shows a class (1), does not (-1) or not clearly (0)."""
    if path.is_symlink() or not path.is_file():
        return False
    flags = {line.split()[-1] if len(line.split()) == 2 else "" for line in lines_of(path) if line}
    return "-1" in flags and flags <= {"-1", "0", "1"}
