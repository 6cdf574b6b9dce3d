"""Image files: how they are decoded, and what becomes of those that cannot be.

Every image becomes RGB, 8 bits a channel, at its own size. Where a format says more than that:

- EXIF orientation is applied; EXIF that cannot be parsed is ignored, as its pixels are intact.
- Transparent images are put on white: the colours under transparent pixels are arbitrary, white is what most viewers
  show.
- 16-bit grey is scaled to 8 bits (65,535 becomes 255), not clipped. 16-bit colour keeps its high byte (Pillow's doing).
- CMYK is converted without a colour profile; embedded profiles are ignored. Of an animation, the first frame counts.
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

# Pillow knows more formats than these, some of which start other programs (EPS) or render text.
FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "GIF", "TIFF", "PPM")
EXTENSIONS = frozenset(
    (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".pbm")
)


@dataclass(frozen=True)
class File:
    """A file found: its path, its name relative to the root, and, if it is not to be read, why."""

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
        ValueError: If it is not a readable image; the message says why.
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
        # A broken file makes Pillow raise almost anything, struct.error and IndexError included.
        raise ValueError(" ".join(str(error).split()) or type(error).__name__) from error


def _upright(image: Image.Image) -> Image.Image:
    try:
        if image.getexif().get(ExifTags.Base.Orientation, 1) == 1:
            return image  # exif_transpose() would make a copy
        return ImageOps.exif_transpose(image)
    except Exception:  # As in decode(); without a readable orientation, the image stays as it is stored.
        return image


def _rgb(image: Image.Image) -> np.ndarray:
    """Pixels as uint8 `[h, w, 3]`."""
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
    """Width and height in an image's header, before EXIF turns it.

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
    """Bytes of each image once it is decoded, by its header; 0 for a file that is no image."""

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
    """Read and decode files in threads, a little ahead of what is asked for.

    Args:
        files: The files, none of which has a `problem`.
        sizes: Bytes that each of them decodes to, as from `decoded_sizes`.

    Yields:
        For each file, in order, its image, uint8 `[h, w, 3]`, or why it cannot be read.
    """
    # Threads, as decoding leaves the interpreter free; some files to a task, as one tiny image is not worth handing over.
    waiting: deque[Future[list[torch.Tensor | str]]] = deque()
    workers = cores()
    pool = ThreadPoolExecutor(workers)
    # Filters belong to the process, not to a thread: they are set once, around all threads. Pillow warns about
    # metadata, which changes no pixel here, and about images so large that they look like an attack: refused.
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
    """Files in groups of up to 32 that decode to some MiB, or of one larger file."""
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
    """Processor cores that this process may use, which can be fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def readable(text: str) -> str:
    """The text on one line and in any encoding, as a file name may hold line breaks and bytes that are not UTF-8."""
    return text if text.isprintable() else ascii(text)


def open_root(root: str | Path, on_corrupt: str) -> Path:
    """The root of a source, with links resolved; refuses one that does not exist, and an unknown `on_corrupt`."""
    if on_corrupt not in ("stop", "skip"):
        raise ValueError(f"data.on_corrupt={on_corrupt!r} must be stop or skip")
    given = Path(root).expanduser()
    if not given.exists():
        raise FileNotFoundError(f"data.root={readable(str(root))} does not exist")
    return given.resolve()


def report(root: Path, name: str, reason: str, problems: list[tuple[str, str]], on_corrupt: Literal["stop", "skip"]) -> None:
    """Stop at a file that cannot be used, or note it down; `name` is its path relative to the root."""
    if on_corrupt == "stop":
        raise ValueError(f"{readable(str(root / name))}: {readable(reason)} (data.on_corrupt=skip leaves such files out)")
    problems.append((name, reason))
