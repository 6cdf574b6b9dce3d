"""Images from the user's disk: `train/CLASS/*.jpg` and, if there, `val/CLASS/*.jpg` and `test/CLASS/*.jpg`.

Every image becomes RGB, 8 bits a channel, at its own size. Where a format says more than that:

- EXIF orientation is applied; EXIF that cannot be parsed is ignored, as its pixels are intact.
- Transparent images are put on white: the colours under transparent pixels are arbitrary, white is what most viewers
  show.
- 16-bit grey is scaled to 8 bits (65,535 becomes 255), not clipped. 16-bit colour keeps its high byte (Pillow's doing).
- CMYK is converted without a colour profile; embedded profiles are ignored. Of an animation, the first frame counts.

Nothing is dropped in silence. A file that is not a readable image stops the run, or is skipped and listed in `skipped`;
only hidden files and what file managers leave behind (Thumbs.db and the like) are passed over. Nothing is read
outside the root: a link that leads out of it is refused.
"""

import io
import os
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError

from necklace.data.images import SPLIT_NAMES, ImageSet, SplitName

# Pillow knows more formats than these, some of which start other programs (EPS) or render text.
FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "GIF", "TIFF", "PPM")
EXTENSIONS = frozenset(
    (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".pbm")
)
JUNK = frozenset(("thumbs.db", "desktop.ini", "__macosx"))


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


def _read(files: list[File]) -> list[torch.Tensor | str]:
    """Decode files; in place of an image that cannot be read stands the reason."""
    results: list[torch.Tensor | str] = []
    for file in files:
        try:
            results.append(decode(Path(file.path).read_bytes()))
        except OSError as error:
            results.append(error.strerror or str(error))
        except ValueError as error:
            results.append(str(error))
    return results


def decode_files(files: list[File], on_corrupt: Literal["stop", "skip"]) -> list[torch.Tensor | str]:
    """Read and decode files, up to the first problem if that stops the run.

    Args:
        files: The files, none of which has a `problem`.
        on_corrupt: As in `Folder`.

    Returns:
        For each file its image, uint8 `[h, w, 3]`, or why it cannot be read. With `stop`, a reason may end the list early.
    """
    results: list[torch.Tensor | str] = []
    # Threads, as decoding a large image leaves the interpreter free; for tiny ones they neither help nor hurt.
    chunks = [files[start : start + 64] for start in range(0, len(files), 64)]
    pool = ThreadPoolExecutor(min(8, os.cpu_count() or 1))
    # Filters belong to the process, not to a thread: they are set once, around all threads. Pillow warns about
    # metadata, which changes no pixel here, and about images so large that they look like an attack: refused.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            for chunk in pool.map(_read, chunks):
                results += chunk
                if on_corrupt == "stop" and any(isinstance(result, str) for result in chunk):
                    break
        finally:
            pool.shutdown(cancel_futures=True)
    return results


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


class Folder:
    """A folder of images with one subfolder for each class.

    Classes are the folders in `train/`, sorted by name. Images come in the order of their paths; folders inside a
    class folder are read as well. Other folders beside `train`, `val` and `test` are not looked at.

    Attributes:
        root: The folder, with links resolved.
        classes: Names of the classes.
    """

    def __init__(self, root: str | Path, on_corrupt: Literal["stop", "skip"] = "stop"):
        """List the files, and refuse a folder that cannot be trained on; decoding waits until a split is asked for.

        Args:
            root: The folder that holds `train/`.
            on_corrupt: What to do about a file that is not a readable image: `stop` with an error, or `skip` and list
                it.
        """
        self.root = open_root(root, on_corrupt)
        self.on_corrupt: Literal["stop", "skip"] = on_corrupt
        if not (self.root / "train").is_dir():
            raise FileNotFoundError(
                f"data.root={readable(str(root))} has no folder train/ (images are looked for in train/CLASS/)"
            )
        self._listing_problems: dict[str, list[tuple[str, str]]] = {}
        self._decoding_problems: dict[str, list[tuple[str, str]]] = {}
        train = self._class_folders("train")
        self.classes: tuple[str, ...] = tuple(train)
        self._files: dict[str, list[tuple[File, int]]] = {}
        for split in SPLIT_NAMES:
            if split == "train" or (self.root / split).exists():
                self._files[split] = self._list(split, train if split == "train" else self._class_folders(split))

    @property
    def skipped(self) -> tuple[tuple[str, str], ...]:
        """(path relative to the root, reason) of every image left out, of the splits read so far."""
        read = [split for split in SPLIT_NAMES if split in self._decoding_problems]
        return tuple(
            problem for split in read for problem in sorted(self._listing_problems[split] + self._decoding_problems[split])
        )

    def split(self, name: SplitName) -> ImageSet | None:
        """Read and decode the images of a split; None if there is no such folder."""
        if name not in self._files:
            return None
        files = self._files[name]
        problems: list[tuple[str, str]] = []
        images: list[torch.Tensor] = []
        labels: list[int] = []
        names: list[str] = []
        # Shorter than `files` if a problem stopped the reading; it then ends in that problem, which _report() raises.
        for (file, label), result in zip(files, decode_files([file for file, _ in files], self.on_corrupt), strict=False):
            if isinstance(result, str):
                self._report(file, result, problems)
                continue
            images.append(result)
            labels.append(label)
            names.append(file.name)
        self._decoding_problems[name] = problems
        missing = set(range(len(self.classes))) - set(labels) if name == "train" else set()
        if missing or not images:
            folder = self.root / name / (self.classes[min(missing)] if missing else "")
            raise ValueError(f"{readable(str(folder))}: none of its files is a readable image")
        return ImageSet.build(images, labels, names)

    def _report(self, file: File, reason: str, problems: list[tuple[str, str]]) -> None:
        report(self.root, file.name, reason, problems, self.on_corrupt)

    def _class_folders(self, split: str) -> dict[str, Path]:
        """Class folders of a split, sorted by name, links resolved; notes down files that lie beside them."""
        problems = self._listing_problems[split] = []
        folder = self._within_root(self.root / split)
        found: dict[str, Path] = {}
        for entry in _entries(folder):
            path = self.root / split / entry.name
            if entry.is_dir():
                found[entry.name] = self._within_root(path)
            else:
                self._report(File(str(path), f"{split}/{entry.name}"), "a file outside the class folders", problems)
        if not found:
            raise ValueError(f"{readable(str(self.root / split))}: no class folders in it")
        return found

    def _list(self, split: str, folders: dict[str, Path]) -> list[tuple[File, int]]:
        files: list[tuple[File, int]] = []
        for name, folder in folders.items():
            shown = readable(str(self.root / split / name))
            if name not in self.classes:
                raise ValueError(f"{shown}: a class that {readable(str(self.root / 'train'))} does not have")
            count = len(files)
            for file in self._walk(folder, f"{split}/{name}", (folder,)):
                if file.problem is not None:
                    self._report(file, file.problem, self._listing_problems[split])
                else:
                    files.append((file, self.classes.index(name)))
            if len(files) == count:
                raise ValueError(f"{shown}: a class folder without images")
        return files

    def _walk(self, folder: Path, prefix: str, chain: tuple[Path, ...]) -> Iterator[File]:
        """All files below a folder; `chain` holds the folders above it, by which a link back to one of them is seen."""
        for entry in _entries(folder):
            name = f"{prefix}/{entry.name}"
            path = os.path.join(folder, entry.name)
            if entry.is_symlink():
                try:
                    target = Path(path).resolve(strict=True)
                except (OSError, RuntimeError):  # RuntimeError is Python 3.11's word for a loop
                    yield File(path, name, "a broken link")
                    continue
                if not target.is_relative_to(self.root):
                    yield File(path, name, "a link that leads out of data.root")
                    continue
                if target in chain:
                    yield File(path, name, "a link to a folder that it lies in")
                    continue
                path = str(target)
            if entry.is_dir():
                yield from self._walk(Path(path), name, (*chain, Path(path)))
            elif not entry.is_file():
                yield File(path, name, "not a regular file")
            elif os.path.splitext(entry.name)[1].lower() not in EXTENSIONS:
                yield File(path, name, "not an image by its extension")
            else:
                yield File(path, name)

    def _within_root(self, folder: Path) -> Path:
        """The folder with links resolved, refused if that leads out of the root."""
        resolved = folder.resolve()
        if not resolved.is_relative_to(self.root):
            raise ValueError(f"{readable(str(folder))}: a link that leads out of data.root")
        return resolved


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    """What lies in a folder, sorted by name, without hidden files and what file managers leave behind."""
    with os.scandir(folder) as entries:
        kept = [entry for entry in entries if not entry.name.startswith(".") and entry.name.lower() not in JUNK]
    return sorted(kept, key=lambda entry: entry.name)
