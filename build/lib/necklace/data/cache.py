"""Decoded images in a file, for a split that does not fit into memory: decoded once, then mapped.

The file is named after what it holds: a sha256 over the bytes and names of the image files in their order, and over what
turns them into pixels. So a changed image is decoded anew, and a moved folder is not. It is written under a lock and put in
place when it is whole: of processes that want it at once, one decodes and the others wait.

It begins with the pixels, as in `ImageSet`; then come, as JSON, height and width of each image or why it cannot be read; the
last 8 bytes are the length of that JSON. A file whose size does not fit what it says is made anew.
"""

import hashlib
import json
import math
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

import PIL
import torch
from filelock import FileLock

from necklace.data.files import File, cores, decode_files, decoded_sizes, readable, report
from necklace.data.images import ImageSet

LAYOUT = 1  # to be raised with each change of the file's layout or of decoding

Outcome = tuple[int, int] | str
"""Height and width of a decoded image, or why there is none."""


@dataclass(frozen=True)
class PixelCache:
    """Where decoded images are kept that are too large for memory.

    Attributes:
        folder: Folder of the files.
        memory_gib: A split is kept in memory up to this size.
    """

    folder: str | Path
    memory_gib: float

    def __post_init__(self) -> None:
        if not isinstance(self.memory_gib, int | float) or not self.memory_gib >= 0:
            raise ValueError(f"data.memory_gib={self.memory_gib}: must be a size in GiB from 0")


def read_split(
    root: Path,
    files: list[File],
    labels: torch.Tensor,
    names: list[str],
    on_corrupt: Literal["stop", "skip"],
    cache: PixelCache,
    misfit: Callable[[int, int, int], tuple[str, str] | None] | None = None,
) -> tuple[ImageSet, list[tuple[str, str]]]:
    """Decode the images of a split, or map them from the cache if they are too large for memory.

    Args:
        root: The folder that the files' names are relative to.
        files: The files, none of which has a `problem`.
        labels: int64 `[N]` or int8 `[N, K]`, as in `ImageSet`.
        names: Ids of the images, as in `ImageSet`.
        on_corrupt: Whether to stop at a file that cannot be used, or to skip it.
        cache: Where large splits are kept.
        misfit: Takes an image's index, height and width; gives the name of a file and what is wrong with it, if anything is.

    Returns:
        The images that can be used, and (path relative to the root, reason) of those that cannot.

    Raises:
        ValueError: A file cannot be used, and that stops the run.
        OSError: The cache cannot be written, for want of room or otherwise.
    """
    sizes = decoded_sizes(files)
    mapped = sum(sizes) > cache.memory_gib * 2**30
    problems: list[tuple[str, str]] = []
    kept: list[int] = []
    images: list[torch.Tensor] = []

    def usable(index: int, outcome: Outcome) -> bool:
        if isinstance(outcome, str):
            problem = files[index].name, outcome
        else:
            problem = misfit(index, *outcome) if misfit is not None else None
        if problem is not None:
            report(root, *problem, problems, on_corrupt)
            return False
        kept.append(index)
        return True

    if mapped:
        pixels, outcomes = _mapped(files, sizes, on_corrupt, Path(cache.folder).expanduser())
        used = [usable(index, outcome) for index, outcome in enumerate(outcomes)]
        # Shorter than `files` if a problem stopped the decoding, which usable() has raised by now.
        shapes = torch.tensor([(0, 0) if isinstance(outcome, str) else outcome for outcome in outcomes]).view(-1, 2)
        starts = (shapes.prod(1) * 3).cumsum(0) - shapes.prod(1) * 3
        chosen = torch.tensor(used, dtype=torch.bool)
        return ImageSet(pixels, shapes[chosen], labels[chosen], tuple(names[i] for i in kept), starts[chosen]), problems
    with closing(decode_files(files, sizes)) as results:
        for index, result in enumerate(results):
            if isinstance(result, str):
                usable(index, result)
            elif usable(index, (result.shape[0], result.shape[1])):
                images.append(result)
    return ImageSet.build(images, labels[kept], [names[index] for index in kept]), problems


def _mapped(
    files: list[File], sizes: list[int], on_corrupt: Literal["stop", "skip"], folder: Path
) -> tuple[torch.Tensor, list[Outcome]]:
    """The pixels of all images that can be read, uint8 `[P]` mapped from the cache, and the outcome of each file."""
    path = folder / f"{_key(files)}.pixels"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        outcomes = _outcomes(path)
        if outcomes is None:
            with FileLock(path.with_suffix(".lock")):
                outcomes = _outcomes(path)  # of another process, if this one had to wait for it
                if outcomes is None:
                    outcomes = _build(path, files, sizes, on_corrupt)
    except OSError as error:
        size = sum(sizes) / 2**30
        raise OSError(
            f"data.cache={readable(str(folder))}: cannot keep {size:.2f} GiB of decoded images there "
            f"({error.strerror or error}); data.memory_gib={math.ceil(size)} keeps them in memory instead"
        ) from error
    total = _bytes(outcomes) if path.exists() else 0
    if not total:  # no image can be read, or not all, and that stops the run
        return torch.empty(0, dtype=torch.uint8), outcomes
    # Private pages: what is written to them stays in this process and does not reach the file.
    return torch.from_file(str(path), shared=False, size=total, dtype=torch.uint8), outcomes


def _build(path: Path, files: list[File], sizes: list[int], on_corrupt: Literal["stop", "skip"]) -> list[Outcome]:
    """Decode the files into `path`; the outcomes end at the first problem, and nothing is written, if it stops the run."""
    part = path.with_suffix(".part")
    outcomes: list[Outcome] = []
    try:
        with part.open("wb") as out, closing(decode_files(files, sizes)) as results:
            for result in results:
                if isinstance(result, str):
                    outcomes.append(result)
                    if on_corrupt == "stop":
                        return outcomes
                else:
                    outcomes.append((result.shape[0], result.shape[1]))
                    out.write(result.contiguous().numpy().data)
            _end(out, outcomes)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
    return outcomes


def _end(out: BinaryIO, outcomes: list[Outcome]) -> None:
    """Write what follows the pixels, and have all of it on the disk before the file gets its name."""
    said = json.dumps(outcomes).encode()
    out.write(said + len(said).to_bytes(8, "little"))
    out.flush()
    os.fsync(out.fileno())


def _outcomes(path: Path) -> list[Outcome] | None:
    """The outcomes of a file in the cache; None if it is not there or not whole."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - 8))
            length = int.from_bytes(file.read(8), "little")
            if not 0 < length <= size - 8:
                return None
            file.seek(size - 8 - length)
            said = json.loads(file.read(length))
    except (FileNotFoundError, ValueError):
        return None
    try:
        outcomes: list[Outcome] = [item if isinstance(item, str) else (int(item[0]), int(item[1])) for item in said]
    except (TypeError, ValueError, LookupError):
        return None
    return outcomes if _bytes(outcomes) + length + 8 == size else None


def _bytes(outcomes: Iterable[Outcome]) -> int:
    return sum(outcome[0] * outcome[1] * 3 for outcome in outcomes if not isinstance(outcome, str))


def _key(files: list[File]) -> str:
    """A sha256 over the files' bytes and names, in order, and over what decodes them, in hexadecimal."""

    def digest(file: File) -> str:
        try:
            with open(file.path, "rb") as content:
                return hashlib.file_digest(content, "sha256").hexdigest()
        except OSError as error:
            return str(error.strerror)  # the outcome of reading it will be the same

    with ThreadPoolExecutor(cores()) as pool:
        content = [(file.name, found) for file, found in zip(files, pool.map(digest, files), strict=True)]
    said = json.dumps([LAYOUT, PIL.__version__, content])  # escapes what is not ASCII, bytes that are not UTF-8 included
    return hashlib.sha256(said.encode()).hexdigest()
