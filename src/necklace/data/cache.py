"""Decoded images in a file, for a split that does not fit into memory: decoded once, then mapped.

The file's name is a sha256 over the bytes and names of the image files in their order, the limit on their pixels, the version
of this file format, and the version of Pillow. So a changed image is decoded again, but not a moved folder. The file is written
under a lock and gets its name when it is complete: if several processes need it, one decodes and the others wait.

Format: the pixels, as in `ImageSet`; then, as JSON, height and width of each image or the reason why it cannot be read; then
the length of that JSON in 8 bytes. A file whose size does not match its content is written again.
"""

import hashlib
import json
import math
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import PIL
import torch
from filelock import FileLock

from necklace.data.files import File, cores, decode_files, decoded_sizes, readable
from necklace.data.images import ImageSet, SplitName
from necklace.data.problems import Problems

FILE_VERSION = 2  # increase it with each change of the file format or of decoding

Outcome = tuple[int, int] | str
"""Height and width of a decoded image, or the reason why it cannot be decoded."""


@dataclass(frozen=True)
class PixelCache:
    """Settings of the cache for decoded images that are too large for memory.

    Attributes:
        folder: Folder of the files.
        memory_gib: A split is kept in memory up to this size of its pixels, in GiB.

    Raises:
        ValueError: `memory_gib` is not a number from 0.
    """

    folder: str | Path
    memory_gib: float

    def __post_init__(self) -> None:
        if not isinstance(self.memory_gib, int | float) or not self.memory_gib >= 0:
            raise ValueError(f"data.memory_gib={self.memory_gib}: must be a size in GiB from 0")


def read_split(
    split: SplitName, files: list[File], labels: torch.Tensor, names: list[str], problems: Problems, cache: PixelCache
) -> ImageSet:
    """Decode the images of a split, or map them from the cache if they need more memory than it allows.

    Args:
        split: The split.
        files: Its files, none of which has a `problem`.
        labels: int64 `[N]` or int8 `[N, K]`, as in `ImageSet`.
        names: Ids of the images, as in `ImageSet`.
        problems: Gets the files that cannot be decoded. The caller stops the run at them.
        cache: Settings of the cache.

    Returns:
        The readable images.

    Raises:
        OSError: The cache cannot be written, for example because the disk is full.
    """
    sizes = decoded_sizes(files)
    mapped = sum(sizes) > cache.memory_gib * 2**30
    kept: list[int] = []
    images: list[torch.Tensor] = []

    def usable(index: int, outcome: Outcome) -> bool:
        if isinstance(outcome, str):
            problems.add(split, files[index].name, outcome)
            return False
        kept.append(index)
        return True

    if mapped:
        pixels, outcomes = _mapped(files, sizes, problems.on_corrupt == "stop", Path(cache.folder).expanduser())
        used = [usable(index, outcome) for index, outcome in enumerate(outcomes)]
        if not pixels.numel():  # no image is readable, or nothing was kept as the run stops
            return ImageSet.build([], labels[:0], [])
        shapes = torch.tensor([(0, 0) if isinstance(outcome, str) else outcome for outcome in outcomes]).view(-1, 2)
        starts = (shapes.prod(1) * 3).cumsum(0) - shapes.prod(1) * 3
        chosen = torch.tensor(used, dtype=torch.bool)
        return ImageSet(pixels, shapes[chosen], labels[chosen], tuple(names[i] for i in kept), starts[chosen])
    with closing(decode_files(files, sizes)) as results:
        for index, result in enumerate(results):
            if isinstance(result, str):
                usable(index, result)
            elif usable(index, (result.shape[0], result.shape[1])):
                images.append(result)
    return ImageSet.build(images, labels[kept], [names[index] for index in kept])


def _mapped(files: list[File], sizes: list[int], stop: bool, folder: Path) -> tuple[torch.Tensor, list[Outcome]]:
    """Return the pixels of all readable images, uint8 `[P]` mapped from the cache, and the outcome of each file."""
    path = folder / f"{_key(files)}.pixels"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        outcomes = _outcomes(path)
        if outcomes is None:
            with FileLock(path.with_suffix(".lock")):
                outcomes = _outcomes(path)  # another process may have written it while this one waited
                if outcomes is None:
                    outcomes = _build(path, files, sizes, stop)
    except OSError as error:
        size = sum(sizes) / 2**30
        raise OSError(
            f"data.cache={readable(str(folder))}: cannot write {size:.2f} GiB of decoded images there "
            f"({error.strerror or error}); data.memory_gib={math.ceil(size)} keeps them in memory instead"
        ) from error
    total = _bytes(outcomes) if path.exists() else 0
    if not total:  # no image is readable, or a problem stops the run
        return torch.empty(0, dtype=torch.uint8), outcomes
    # Private pages: writes to them stay in this process and do not reach the file.
    return torch.from_file(str(path), shared=False, size=total, dtype=torch.uint8), outcomes


def _build(path: Path, files: list[File], sizes: list[int], stop: bool) -> list[Outcome]:
    """Decode the files into `path`; with `stop`, a problem leaves no file, as the run will end with all problems."""
    part = path.with_suffix(".part")
    outcomes: list[Outcome] = []
    lost = False
    try:
        with part.open("wb") as out, closing(decode_files(files, sizes)) as results:
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


def _key(files: list[File]) -> str:
    """Return a sha256 over the files' bytes and names, in order, and the versions that decode them, in hexadecimal."""

    def digest(file: File) -> str:
        try:
            with open(file.path, "rb") as content:
                return hashlib.file_digest(content, "sha256").hexdigest()
        except OSError as error:
            return str(error.strerror)  # reading it later fails in the same way

    with ThreadPoolExecutor(cores()) as pool:
        content = [(file.name, file.max_pixels, found) for file, found in zip(files, pool.map(digest, files), strict=True)]
    text = json.dumps([FILE_VERSION, PIL.__version__, content])  # escapes all non-ASCII characters, undecodable bytes included
    return hashlib.sha256(text.encode()).hexdigest()
