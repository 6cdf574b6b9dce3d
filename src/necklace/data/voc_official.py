"""PASCAL's own VOC sets: their years, their classes, and their download by torchvision."""

from pathlib import Path

from torchvision.datasets import VOCDetection
from torchvision.datasets.voc import DATASET_YEAR_DICT

from necklace.data.download import fetch

YEARS = tuple(sorted(year for year in DATASET_YEAR_DICT if year.isdigit()))
# fmt: off
CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog", "horse",
    "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)
# fmt: on


def base_of(year: str) -> str:
    """The folder below the root in which torchvision unpacks a year."""
    return DATASET_YEAR_DICT[year]["base_dir"]


def archives_of(year: str) -> list[str]:
    """Names of the archives of a year."""
    return [archive for _, archive in _archives(year)]


def download(root: Path, year: str) -> None:
    """Let torchvision download the incomplete parts of a year only: it would unpack complete ones again each time."""
    folder = root / base_of(year)
    missing = [pair for pair in _archives(year) if not _is_complete(folder, pair[0])]
    for index, (split, _) in enumerate(missing):
        fetch(
            lambda s=split: VOCDetection(str(root), year, s, download=True),
            lambda s=split: _is_complete(folder, s),
            root,
            [archive for _, archive in missing[index:]],
        )


def _is_complete(folder: Path, split: str) -> bool:
    """Whether all images of a list and their annotations exist."""
    try:
        names = (folder / "ImageSets/Main" / f"{split}.txt").read_text("utf-8", "replace").split()
        files = {path.name for name in ("Annotations", "JPEGImages") for path in (folder / name).iterdir()}
    except OSError:
        return False
    return bool(names) and all(f"{name}.xml" in files and f"{name}.jpg" in files for name in names)


def _archives(year: str) -> list[tuple[str, str]]:
    """Return (split, name of its archive) for each archive of a year."""
    keys = [("trainval", year)] + ([("test", "2007-test")] if year == "2007" else [])
    return [(split, DATASET_YEAR_DICT[key]["filename"]) for split, key in keys]
