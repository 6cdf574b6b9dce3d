"""The files of a source that cannot be used: all of them stop a run at once, or each is skipped and listed."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal

from necklace.data.files import File, decode_files, readable
from necklace.data.images import SPLIT_NAMES, SplitName
from necklace.data.reasons import counted

SHOWN = 10


class Problems:
    """Collects the problems of a source, so that a run that stops says how many there are and which.

    A source adds what it finds while it lists its files and while it decodes them, and calls `raise_if_any` after each of
    the two. With `on_corrupt=skip` nothing is raised and the source shows `skipped`.
    """

    def __init__(self, root: Path, on_corrupt: Literal["stop", "skip"]) -> None:
        """Start without problems.

        Args:
            root: The folder to which the names of the files are relative.
            on_corrupt: Whether `raise_if_any` raises.
        """
        self.root, self.on_corrupt = root, on_corrupt
        self._found: dict[SplitName, dict[tuple[str, str], None]] = {name: {} for name in SPLIT_NAMES}

    def add(self, split: SplitName, name: str, reason: str) -> None:
        """Note that a file cannot be used; the same problem twice counts once.

        Args:
            split: The split that loses the file.
            name: Path of the file relative to the root.
            reason: Why it cannot be used. Its kind is what it is counted by, see `reasons.py`.
        """
        self._found[split][name, reason] = None

    def of(self, split: SplitName) -> tuple[tuple[str, str], ...]:
        """(path relative to the root, reason) of each problem of a split, sorted by path."""
        return tuple(sorted(self._found[split]))

    def skipped(self, splits: Iterable[SplitName]) -> tuple[tuple[str, str], ...]:
        """The problems of some splits, split by split."""
        return tuple(problem for split in SPLIT_NAMES if split in set(splits) for problem in self.of(split))

    def raise_if_any(self, unread: Mapping[SplitName, Sequence[File]] | None = None) -> None:
        """Stop the run if there are problems and `on_corrupt` is `stop`.

        Args:
            unread: Files that are not decoded yet. They are decoded before it stops, so that the count is complete.

        Raises:
            ValueError: With the number of problems, their kinds and the first ten.
        """
        if self.on_corrupt != "stop" or not any(self._found.values()):
            return
        for split, files in (unread or {}).items():
            for file, result in zip(files, decode_files(list(files)), strict=True):
                if isinstance(result, str):
                    self.add(split, file.name, result)
        found = self.skipped(SPLIT_NAMES)
        if len(found) == 1:
            ((name, reason),) = found
            path = readable(str(self.root / name))
            raise ValueError(f"{path}: {readable(reason)} (data.on_corrupt=skip leaves such files out)")
        lines = [f"{readable(name)}: {readable(reason)}" for name, reason in found[:SHOWN]]
        if len(found) > SHOWN:
            lines.append(f"and {len(found) - SHOWN} more")
        raise ValueError(
            f"{readable(str(self.root))}: {len(found)} files cannot be used: {counted(reason for _, reason in found)} "
            "(data.on_corrupt=skip leaves such files out)\n  " + "\n  ".join(lines)
        )
