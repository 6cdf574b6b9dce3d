"""Decoded and drawn images in files: made once for all runs of all studies, then mapped.

The name of a file of decoded images is a sha256 over the bytes and names of the image files in their order, the limit on their
pixels, the version of this file format, and those of the libraries that decode. So a changed image is decoded again, but not a
moved or copied folder. To read all bytes for that takes a second for 60,000 small files. So an index remembers the name for
what the system says of the files: their names, sizes, inodes and times of change, to the nanosecond. It is not written while
one of them has just changed, since a second change within the clock's step would not show.

The name of a file of drawn images is a sha256 over the source's options and over the code that draws: all modules that the
source's own imports. So an edit of one draws them anew.

How files are written and mapped: `pixel_files.py`. Beside the pixels stand height and width of each decoded image, or the
reason why it cannot be read; or a drawn set's other fields.
"""

import hashlib
import json
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, BinaryIO

import torch

from necklace.atomic import write_changed
from necklace.data.files import File, content_of, cores, decode_files
from necklace.data.images import ImageSet, SplitName
from necklace.data.packing import packed, unpacked
from necklace.data.pixel_files import Kind, held
from necklace.data.problems import Problems
from necklace.source_code import code_of

FILE_VERSION = 3  # increase it with each change of the file format or of decoding
# A file that changed so recently may change again without another time: the clock of a file system has steps.
_SETTLED_S = 2
# Bytes of files that are read for the name and kept until they are decoded, an equal share for each: small files, whose
# reading takes longer than their bytes, are then read once.
_KEPT = 2**28

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


def drawn_split(source: Any, split: SplitName, draw: Callable[[], ImageSet]) -> ImageSet:
    """Map the images of a split that a source draws; they are drawn into the cache first if it does not have them.

    Args:
        source: The source. Its `cache` is the folder, or None to draw into memory; its other attributes are plain values, which
            with its code decide what is drawn.
        split: The split.
        draw: Draws it.

    Raises:
        OSError: The cache cannot be written.
    """
    folder: str | Path | None = source.cache
    code = {} if folder is None else code_of(type(source).__module__)
    if folder is None or not code:  # without it, nothing would tell when other code draws
        return draw()
    options = {name: value for name, value in vars(source).items() if name != "cache"}
    about = [FILE_VERSION, version("numpy"), type(source).__qualname__, split, options, code]
    name = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()

    def write(out: BinaryIO) -> tuple[Any, bool]:
        images = draw()
        for pixels in images.in_order():
            out.write(pixels.contiguous().numpy().data)
        return packed(images), True

    pixels, facts = held(Path(folder).expanduser(), lambda: name, Kind(("drawn", "draws"), _facts_of, write))
    return ImageSet(pixels, **facts)


def _facts_of(stored: Any) -> tuple[dict[str, Any], int]:
    facts = unpacked(stored)
    return facts, int(facts["shapes"].prod(1).sum()) * 3


def _mapped(files: list[File], stop: bool, folder: Path) -> tuple[torch.Tensor, list[Outcome]]:
    """Return the pixels of all readable images, uint8 `[P]` mapped from the cache, and the outcome of each file."""
    read: dict[int, bytes] = {}

    def write(out: BinaryIO) -> tuple[Any, bool]:
        """Decode the files; with `stop`, a problem leaves no file, as the run will end with all problems."""
        outcomes: list[Outcome] = []
        lost = False
        with closing(decode_files(files, read)) as results:
            for result in results:
                outcomes.append(result if isinstance(result, str) else (result.shape[0], result.shape[1]))
                lost = lost or (stop and isinstance(result, str))
                if not lost and not isinstance(result, str):
                    out.write(result.contiguous().numpy().data)
        return outcomes, not lost

    pixels, outcomes = held(folder, lambda: _name(files, folder, read), Kind(("decoded", "decodes"), _outcomes_of, write))
    if stop and any(isinstance(outcome, str) for outcome in outcomes):
        pixels = pixels[:0]  # a problem stops the run
    return pixels, outcomes


def _outcomes_of(stored: Any) -> tuple[list[Outcome], int]:
    outcomes: list[Outcome] = [item if isinstance(item, str) else (int(item[0]), int(item[1])) for item in stored]
    return outcomes, sum(outcome[0] * outcome[1] * 3 for outcome in outcomes if not isinstance(outcome, str))


def _name(files: list[File], folder: Path, read: dict[int, bytes]) -> str:
    """The name of the files' pixels: from the index if it knows the files as they are, else from their bytes.

    Args:
        files: The files.
        folder: The cache.
        read: Gets the position and content of those that were read and are small.
    """
    read.clear()
    state, settled = _state(files)
    index = folder / f"{state}.index"
    if state and index.exists():
        name = index.read_text()
        if (folder / f"{name}.pixels").exists():
            return name
    name = _key(files, read)
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


def _key(files: list[File], read: dict[int, bytes]) -> str:
    """Return a sha256 over the files' bytes and names, in order, and the versions that decode them, in hexadecimal."""
    share = _KEPT // max(1, len(files))

    def digest(index: int, file: File) -> str:
        data = content_of(file.path)
        if isinstance(data, str):
            return data  # reading it later fails in the same way
        if len(data) <= share:
            read[index] = data
        return hashlib.sha256(data).hexdigest()

    def digests(start: int) -> list[str]:
        return [digest(index, file) for index, file in enumerate(files[start : start + 256], start)]

    with ThreadPoolExecutor(cores()) as pool:
        found = [one for part in pool.map(digests, range(0, len(files), 256)) for one in part]
    content = [(file.name, file.max_pixels, one) for file, one in zip(files, found, strict=True)]
    text = json.dumps([_versions(), content])  # escapes all non-ASCII characters, undecodable bytes included
    return hashlib.sha256(text.encode()).hexdigest()
