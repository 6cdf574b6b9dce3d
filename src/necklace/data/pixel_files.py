"""Files of pixels for all processes of a machine: written whole by one of them, then mapped.

A file is written under a lock and gets its name when it is complete: if several processes need it, one writes it and the others
wait. Where all files of a folder together are larger than `LIMIT_GIB`, those that were not used for longest are removed.

Format: the pixels, as in `ImageSet`; then a JSON, what stands beside them; then its length in 8 bytes. A file whose size does
not match its content is written again.
"""

import json
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Generic, TypeVar

import torch

from necklace.atomic import HOST
from necklace.data.files import readable
from necklace.locks import Lock, locked

LIMIT_GIB = 50  # of all files together; a new one stays, however large it is
T = TypeVar("T")


@dataclass(frozen=True)
class Kind(Generic[T]):
    """A kind of files: what stands in them beside the pixels, and how they come to be.

    Attributes:
        words: How their images are made, as `decoded` and `decodes`.
        parse: From the JSON to what it means, and the number of bytes of the pixels; raises where it is no such JSON.
        write: Writes the pixels; gives the JSON, and whether the file is to stay.
    """

    words: tuple[str, str]
    parse: Callable[[Any], tuple[T, int]]
    write: Callable[[BinaryIO], tuple[Any, bool]]


def held(folder: Path, name: Callable[[], str], kind: Kind[T]) -> tuple[torch.Tensor, T]:
    """Map the pixels of a file, which is written first if it is not there.

    Args:
        folder: The folder of the files.
        name: Gives the file's name without its ending, which stands for all that decides what is in it.
        kind: What it holds.

    Returns:
        The pixels, uint8 `[P]`, none where the file was not to stay; and what stands beside them.

    Raises:
        OSError: It cannot be written, for example because the disk is full.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        while True:
            path = folder / f"{name()}.pixels"
            found = _read(path, kind)
            if found is None:
                with locked(path.with_suffix(".lock")):
                    found = _read(path, kind)  # another process may have written it while this one waited
                    if found is None:
                        found = _build(path, kind)
                        _remove_unused(folder, path)
            beside, total = found
            if not total:  # no image is readable, or the file was not to stay
                return torch.empty(0, dtype=torch.uint8), beside
            with suppress(FileNotFoundError), path.open("rb") as file:  # else another process has just removed it: once more
                os.utime(path)
                # Private pages: writes to them stay in this process and do not reach the file. By its number, since the
                # name may be gone by now.
                source = f"/proc/self/fd/{file.fileno()}" if os.path.exists("/proc/self/fd") else str(path)
                return torch.from_file(source, shared=False, size=total, dtype=torch.uint8), beside
    except OSError as error:
        raise OSError(
            f"data.cache={readable(str(folder))}: cannot write {kind.words[0]} images there ({error.strerror or error}); "
            f"data.cache=null {kind.words[1]} them into memory, in each run anew"
        ) from error


def _build(path: Path, kind: Kind[T]) -> tuple[T, int]:
    """Write a file; gives what stands beside the pixels, and the number of their bytes, 0 where the file did not stay."""
    part = path.with_suffix(f".{HOST}.{os.getpid()}.part")
    try:
        with part.open("wb", buffering=2**20) as out:
            stored, stays = kind.write(out)
            beside, total = kind.parse(stored)
            if not stays:
                return beside, 0
            _end(out, stored)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
    return beside, total


def _remove_unused(folder: Path, new: Path) -> None:
    """Remove the files that were not used for longest, until all are within the limit; then what belongs to none."""
    found = []
    for path in folder.glob("*.pixels"):
        with suppress(FileNotFoundError):
            state = path.stat()
            found.append((path == new, state.st_mtime, state.st_size, path))
    left = sum(size for _, _, size, _ in found)
    for is_new, _, size, path in sorted(found):
        if left > LIMIT_GIB * 2**30 and not is_new:
            path.unlink(missing_ok=True)  # whoever has mapped it keeps it
            left -= size
    names = {path.stem for path in folder.glob("*.pixels")}
    for path in folder.glob("*.index"):
        with suppress(OSError):
            if path.read_text() not in names:
                path.unlink()
    for path in folder.glob("*.part"):
        name = path.name.partition(".")[0]
        lock = Lock(folder / f"{name}.lock")
        if name == new.stem or lock.take():  # whoever was writing it was killed
            path.unlink(missing_ok=True)
            lock.release()


def _end(out: BinaryIO, stored: Any) -> None:
    """Write the JSON after the pixels, and flush everything to the disk before the file gets its name."""
    encoded = json.dumps(stored).encode()
    out.write(encoded + len(encoded).to_bytes(8, "little"))
    out.flush()
    os.fsync(out.fileno())


def _read(path: Path, kind: Kind[T]) -> tuple[T, int] | None:
    """Read what stands beside the pixels, and the number of their bytes; None if the file does not exist or is incomplete."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - 8))
            length = int.from_bytes(file.read(8), "little")
            if not 0 < length <= size - 8:
                return None
            file.seek(size - 8 - length)
            stored = json.loads(file.read(length))
    except (FileNotFoundError, ValueError):
        return None
    try:
        beside, total = kind.parse(stored)
    except (TypeError, ValueError, LookupError, AttributeError, RuntimeError):
        return None
    return (beside, total) if total + length + 8 == size else None
