"""Decoded images in files: decoded once for all runs of all studies, then mapped.

A file's name is a sha256 over the bytes and names of the image files in their order, the limit on their pixels, the version of
this file format, and those of the libraries that decode. So a changed image is decoded again, but not a moved or copied folder.
To read all bytes for that takes a second for 60,000 small files. So an index remembers the name for what the system says of the
files: their names, sizes, inodes and times of change, to the nanosecond. It is not written while one of them has just changed,
since a second change within the clock's step would not show.

A file is written under a lock and gets its name when it is complete: if several processes need it, one decodes and the others
wait. Where all files together are larger than `LIMIT_GIB`, those that were not used for longest are removed.

Format: the pixels, as in `ImageSet`; then, as JSON, height and width of each image or the reason why it cannot be read; then
the length of that JSON in 8 bytes. A file whose size does not match its content is written again.
"""

import hashlib
import json
import os
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import BinaryIO

import torch
from filelock import FileLock

from necklace.atomic import write_changed
from necklace.data.files import File, content_of, cores, decode_files, readable
from necklace.data.images import ImageSet, SplitName
from necklace.data.problems import Problems

FILE_VERSION = 3  # increase it with each change of the file format or of decoding
LIMIT_GIB = 50  # of all files together; a new one stays, however large it is
# A file that changed so recently may change again without another time: the clock of a file system has steps.
_SETTLED_S = 2

Outcome = tuple[int, int] | str
"""Height and width of a decoded image, or the reason why it cannot be decoded."""


@dataclass(frozen=True)
class PixelCache:
    """Settings of the cache for decoded images.

    Attributes:
        folder: Folder of the files; None: images are decoded into memory, in each process anew.
        memory_gib: The batches of a split are made from memory up to this size of its pixels, in GiB, else from the file.

    Raises:
        ValueError: `memory_gib` is not a number from 0.
    """

    folder: str | Path | None
    memory_gib: float

    def __post_init__(self) -> None:
        if not isinstance(self.memory_gib, int | float) or not self.memory_gib >= 0:
            raise ValueError(f"data.memory_gib={self.memory_gib}: must be a size in GiB from 0")


def read_split(
    split: SplitName, files: list[File], labels: torch.Tensor, names: list[str], problems: Problems, cache: PixelCache
) -> ImageSet:
    """Map the images of a split from the cache; they are decoded into it first if it does not have them.

    Args:
        split: The split.
        files: Its files, none of which has a `problem`.
        labels: int64 `[N]` or int8 `[N, K]`, as in `ImageSet`.
        names: Ids of the images, as in `ImageSet`.
        problems: Gets the files that cannot be decoded. The caller stops the run at them.
        cache: Settings of the cache.

    Returns:
        The readable images. Those of a split that is too large for memory have `starts`, so that nobody copies them.

    Raises:
        OSError: The cache cannot be written, for example because the disk is full.
    """
    if cache.folder is None:
        pixels, outcomes = _decoded(files)
    else:
        pixels, outcomes = _mapped(files, problems.on_corrupt == "stop", Path(cache.folder).expanduser())
    for index, outcome in enumerate(outcomes):
        if isinstance(outcome, str):
            problems.add(split, files[index].name, outcome)
    if not pixels.numel():  # no image is readable, or nothing was kept as the run stops
        return ImageSet.build([], labels[:0], [])
    kept = [index for index, outcome in enumerate(outcomes) if not isinstance(outcome, str)]
    shapes = torch.tensor([outcomes[index] for index in kept])
    sizes = shapes.prod(1) * 3
    starts = sizes.cumsum(0) - sizes if cache.folder and pixels.numel() > cache.memory_gib * 2**30 else None
    return ImageSet(pixels, shapes, labels[kept], tuple(names[index] for index in kept), starts)


def _decoded(files: list[File]) -> tuple[torch.Tensor, list[Outcome]]:
    """Decode files into memory: the pixels of all readable images, uint8 `[P]`, and the outcome of each file."""
    images: list[torch.Tensor] = []
    outcomes: list[Outcome] = []
    with closing(decode_files(files)) as results:
        for result in results:
            outcomes.append(result if isinstance(result, str) else (result.shape[0], result.shape[1]))
            images += [] if isinstance(result, str) else [result.reshape(-1)]
    return torch.cat(images) if images else torch.empty(0, dtype=torch.uint8), outcomes


def _mapped(files: list[File], stop: bool, folder: Path) -> tuple[torch.Tensor, list[Outcome]]:
    """Return the pixels of all readable images, uint8 `[P]` mapped from the cache, and the outcome of each file."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        while True:
            path = folder / f"{_name(files, folder)}.pixels"
            outcomes = _outcomes(path)
            if outcomes is None:
                with FileLock(path.with_suffix(".lock")):
                    outcomes = _outcomes(path)  # another process may have written it while this one waited
                    if outcomes is None:
                        outcomes = _build(path, files, stop)
                        _remove_unused(folder, path)
            total = _bytes(outcomes)
            if not total or (stop and any(isinstance(outcome, str) for outcome in outcomes)):
                return torch.empty(0, dtype=torch.uint8), outcomes  # no image is readable, or a problem stops the run
            with suppress(FileNotFoundError), path.open("rb") as file:  # else another process has just removed it: once more
                os.utime(path)
                # Private pages: writes to them stay in this process and do not reach the file. By its number, since the
                # name may be gone by now.
                source = f"/proc/self/fd/{file.fileno()}" if os.path.exists("/proc/self/fd") else str(path)
                return torch.from_file(source, shared=False, size=total, dtype=torch.uint8), outcomes
    except OSError as error:
        raise OSError(
            f"data.cache={readable(str(folder))}: cannot write decoded images there ({error.strerror or error}); "
            "data.cache=null decodes them into memory, in each run anew"
        ) from error


def _build(path: Path, files: list[File], stop: bool) -> list[Outcome]:
    """Decode the files into `path`; with `stop`, a problem leaves no file, as the run will end with all problems."""
    part = path.with_suffix(f".{os.getpid()}.part")
    outcomes: list[Outcome] = []
    lost = False
    try:
        with part.open("wb") as out, closing(decode_files(files)) as results:
            for result in results:
                outcomes.append(result if isinstance(result, str) else (result.shape[0], result.shape[1]))
                lost = lost or (stop and isinstance(result, str))
                if not lost and not isinstance(result, str):
                    out.write(result.contiguous().numpy().data)
            if lost:
                return outcomes
            _end(out, outcomes)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
    return outcomes


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
    for path in folder.glob("*.part"):  # of a process that was killed
        with suppress(OSError):
            if time.time() - path.stat().st_mtime > 86400:
                path.unlink()


def _end(out: BinaryIO, outcomes: list[Outcome]) -> None:
    """Write the outcomes after the pixels, and flush everything to the disk before the file gets its name."""
    encoded = json.dumps(outcomes).encode()
    out.write(encoded + len(encoded).to_bytes(8, "little"))
    out.flush()
    os.fsync(out.fileno())


def _outcomes(path: Path) -> list[Outcome] | None:
    """Read the outcomes of a file in the cache; None if it does not exist or is incomplete."""
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
        outcomes: list[Outcome] = [item if isinstance(item, str) else (int(item[0]), int(item[1])) for item in stored]
    except (TypeError, ValueError, LookupError):
        return None
    return outcomes if _bytes(outcomes) + length + 8 == size else None


def _bytes(outcomes: Iterable[Outcome]) -> int:
    return sum(outcome[0] * outcome[1] * 3 for outcome in outcomes if not isinstance(outcome, str))


def _name(files: list[File], folder: Path) -> str:
    """The name of the files' pixels: from the index if it knows the files as they are, else from their bytes."""
    state, settled = _state(files)
    index = folder / f"{state}.index"
    if state and index.exists():
        name = index.read_text()
        if (folder / f"{name}.pixels").exists():
            return name
    name = _key(files)
    if settled:
        write_changed(index, name)
    return name


def _state(files: list[File]) -> tuple[str, bool]:
    """A sha256 over what the system says of the files, and whether their last change is long enough ago to rely on it."""
    digest, latest, now = hashlib.sha256(repr(_versions()).encode()), 0, time.time_ns()
    try:
        for file in files:
            at = os.stat(file.path)
            said = f"{file.name}\0{file.max_pixels} {at.st_size} {at.st_mtime_ns} {at.st_ctime_ns} {at.st_ino} {at.st_dev}\n"
            digest.update(said.encode("utf-8", "surrogateescape"))
            latest = max(latest, at.st_mtime_ns, at.st_ctime_ns)
    except OSError:  # reading it says so
        return "", False
    return digest.hexdigest(), now - latest > _SETTLED_S * 10**9


def _versions() -> list[object]:
    return [FILE_VERSION, version("pillow"), version("torchvision")]


def _key(files: list[File]) -> str:
    """Return a sha256 over the files' bytes and names, in order, and the versions that decode them, in hexadecimal."""

    def digests(some: list[File]) -> list[str]:
        contents = (content_of(file.path) for file in some)
        # A file that cannot be read by its reason: reading it later fails in the same way.
        return [data if isinstance(data, str) else hashlib.sha256(data).hexdigest() for data in contents]

    with ThreadPoolExecutor(cores()) as pool:
        parts = pool.map(digests, [files[start : start + 256] for start in range(0, len(files), 256)])
        found = [one for part in parts for one in part]
    content = [(file.name, file.max_pixels, one) for file, one in zip(files, found, strict=True)]
    text = json.dumps([_versions(), content])  # escapes all non-ASCII characters, undecodable bytes included
    return hashlib.sha256(text.encode()).hexdigest()
