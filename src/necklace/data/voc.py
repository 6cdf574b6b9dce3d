"""Pascal VOC, and any folder in its layout, as multi-label classification: the classes that an image shows.

`ROOT/Annotations/ID.xml`, `ROOT/JPEGImages/ID.jpg` (or another image format) and `ROOT/ImageSets/Main/train.txt` with one ID a
line, and optionally `val.txt` and `test.txt`. Without `train.txt` and `val.txt`, `trainval.txt` is the training split. With
`year`, these folders are in `ROOT/VOCdevkit/VOC2007`, where torchvision unpacks them. Images are decoded as in `files.py`.
Images and annotations that no list names are ignored.

The checks of an annotation are in `voc_xml.py`. Labels follow VOC: 1 if the image shows an object of the class, 0 if it shows
none, and -1 (ignored in loss and metrics) if all of them are `difficult`.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torchvision.datasets import VOCDetection
from torchvision.datasets.voc import DATASET_YEAR_DICT

from necklace.data.cache import PixelCache, read_split
from necklace.data.download import by_hand, fetch
from necklace.data.files import EXTENSIONS, File, open_root, readable, report, stored_size
from necklace.data.images import SPLIT_NAMES, ImageSet, SplitName
from necklace.data.voc_xml import check_boxes, check_name, labels_of, parse

YEARS = tuple(sorted(year for year in DATASET_YEAR_DICT if year.isdigit()))
# fmt: off
CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog", "horse",
    "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)
# fmt: on
FOLDERS = ("Annotations", "ImageSets/Main", "JPEGImages")
MAX_XML_BYTES = 1 << 24  # the annotation of a crowded image has about 100 kB


@dataclass(frozen=True)
class _Item:
    image: File
    annotation_name: str
    size: tuple[int, int] | None
    labels: dict[str, int]


class Voc:
    """Images with any number of classes each, from annotations in the VOC layout.

    Classes are VOC's 20 with `year`, otherwise those in the annotations of the training split, sorted.

    Attributes:
        root: The folder, with links resolved; no file outside it is read.
        classes: Names of the classes.
    """

    def __init__(
        self,
        root: str | Path,
        year: int | str | None = None,
        download: bool = False,
        on_corrupt: Literal["stop", "skip"] = "stop",
        memory_gib: float = 4,
        cache: str | Path = "outputs/cache",
    ):
        """Read the lists and the annotations; images are decoded when a split is requested.

        Args:
            root: The folder that holds `VOCdevkit/`, or, without `year`, `Annotations/`, `ImageSets/` and `JPEGImages/`.
            year: The year of an official VOC set, or None.
            download: Whether to let torchvision download that year.
            on_corrupt: For a file that cannot be used: `stop` with an error, or `skip` it and list it in `skipped`.
            memory_gib: A split whose pixels need more than this is kept in a file, not in memory.
            cache: Folder for these files.

        Raises:
            FileNotFoundError: A folder or a list is missing.
            ValueError: An option is wrong, or a list or an annotation cannot be used.
        """
        self._cache = PixelCache(cache, memory_gib)
        if year is not None and str(year) not in YEARS:
            raise ValueError(f"data.year={year}: must be {', '.join(YEARS)}, or null for a folder in the VOC layout")
        if download and year is None:
            raise ValueError("data.download=true needs data.year: only the official VOC sets can be downloaded")
        if download:
            Path(root).expanduser().mkdir(parents=True, exist_ok=True)
        wanted = f"; {by_hand(root, [archive for _, archive in _archives(str(year))])}" if year is not None else ""
        try:
            self.root = open_root(root, on_corrupt)
        except FileNotFoundError as error:
            raise FileNotFoundError(f"{error}{wanted}") from None
        self.on_corrupt: Literal["stop", "skip"] = on_corrupt
        self.folder = self.root / DATASET_YEAR_DICT[str(year)]["base_dir"] if year is not None else self.root
        self._inside(self.folder)
        if download:
            self._download(str(year))
        for name in FOLDERS:
            if not (self.folder / name).is_dir():
                if year is None and (self.root / "VOCdevkit").is_dir():
                    wanted = "; for the official sets in VOCdevkit/, set data.year"
                raise FileNotFoundError(f"{readable(str(self.folder / name))}: no such folder{wanted}")
            self._inside(self.folder / name)
        self._images: dict[str, list[str]] = {}
        for path in sorted((self.folder / "JPEGImages").iterdir()):
            if path.suffix.lower() in EXTENSIONS:
                self._images.setdefault(path.stem, []).append(path.name)
        self._listing_problems: dict[str, list[tuple[str, str]]] = {}
        self._decoding_problems: dict[str, list[tuple[str, str]]] = {}
        self._seen: dict[str, str] = {}
        self.classes: tuple[str, ...] = CLASSES if year is not None else ()
        lists = self._lists()
        self._items = {split: self._list(split, name) for split, name in lists.items()}

    @property
    def skipped(self) -> tuple[tuple[str, str], ...]:
        """(path relative to the root, reason) of every file or object left out, for the splits read so far."""
        read = [split for split in SPLIT_NAMES if split in self._decoding_problems]
        return tuple(
            problem for split in read for problem in sorted(self._listing_problems[split] + self._decoding_problems[split])
        )

    def split(self, name: SplitName) -> ImageSet | None:
        """Read and decode the images of a split; None if it has no list. Labels are int8 `[N, K]`."""
        if name not in self._items:
            return None
        items = self._items[name]

        def misfit(index: int, height: int, width: int) -> tuple[str, str] | None:
            """Return the annotation and the reason if its <size> does not match the image."""
            stated = items[index].size
            if stated in (None, (width, height)) or stated == stored_size(items[index].image.path):
                return None
            return items[index].annotation_name, f"<size> is {stated[0]}x{stated[1]}, the image is {width}x{height}"

        labels = [[item.labels.get(label, 0) for label in self.classes] for item in items]
        images, self._decoding_problems[name] = read_split(
            self.root,
            [item.image for item in items],
            torch.tensor(labels, dtype=torch.int8).view(len(items), len(self.classes)),
            [str(Path(item.image.name).relative_to(self.folder.relative_to(self.root))) for item in items],
            self.on_corrupt,
            self._cache,
            misfit,
        )
        if not len(images):
            raise ValueError(f"{readable(str(self.folder))}: no image of the {name} split can be used")
        return images

    def _lists(self) -> dict[str, str]:
        """Return the split and the name of its list, for each split that has one."""
        folder = self.folder / "ImageSets/Main"
        lists = {split: f"{split}.txt" for split in SPLIT_NAMES if os.path.lexists(folder / f"{split}.txt")}
        if "train" not in lists:
            if "val" in lists or not (folder / "trainval.txt").exists():
                raise FileNotFoundError(f"{readable(str(folder / 'train.txt'))}: no such file")
            lists = {"train": "trainval.txt"} | lists
        return lists

    def _list(self, split: str, list_name: str) -> list[_Item]:
        """Read a list and the annotations of its images.

        Raises:
            ValueError: The list is empty or not a file, or a file cannot be used and `on_corrupt` is `stop`.
        """
        problems = self._listing_problems[split] = []
        path = self._inside(self.folder / "ImageSets/Main" / list_name)
        list_name = self._name("ImageSets/Main", list_name)
        if not path.is_file():
            raise ValueError(f"{readable(str(path))}: not a regular file")
        # bytes.splitlines() splits at line ends only; str.splitlines() also splits at rare characters that a name may have.
        lines = [line.decode("utf-8", "surrogateescape").strip("\ufeff \t") for line in path.read_bytes().splitlines()]
        items = []
        for number, name in enumerate(lines, 1):
            if not name:
                continue
            try:
                check_name(name, f"line {number}:")
                if name in self._seen:
                    raise ValueError(f"line {number}: {name!r} is listed already, in {self._seen[name]}")
            except ValueError as error:
                report(self.root, list_name, str(error), problems, self.on_corrupt)
                continue
            self._seen[name] = list_name
            item = self._item(name, problems)
            if item is not None:
                items.append(item)
        if not any(lines):
            raise ValueError(f"{readable(str(path))}: the list is empty")
        if split == "train" and not self.classes:
            self.classes = tuple(sorted({name for item in items for name in item.labels}))
            if not self.classes:
                raise ValueError(f"{readable(str(path))}: no annotation of its images can be used and names an object")
        return [item for item in items if self._knows_classes(item, problems)]

    def _knows_classes(self, item: _Item, problems: list[tuple[str, str]]) -> bool:
        unknown = sorted(set(item.labels) - set(self.classes))
        if unknown:
            known = ", ".join(self.classes)
            report(self.root, item.annotation_name, f"class {unknown[0]!r} is none of {known}", problems, self.on_corrupt)
        return not unknown

    def _item(self, name: str, problems: list[tuple[str, str]]) -> _Item | None:
        """Return the image of that name with its annotation, checked; None if it is skipped because of a problem."""
        found = self._images.get(name, [])
        image_name = self._name("JPEGImages", found[0] if found else f"{name}.jpg")
        annotation_name = checked = self._name("Annotations", f"{name}.xml")
        try:
            path = self._file(self.root / annotation_name)
            if path.stat().st_size > MAX_XML_BYTES:
                raise ValueError(f"larger than {MAX_XML_BYTES >> 20} MiB")
            annotation = parse(path.read_bytes())
            checked = image_name
            if len(found) > 1:
                raise ValueError(f"one of several images of that name: {', '.join(found)}")
            image = File(str(self._file(self.root / image_name)), image_name)
            size = annotation.size or stored_size(image.path)
            checked = annotation_name
            notes = check_boxes(annotation, size)
        except (ValueError, OSError) as error:
            reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
            report(self.root, checked, reason, problems, self.on_corrupt)
            return None
        problems += [(annotation_name, note) for note in notes]
        return _Item(image, annotation_name, annotation.size, labels_of(annotation.objects))

    def _name(self, folder: str, name: str) -> str:
        return str((self.folder / folder / name).relative_to(self.root))

    def _file(self, path: Path) -> Path:
        """Resolve the links of a file.

        Raises:
            ValueError: It does not exist, is not a regular file, or lies outside the root.
        """
        try:
            resolved = path.resolve(strict=True)
        except FileNotFoundError:
            if path.is_symlink():
                raise ValueError("a broken link") from None
            other = "annotation" if path.parent.name == "JPEGImages" else "image"
            raise ValueError(f"the {other} is listed, but this file does not exist") from None
        except RuntimeError:  # Python 3.11 raises it for a loop of links
            raise ValueError("a broken link") from None
        if not resolved.is_relative_to(self.root):
            raise ValueError("a link that leads out of data.root")
        if not resolved.is_file():
            raise ValueError("not a regular file")
        return resolved

    def _inside(self, path: Path) -> Path:
        """Resolve the links of a path.

        Raises:
            ValueError: It leads out of the root.
        """
        try:
            resolved = path.resolve()
        except RuntimeError:  # as in _file()
            raise ValueError(f"{readable(str(path))}: a broken link") from None
        if not resolved.is_relative_to(self.root):
            raise ValueError(f"{readable(str(path))}: a link that leads out of data.root")
        return resolved

    def _download(self, year: str) -> None:
        """Let torchvision download the incomplete parts only: it would unpack complete ones again each time."""
        missing = [pair for pair in _archives(year) if not self._is_complete(pair[0])]
        for index, (split, _) in enumerate(missing):
            archives = [archive for _, archive in missing[index:]]
            fetch(
                lambda s=split: VOCDetection(str(self.root), year, s, download=True),
                lambda s=split: self._is_complete(s),
                self.root,
                archives,
            )

    def _is_complete(self, split: str) -> bool:
        """Whether all images of a list and their annotations exist."""
        try:
            names = (self.folder / "ImageSets/Main" / f"{split}.txt").read_text("utf-8", "replace").split()
            files = {path.name for name in ("Annotations", "JPEGImages") for path in (self.folder / name).iterdir()}
        except OSError:
            return False
        return bool(names) and all(f"{name}.xml" in files and f"{name}.jpg" in files for name in names)


def _archives(year: str) -> list[tuple[str, str]]:
    """Return (split, name of its archive) for each archive of a year."""
    keys = [("trainval", year)] + ([("test", "2007-test")] if year == "2007" else [])
    return [(split, DATASET_YEAR_DICT[key]["filename"]) for split, key in keys]
