"""Decoding of image files, and reports of files that cannot be decoded.

Every image becomes RGB, 8 bits per channel, at its own size. Special cases:

- EXIF orientation is applied; EXIF that cannot be parsed is ignored, as the pixels are intact.
- Transparent images are put on white: the colours under transparent pixels are arbitrary, and most viewers show white.
- 16-bit grey is scaled to 8 bits (65,535 becomes 255), not clipped. Of 16-bit colour, Pillow keeps the high byte.
- CMYK is converted without a colour profile; embedded profiles are ignored. Of an animation, the first frame is used.
"""

import io
import math
import os
import warnings
from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

# Pillow supports more formats than these, some of which start other programs (EPS) or render text.
FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "GIF", "TIFF", "PPM")
EXTENSIONS = frozenset(
    (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".pbm")
)


@dataclass(frozen=True)
class File:
    """A file: its path, its name relative to the root, and, if it must not be read, the reason."""

    path: str
    name: str
    problem: str | None = None


def decode(data: bytes) -> torch.Tensor:
    """Decode the bytes of an image file.

    Args:
        data: The whole file.

    Returns:
        uint8 `[h, w, 3]`, RGB.

    Raises:
        ValueError: It is not a readable image; the message has the reason.
    """
    if not data:
        raise ValueError("the file is empty")
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            image.load()
            return torch.from_numpy(_rgb(_upright(image)))
    except UnidentifiedImageError:
        raise ValueError(f"not an image, or of another format than {', '.join(FORMATS)}") from None
    except Exception as error:
        # For a broken file, Pillow may raise almost any exception, including struct.error and IndexError.
        raise ValueError(" ".join(str(error).split()) or type(error).__name__) from error


def _upright(image: Image.Image) -> Image.Image:
    try:
        if image.getexif().get(ExifTags.Base.Orientation, 1) == 1:
            return image  # exif_transpose() would make a copy
        return ImageOps.exif_transpose(image)
    except Exception:  # as in decode(); without a readable orientation, the image is used as stored
        return image


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


def stored_size(path: str) -> tuple[int, int]:
    """Return width and height in an image's header, before the EXIF orientation is applied.

    Raises:
        ValueError: It is not an image.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # as in decode_files()
        return _header(path)


def _header(path: str) -> tuple[int, int]:
    try:
        with Image.open(path, formats=FORMATS) as image:
            return image.size
    except Exception as error:  # as in decode()
        raise ValueError("not a readable image") from error


def decoded_sizes(files: list[File]) -> list[int]:
    """Return the bytes that each image decodes to, by its header; 0 for a file that is not an image."""

    def sizes(some: list[File]) -> list[int]:
        found = []
        for file in some:
            try:
                found.append(math.prod(_header(file.path)) * 3)
            except ValueError:
                found.append(0)
        return found

    with warnings.catch_warnings(), ThreadPoolExecutor(cores()) as pool:
        warnings.simplefilter("ignore")  # as in decode_files()
        parts = pool.map(sizes, [files[start : start + 256] for start in range(0, len(files), 256)])
        return [size for part in parts for size in part]


def decode_files(files: list[File], sizes: list[int]) -> Generator[torch.Tensor | str]:
    """Read and decode files in threads, a little ahead of the consumer.

    Args:
        files: The files, none of which has a `problem`.
        sizes: Bytes that each file decodes to, from `decoded_sizes`.

    Yields:
        For each file, in order, its image, uint8 `[h, w, 3]`, or the reason why it cannot be read.
    """
    # Threads, as decoding releases the interpreter's lock; each task has several files, as one small image is too little work.
    waiting: deque[Future[list[torch.Tensor | str]]] = deque()
    workers = cores()
    pool = ThreadPoolExecutor(workers)
    # Warning filters apply to the whole process, so they are set once, around all threads. Pillow warns about metadata, which
    # does not change pixels here, and about images so large that they look like an attack, which are rejected.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            for task in _tasks(files, sizes):
                waiting.append(pool.submit(_read, task))
                if len(waiting) > 2 * workers:
                    yield from waiting.popleft().result()
            while waiting:
                yield from waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


def _tasks(files: list[File], sizes: list[int]) -> Iterator[list[File]]:
    """Yield groups of up to 32 files that decode to at most 8 MiB together, or one larger file."""
    task: list[File] = []
    held = 0
    for file, size in zip(files, sizes, strict=True):
        if task and (len(task) == 32 or held + size > 1 << 23):
            yield task
            task, held = [], 0
        task.append(file)
        held += size
    if task:
        yield task


def _read(files: list[File]) -> list[torch.Tensor | str]:
    results: list[torch.Tensor | str] = []
    for file in files:
        try:
            results.append(decode(Path(file.path).read_bytes()))
        except OSError as error:
            results.append(error.strerror or str(error))
        except ValueError as error:
            results.append(str(error))
    return results


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
        ValueError: `on_corrupt` is unknown.
    """
    if on_corrupt not in ("stop", "skip"):
        raise ValueError(f"data.on_corrupt={on_corrupt!r} must be stop or skip")
    given = Path(root).expanduser()
    if not given.exists():
        raise FileNotFoundError(f"data.root={readable(str(root))} does not exist")
    return given.resolve()


def report(root: Path, name: str, reason: str, problems: list[tuple[str, str]], on_corrupt: Literal["stop", "skip"]) -> None:
    """Stop at a file that cannot be used, or add it to `problems`.

    Args:
        root: Folder of the source.
        name: Path of the file relative to the root.
        reason: Why it cannot be used.
        problems: (name, reason) of the files to skip.
        on_corrupt: Whether to stop or to skip.

    Raises:
        ValueError: `on_corrupt` is `stop`.
    """
    if on_corrupt == "stop":
        raise ValueError(f"{readable(str(root / name))}: {readable(reason)} (data.on_corrupt=skip leaves such files out)")
    problems.append((name, reason))
