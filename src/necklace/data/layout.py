"""How a folder of images is laid out: which of its folders are splits, or classes, and what of it decides nothing.

Read are `ROOT/train/CLASS/` with `val` and `test` beside it, each also by other common names in any case, and `ROOT/CLASS/`.
Everything else that holds images stops the run: an image is never left out without a word.
"""

import os
import re
from dataclasses import dataclass
from pathlib import Path

from necklace.data.files import readable
from necklace.data.formats import EXTENSIONS, HEAD_BYTES, OTHER_EXTENSIONS, content_of, is_image
from necklace.data.images import SPLIT_NAMES, SplitName
from necklace.data.names import is_litter, looks_like_a_split, split_of_name

# Texts about the data, beside the folders of splits and classes.
_ABOUT = re.compile(
    r"(readme|license|licence|copying|changelog|citation|_?classes|_?labels?|_?annotations|data|dataset|metadata|index)"
    r"([._-].*)?\.(txt|md|rst|csv|tsv|json|ya?ml|html?|pdf)|[^.]*\.(md|rst|ya?ml|toml|csv|tsv|json|jsonl)|(readme|license)",
    re.IGNORECASE,
)
_ARCHIVES = (".zip", ".tar", ".tgz", ".gz", ".xz", ".7z", ".rar")
_EXPECTED = "images are expected in train/CLASS/, with val/CLASS/ and test/CLASS/ beside it, or in CLASS/ alone"


@dataclass(frozen=True)
class Layout:
    """What a root holds.

    Attributes:
        splits: Split to the name of its folder; empty if the classes lie directly in the root.
        classes: Names of the class folders in the root, sorted; empty if there are splits.
        loose: Names of images beside these folders.
    """

    splits: dict[SplitName, str]
    classes: list[str]
    loose: list[str]


def entries(folder: Path) -> list[os.DirEntry[str]]:
    """Return the entries of a folder, sorted by name, without litter."""
    with os.scandir(folder) as found:
        kept = [entry for entry in found if not is_litter(entry.name)]
    return sorted(kept, key=lambda entry: entry.name)


def is_about(name: str) -> bool:
    """Whether a file beside folders of splits or classes is a text about the data, such as `README.txt` or `_classes.csv`."""
    return _ABOUT.fullmatch(name) is not None


def is_image_file(path: str) -> bool:
    """Whether a file is an image by its extension or, if it has none, by its first bytes."""
    extension = os.path.splitext(path)[1].lower()
    if extension:
        return extension in EXTENSIONS or extension in OTHER_EXTENSIONS
    try:
        with open(path, "rb") as file:
            found = content_of(file.read(HEAD_BYTES))
    except OSError:
        return False
    return found is not None and is_image(found[0])


def holds_images(folder: Path) -> bool:
    """Whether there is an image in a folder or below it; a folder that is a link counts as one that holds some."""
    if folder.is_symlink():
        return True
    below = []
    for entry in entries(folder):
        if entry.is_dir():
            below.append(Path(entry.path))
        elif entry.is_file() and is_image_file(entry.path):
            return True
    return any(holds_images(path) for path in below)


def layout_of(root: Path) -> Layout:
    """Find the splits or the classes of a root.

    Args:
        root: The folder, which exists.

    Raises:
        FileNotFoundError: There is no training split and there are no class folders.
        ValueError: A folder beside the splits holds images and is none, two folders are one split, or the layout is another.
    """
    shown = f"data.root={readable(str(root))}"
    found = entries(root)
    folders = [entry.name for entry in found if entry.is_dir()]
    files = [entry for entry in found if not entry.is_dir()]
    loose = [entry.name for entry in files if entry.is_file() and is_image_file(entry.path)]
    splits: dict[SplitName, str] = {}
    for name in folders:
        split = split_of_name(name)
        if split in splits:
            raise ValueError(f"{shown}: {splits[split]}/ and {name}/ are both its {split} split: keep one of them")
        if split is not None:
            splits[split] = name
    _check_files(shown, files, splits)
    _check_other_layouts(shown, root, folders)
    if not splits:
        return Layout({}, _flat_classes(shown, root, folders, loose), loose)
    if "train" not in splits:
        listed = " and ".join(f"{name}/" for name in splits.values())
        raise FileNotFoundError(
            f"{shown} has no folder train/ beside {listed} ({_EXPECTED}; a class folder named like a split goes into train/)"
        )
    unknown = [name for name in folders if split_of_name(name) is None and holds_images(root / name)]
    if unknown:
        listed = ", ".join(f"{readable(name)}/" for name in unknown[:5]) + (", ..." if len(unknown) > 5 else "")
        raise ValueError(
            f"{shown}: images in {listed} beside {splits['train']}/, which no split is called: rename it to train, val or test "
            "(valid, validation, dev and the like count as well), move it out of this folder, or, if it is a class, into train/"
        )
    return Layout({name: splits[name] for name in SPLIT_NAMES if name in splits}, [], loose)


def _check_files(shown: str, files: list[os.DirEntry[str]], splits: dict[SplitName, str]) -> None:
    """Check that no split is there as a broken link or as an archive only.

    Raises:
        ValueError: One is.
    """
    for entry in files:
        if entry.is_symlink() and not os.path.exists(entry.path) and split_of_name(entry.name):
            raise ValueError(f"{shown}: {readable(entry.name)} is a broken link")
        stem, extension = os.path.splitext(entry.name.lower().replace(".tar.", "."))
        split = split_of_name(stem)
        if extension in _ARCHIVES and split is not None and split not in splits:
            raise ValueError(f"{shown}: {readable(entry.name)} is not unpacked: unpack it, or move it out of this folder")


def _check_other_layouts(shown: str, root: Path, folders: list[str]) -> None:
    """Check that it is not one of the known layouts that are not made of class folders.

    Raises:
        ValueError: It is.
    """
    names = {name.lower(): name for name in folders}
    if "annotations" in names and "jpegimages" in names:
        raise ValueError(
            f"{shown} has Annotations/ and JPEGImages/, the layout of Pascal VOC: data=voc task=multilabel or "
            "task=detection reads it"
        )
    if "images" in names and "labels" in names and not holds_images(root / names["labels"]):
        raise ValueError(f"{shown} has images/ and labels/, the layout of YOLO: data=yolo task=detection reads it")


def _flat_classes(shown: str, root: Path, folders: list[str], loose: list[str]) -> list[str]:
    """The class folders of a root without splits.

    Raises:
        FileNotFoundError: There are none.
        ValueError: There is only one, or its folders look like splits.
    """
    for name in folders:
        inside = [entry.name for entry in entries(root / name) if entry.is_dir()]
        if "train" in map(split_of_name, inside):
            raise FileNotFoundError(
                f"{shown} has no folder train/, but {name}/ has one: data.root={readable(str(root / name))}"
            )
    images = [name for name in folders if holds_images(root / name)]
    if not images:
        what = f"{len(loose)} images and no class folders" if loose else "no class folders with images either"
        raise FileNotFoundError(f"{shown} has no folder train/, and {what} ({_EXPECTED})")
    alike = [name for name in images if looks_like_a_split(name)]
    if len(alike) > 1 or len(alike) == len(images):
        listed = ", ".join(f"{readable(name)}/" for name in alike)
        raise ValueError(f"{shown}: {listed} look like splits: name them train, val and test ({_EXPECTED})")
    if len(images) == 1:
        raise ValueError(
            f"{shown} has no folder train/, and only one folder with images, {readable(images[0])}/: two classes are the least "
            f"({_EXPECTED}; if its folders are the classes: data.root={readable(str(root / images[0]))})"
        )
    return folders


def why_no_classes(folder: Path) -> str:
    """Return why a split folder without class folders cannot be used.

    Args:
        folder: The folder.
    """
    names = [entry.name for entry in entries(folder)]
    small = [name.lower() for name in names]
    images = sum(is_image_file(str(folder / name)) for name in names)
    if not images:
        return "no class folders in it"
    start = f"{images} images and no class folders"
    if "_classes.csv" in small:
        return f"{start}: _classes.csv is an export with several labels an image, which is not read; export it as folders"
    if any(name.endswith(".xml") for name in small):
        return f"{start}, but annotations in XML: data=voc task=multilabel or task=detection reads such"
    if any(name.endswith((".coco.json", "coco.json")) for name in small):
        return f"{start}, but annotations in COCO's format: data=coco task=detection reads such"
    return f"{start}, so their labels are not known (expected: {readable(folder.name)}/CLASS/)"


def check_class_folders(folder: Path, names: list[str]) -> None:
    """Check that the folders in a training split are classes.

    Args:
        folder: The split.
        names: Its folders.

    Raises:
        ValueError: They are `images` and `labels`, or one folder that holds the real ones.
    """
    shown, small = readable(str(folder)), {name.lower(): name for name in names}
    if "images" in small and "labels" in small and not holds_images(folder / small["labels"]):
        raise ValueError(f"{shown} has images/ and labels/, the layout of YOLO: data=yolo task=detection reads it")
    if len(names) != 1 or (folder / names[0]).is_symlink():
        return
    inside = entries(folder / names[0])
    below = [entry.name for entry in inside if entry.is_dir()]
    if below and not any(is_image_file(entry.path) for entry in inside if entry.is_file()):
        listed = ", ".join(map(readable, below[:3])) + (", ..." if len(below) > 3 else "")
        raise ValueError(
            f"{shown}: {readable(names[0])}/ is its only class folder and holds no image but folders ({listed}): "
            f"if these are the classes, move them up into {readable(folder.name)}/"
        )
