"""Decoding of image files.

Every image becomes RGB, 8 bits per channel, at its own size. Special cases:

- EXIF orientation is applied; EXIF that cannot be parsed is ignored, as the pixels are intact.
- Transparent images are put on white: the colours under transparent pixels are arbitrary, and most viewers show white.
- 16-bit grey is scaled to 8 bits (65,535 becomes 255), not clipped. Of 16-bit colour, Pillow keeps the high byte.
- CMYK is converted without a colour profile; embedded profiles are ignored. Of an animation, the first frame is used.
"""

import io
import os
import re
import threading
import warnings
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from necklace.data.formats import FORMATS, why_unreadable
from necklace.data.jpeg import Plain, decode_plain

_PIECE = 2**16  # bytes of a file that are read at once
_HEADER = 2048  # bytes; that of a JPEG without EXIF is shorter, but for large colour profiles
MAX_PIXELS = 89_478_485  # Pillow's own limit: an image of a few kB can decode to any size, and take the memory of the machine


@dataclass(frozen=True)
class File:
    """A file.

    Attributes:
        path: Where it is.
        name: Its name relative to the root.
        problem: The reason why it must not be read, if there is one.
        max_pixels: As in `decode`.
    """

    path: str
    name: str
    problem: str | None = None
    max_pixels: int = MAX_PIXELS


def decode(data: bytes, max_pixels: int = MAX_PIXELS) -> torch.Tensor:
    """Decode the bytes of an image file.

    Args:
        data: The whole file.
        max_pixels: An image of more pixels is refused before they are decoded.

    Returns:
        uint8 `[h, w, 3]`, RGB.

    Raises:
        ValueError: It is not a readable image; the message has the reason.
    """
    if not data:
        raise ValueError("the file is empty")
    try:
        with _opened(io.BytesIO(data), max_pixels) as image:
            image.load()
            return pixels_of(image)
    except UnidentifiedImageError:
        raise ValueError(why_unreadable(data)) from None
    except Exception as error:
        # For a broken file, Pillow may raise almost any exception, including struct.error and IndexError.
        raise ValueError(" ".join(str(error).split()) or type(error).__name__) from error


def pixels_of(image: Image.Image) -> torch.Tensor:
    """Convert an image of Pillow, as it was opened, to upright RGB pixels: uint8 `[h, w, 3]`.

    Raises:
        ValueError: Its pixels have no fixed range.
    """
    return torch.from_numpy(_rgb(_upright(image)))


class _PillowLimit:
    """Pillow's own limit on pixels, one for the whole process: while images are open here, the largest of their limits."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.active: list[int] = []
        self.before = Image.MAX_IMAGE_PIXELS

    @contextmanager
    def at(self, max_pixels: int) -> Iterator[None]:
        with self.lock:
            if not self.active:
                self.before = Image.MAX_IMAGE_PIXELS
            self.active.append(max_pixels)
            Image.MAX_IMAGE_PIXELS = max(self.active)
        try:
            yield
        finally:
            with self.lock:
                self.active.remove(max_pixels)
                Image.MAX_IMAGE_PIXELS = max(self.active, default=self.before)


_pillow_limit = _PillowLimit()


@contextmanager
def _opened(source: io.BytesIO, max_pixels: int) -> Iterator[Image.Image]:
    """Open an image, of which Pillow reads the header.

    Raises:
        ValueError: It has more than `max_pixels` pixels. Beyond twice as many Pillow itself refuses, also parts of an image.
    """
    try:
        with _pillow_limit.at(max_pixels), Image.open(source, formats=FORMATS) as image:
            pixels = image.width * image.height
            if pixels > max_pixels:
                raise ValueError(_too_large(pixels, max_pixels))
            yield image
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:  # a warning where warnings are errors
        raise ValueError(_too_large(int(re.findall(r"\d+", str(error))[0]), max_pixels)) from None


def _too_large(pixels: int, max_pixels: int) -> str:
    return f"an image of {pixels} pixels, more than data.max_pixels={max_pixels}: data.max_pixels={pixels} reads it"


def check_max_pixels(max_pixels: int) -> int:
    """Return a limit on pixels.

    Raises:
        ValueError: It is not a whole number from 1.
    """
    if isinstance(max_pixels, bool) or not isinstance(max_pixels, int) or max_pixels < 1:
        raise ValueError(f"data.max_pixels={max_pixels}: must be a whole number of pixels from 1")
    return max_pixels


def _upright(image: Image.Image) -> Image.Image:
    try:
        if image.getexif().get(ExifTags.Base.Orientation, 1) == 1:
            return image  # exif_transpose() would make a copy
        return ImageOps.exif_transpose(image)
    except Exception:  # as in decode(); without a readable orientation, the image is used as stored
        return image


def orientations(files: Sequence[File]) -> list[int]:
    """Return how `decode` turns each file, as EXIF numbers it: 1 (not at all) to 8."""
    with warnings.catch_warnings(), ThreadPoolExecutor(cores()) as pool:  # once around all threads, as in decode_files()
        warnings.simplefilter("ignore")
        return list(pool.map(_orientation, files))


def _orientation(file: File) -> int:
    try:
        with open(file.path, "rb", buffering=0) as start:
            if _has_no_exif(start.read(_HEADER)):
                return 1  # without Pillow, which takes twenty times as long
        with _pillow_limit.at(file.max_pixels), Image.open(file.path, formats=FORMATS) as image:
            found = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # as in _upright()
        return 1
    return found if found in range(1, 9) else 1


def _has_no_exif(start: bytes) -> bool:
    """Whether a file begins as a JPEG whose whole header, up to the pixels, has neither EXIF nor XMP."""
    place = 2
    while start.startswith(b"\xff\xd8") and place + 4 <= len(start) and start[place] == 0xFF and start[place + 1] != 0xE1:
        if start[place + 1] == 0xDA:
            return True
        place += 2 + int.from_bytes(start[place + 2 : place + 4], "big")
    return False


def _rgb(image: Image.Image) -> np.ndarray:
    """Convert to RGB pixels, uint8 `[h, w, 3]`."""
    if image.mode == "F":
        raise ValueError("floating-point pixels have no fixed range")
    if image.mode.startswith("I"):
        values = np.array(image).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise ValueError("32-bit pixels have no fixed range")
        grey = ((values + 128) // 257).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, (255, 255, 255, 255)), image)
    return np.array(image if image.mode == "RGB" else image.convert("RGB"))


def decode_files(files: list[File], read: dict[int, bytes] | None = None) -> Generator[torch.Tensor | str]:
    """Read and decode files in threads, a little ahead of the consumer.

    Args:
        files: The files, none of which has a `problem`.
        read: Position to content of those that have been read already; each is taken out of it.

    Yields:
        For each file, in order, its image, uint8 `[h, w, 3]`, or the reason why it cannot be read.
    """
    # Threads, as decoding releases the interpreter's lock; each task has several files, as one small image is too little work.
    waiting: deque[Future[list[torch.Tensor | str]]] = deque()
    workers = cores()
    pool = ThreadPoolExecutor(workers)
    # Warning filters apply to the whole process, so they are set once, around all threads. Pillow warns about metadata, which
    # does not change pixels here, and torchvision of another library for videos.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            for task in _tasks(files, read or {}):
                waiting.append(pool.submit(_read, task))
                if len(waiting) > 2 * workers:
                    yield from waiting.popleft().result()
            while waiting:
                yield from waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


def _tasks(files: list[File], read: dict[int, bytes]) -> Iterator[list[tuple[File, bytes | None]]]:
    """Yield groups of up to 64 files with at most 64 KiB together, or one larger file: decoded, ten to thirty times as much."""
    task: list[tuple[File, bytes | None]] = []
    held = 0
    for index, file in enumerate(files):
        data = read.pop(index, None)
        try:
            size = os.stat(file.path).st_size if data is None else len(data)
        except OSError:  # reading it says so
            size = 0
        if task and (len(task) == 64 or held + size > 1 << 16):
            yield task
            task, held = [], 0
        task.append((file, data))
        held += size
    if task:
        yield task


def _read(task: list[tuple[File, bytes | None]]) -> list[torch.Tensor | str]:
    contents = [content_of(file.path) if data is None else data for file, data in task]
    is_plain = Plain(min(file.max_pixels for file, _ in task))
    plain = [(index, data) for index, data in enumerate(contents) if isinstance(data, bytes) and is_plain(data)]
    decoded = decode_plain([data for _, data in plain]) if plain else None
    quick = {index: image for (index, _), image in zip(plain, decoded, strict=True)} if decoded else {}
    return [quick[index] if index in quick else _slowly(data, task[index][0]) for index, data in enumerate(contents)]


def _slowly(data: bytes | str, file: File) -> torch.Tensor | str:
    """Decode a file's content with Pillow; gives the image, or the reason why there is none."""
    if isinstance(data, str):
        return data
    try:
        return decode(data, file.max_pixels)
    except ValueError as error:
        return str(error)


def content_of(path: str) -> bytes | str:
    """Read a file; gives its content, or the reason why it cannot be read."""
    try:
        file = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))  # half the time of `open`, for small files
        try:
            parts: list[bytes] = []
            while part := os.read(file, _PIECE):
                parts.append(part)
            return b"".join(parts)  # a single part is not copied
        finally:
            os.close(file)
    except OSError as error:
        return error.strerror or str(error)


def cores() -> int:
    """Return the number of processor cores that this process may use, which can be fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def readable(text: str) -> str:
    """Escape text with unprintable characters: a file name may have line breaks and bytes that are not UTF-8."""
    return text if text.isprintable() else ascii(text)


def open_root(root: str | Path, on_corrupt: str) -> Path:
    """Return the root of a source, with links resolved.

    Raises:
        FileNotFoundError: The root does not exist.
        ValueError: `on_corrupt` is unknown, or the root is a file.
    """
    if on_corrupt not in ("stop", "skip"):
        raise ValueError(f"data.on_corrupt={on_corrupt!r} must be stop or skip")
    given = Path(root).expanduser()
    if not given.exists():
        raise FileNotFoundError(f"data.root={readable(str(root))} does not exist")
    if not given.is_dir():
        raise ValueError(f"data.root={readable(str(root))} is a file: must be a folder (an archive is unpacked first)")
    return given.resolve()
