"""Where images and VOC annotations lie: which folders hold them, and what says which split they belong to.

| splits | images and annotations |
|---|---|
| lists: `ImageSets/Main/train.txt`, or `ImageSets/train.txt`, or `train.txt` | `JPEGImages/`, `Annotations/` |
| folders: `train/`, `valid/`, `test/` (Roboflow) | beside each other in each, or in its `images/` and `annotations/` |
| folders below: `images/train/`, `annotations/train/` | in these |
| none | `JPEGImages/`, `Annotations/`, or beside each other |

`images/`, `imgs/` and the like stand for `JPEGImages/`, and `xmls/`, `labels/` and the like for `Annotations/`, in any case.
What looks like a split is taken as that split, or it is an error. No file outside the root is read.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from necklace.data.files import File, readable
from necklace.data.images import SPLIT_NAMES, SplitName
from necklace.data.names import SplitWord, looks_like_a_split, split_of
from necklace.data.splits import TEST_FRACTION
from necklace.data.tree import Tree
from necklace.data.voc_lists import find_lists

IMAGE_FOLDERS = frozenset(("jpegimages", "images", "image", "imgs", "img", "pngimages"))
ANNOTATION_FOLDERS = frozenset(("annotations", "annotation", "xml", "xmls", "labels", "label", "anns", "ann"))


@dataclass
class Shelf:
    """The images and annotations of one split, or of all, by their name without extension.

    Attributes:
        folder: Where the images are.
        annotation_folder: Where the annotations are.
        images: Name to the images of that name; there should be one.
        annotations: Name to the annotations of that name; there should be one.
        strays: Name to a file of that name that is neither, nor text.
    """

    folder: Path
    annotation_folder: Path
    images: dict[str, list[File]] = field(default_factory=dict)
    annotations: dict[str, list[File]] = field(default_factory=dict)
    strays: dict[str, str] = field(default_factory=dict)


@dataclass
class Layout:
    """What was found.

    Attributes:
        shelves: The images and annotations by split; None for all splits.
        list_folder: The folder of the lists, if there are lists.
        lists: The name of the list of each split.
        other_lists: Names of the other files beside the lists.
        notes: What is there and not read.
    """

    shelves: dict[SplitName | None, Shelf]
    list_folder: Path | None = None
    lists: dict[SplitWord, str] = field(default_factory=dict)
    other_lists: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def test_share(self, asked: float | None) -> float:
        """The share of the images that becomes test where nothing says which ones are.

        Raises:
            ValueError: It is out of range, or lists or folders say which ones are.
        """
        if asked is not None and (self.lists or None not in self.shelves):
            raise ValueError(f"data.test_fraction={asked}: lists or folders say which images are for test already")
        if asked is not None and not 0 < asked < 1:
            raise ValueError(f"data.test_fraction={asked}: must lie between 0 and 1")
        return TEST_FRACTION if asked is None else asked


def find_layout(tree: Tree, base: Path, background: bool = False) -> Layout:
    """Find images, annotations and splits.

    Args:
        tree: The folders.
        base: The folder to search.
        background: Whether a folder for a split may have no annotations.

    Raises:
        FileNotFoundError: There are no images or no annotations.
        ValueError: It is not clear which they are, or which split they belong to.
    """
    splits = _split_folders(tree, base)
    places = _places(tree, base)
    list_folder, lists, others = _lists(tree, base)
    if splits and any(_holds(tree, base / name) for name in splits.values()):
        if places or lists:
            other = list_folder if lists else places[0] if places else base
            raise ValueError(
                f"{readable(str(base))}: two things say which images belong to which split: the folder "
                f"{next(iter(splits.values()))}/, and {readable(str(other))}: keep one of them"
            )
        layout = Layout({split: _shelf(tree, base / name, background) for split, name in splits.items()})
        layout.notes += _beside(tree, base, "images", splits.values()) + _beside(tree, base, "annotations", splits.values())
        layout.notes += _unread(tree, base, layout.shelves.values())
        return layout
    if not places:
        raise FileNotFoundError(_nothing_found(tree, base))
    layout = Layout({None: _filled(tree, *places)}, list_folder, lists, others)
    for place, kind in zip(places, ("images", "annotations"), strict=True):
        layout.notes += _beside(tree, base, kind, [place.name]) if place != base else []
    below = [_split_folders(tree, place) if place != base else {} for place in places]
    if any(below) and not any(_direct(tree, place) for place in places):
        if lists:
            raise ValueError(f"{list_folder}: lists, and {places[0]} has a folder for each split: keep one of them")
        if below[0].keys() != below[1].keys():
            raise ValueError(f"{places[0]} and {places[1]}: must have the same folders for the splits")
        layout.shelves = {
            split: _filled(tree, places[0] / name, places[1] / below[1][split]) for split, name in below[0].items()
        }
    elif any(_holds(tree, place / name) for place, found in zip(places, below, strict=True) for name in found.values()):
        raise ValueError(f"{places[0]} and {places[1]}: images or annotations lie in them and in folders for splits below")
    layout.notes += [f"the folder {readable(name)}/ holds no image and is not read" for name in splits.values()]
    layout.notes += _unread(tree, base, layout.shelves.values())
    return layout


def official_layout(tree: Tree, folder: Path) -> Layout:
    """The layout of PASCAL's own sets.

    Raises:
        FileNotFoundError: A folder is missing.
        ValueError: A folder leads out of the root.
    """
    for name in ("Annotations", "ImageSets/Main", "JPEGImages"):
        if not (folder / name).is_dir():
            raise FileNotFoundError(f"{readable(str(folder / name))}: no such folder")
    tree.resolved(folder / "ImageSets/Main")
    lists, others = find_lists(folder / "ImageSets/Main", all_files=True)
    shelf = _filled(tree, folder / "JPEGImages", folder / "Annotations")
    return Layout({None: shelf}, folder / "ImageSets/Main", lists, others)


def _filled(tree: Tree, images: Path, annotations: Path) -> Shelf:
    return Shelf(images, annotations, tree(images).images, tree(annotations).annotations, tree(images).strays)


def _shelf(tree: Tree, folder: Path, background: bool) -> Shelf:
    """The shelf of a folder for one split.

    Raises:
        ValueError: It has no images, no annotations, or lists.
    """
    shown = readable(str(folder))
    places = _places(tree, folder)
    lists = _lists(tree, folder)
    if lists[1]:
        raise ValueError(f"{shown}: a folder for a split, and lists in {readable(str(lists[0]))}: keep one of them")
    if places:
        return _filled(tree, *places)
    if background:
        named = [folder / name for name in tree(folder).folders if name.casefold() in IMAGE_FOLDERS]
        holding = [path for path in (*named, folder) if tree(path).images]
        if holding:
            return _filled(tree, holding[0], holding[0])
    deeper = [name for name in tree(folder).folders if any(tree(folder / name).images)]
    found = sum(map(len, tree(folder).images.values())) + sum(len(tree(folder / name).images) for name in deeper)
    if not found:
        raise ValueError(f"{shown}: a folder for a split without images")
    hint = ""
    if any(name.casefold() not in IMAGE_FOLDERS for name in deeper):
        hint = "; a folder for each class is data=folder"
    places = [folder, *(folder / name for name in tree(folder).folders if name.casefold() in ANNOTATION_FOLDERS)]
    texts = [
        f"{place.name}/{name}" for place in places for name in tree(place).files if name.endswith((".json", ".csv", ".txt"))
    ]
    texts = [name for name in texts if not Path(name).name.lower().startswith("readme")]
    if texts:
        reader = {".json": "data=coco reads COCO's", ".txt": "data=yolo reads YOLO's"}.get(texts[0][texts[0].rindex(".") :])
        hint = f"; other annotations, such as {readable(texts[0])}, are not read: {reader or 'export them as Pascal VOC'}"
    raise ValueError(f"{shown}: {found} images and no XML annotation{hint}")


def _beside(tree: Tree, base: Path, kind: str, folders: Iterable[str]) -> list[str]:
    """Say which images or annotations lie beside the folders that are read."""
    found: list[File] = [file for files in getattr(tree(base), kind).values() for file in files]
    first = min((Path(file.name).name for file in found), default="")
    read = ", ".join(f"{readable(name)}/" for name in folders)
    return [f"{kind} beside {read}, not read: {len(found)} (first: {readable(first)})"] if found else []


def _unread(tree: Tree, base: Path, shelves: Iterable[Shelf]) -> list[str]:
    """Say which folders hold images or annotations and are not read.

    Raises:
        ValueError: One of them looks like a split.
    """
    used = {path for shelf in shelves for path in (shelf.folder, shelf.annotation_folder)}
    used |= {above for path in used for above in path.parents if above.is_relative_to(base)}
    notes = []
    for place in sorted(used):
        for name in tree(place).folders:
            path = place / name
            if path in used or not _holds(tree, path):
                continue
            if looks_like_a_split(name):
                raise ValueError(f"{readable(str(path))}: looks like a split in another folder of images: move it away")
            # Official sets have folders of pictures beside JPEGImages/ for other tasks, such as SegmentationClass/.
            if place != base or base in (shelf.folder for shelf in shelves) or _holds_annotations(tree, path):
                notes.append(f"the folder {readable(str(path.relative_to(base)))}/ is not read")
    return notes


def _holds_annotations(tree: Tree, path: Path) -> bool:
    if not tree.allows(path.resolve()):
        return True
    return bool(tree(path).annotations) or any(_holds_annotations(tree, path / name) for name in tree(path).folders)


def _places(tree: Tree, base: Path) -> tuple[Path, Path] | tuple[()]:
    """Return the folder of the images and that of the annotations; empty if one of them is not there.

    Raises:
        ValueError: There are several.
    """
    found: list[Path] = []
    # Named folders come first, so that a picture beside them does not count.
    for names, kind in ((IMAGE_FOLDERS, "images"), (ANNOTATION_FOLDERS, "annotations")):
        named = [base / name for name in tree(base).folders if name.casefold() in names]
        holding = [path for path in named if getattr(tree(path), kind)]
        holding = holding or [path for path in named if _split_folders(tree, path) and _holds(tree, path)]
        if len(holding) > 1:
            raise ValueError(
                f"{readable(str(base))}: {kind} in both {holding[0].name}/ and {holding[1].name}/: keep one of them"
            )
        if holding and tree(base).images and tree(base).annotations:
            raise ValueError(
                f"{readable(str(base))}: {kind} in {holding[0].name}/, and images and annotations beside it: keep one of them"
            )
        if not holding and getattr(tree(base), kind):
            holding = [base]
        found += holding
    return (found[0], found[1]) if len(found) == 2 else ()


def _direct(tree: Tree, path: Path) -> bool:
    return bool(tree(path).images or tree(path).annotations)


def _holds(tree: Tree, path: Path, depth: int = 2) -> bool:
    """Whether images or annotations lie in a folder, or in one below, or may do so behind a link out of the root."""
    if not tree.allows(path.resolve()):
        return True
    return _direct(tree, path) or (depth > 0 and any(_holds(tree, path / name, depth - 1) for name in tree(path).folders))


def _split_folders(tree: Tree, base: Path) -> dict[SplitName, str]:
    """Return the folders of a folder that are for a split.

    Raises:
        ValueError: Two are for one split, or it is unclear what one is for.
    """
    found: dict[SplitName, str] = {}
    for name in tree(base).folders:
        word, shown = split_of(name), readable(str(base / name))
        if word == "unclear":
            raise ValueError(f"{shown}: may be for validation or for the test: rename it to val or test")
        if word == "trainval" or (word is None and looks_like_a_split(name) and _holds(tree, base / name)):
            raise ValueError(f"{shown}: looks like a split, but is none of train, val and test: rename it or move it away")
        if word is None:
            continue
        if word in found:
            raise ValueError(f"{readable(str(base))}: {found[word]}/ and {name}/ are both for {word}: keep one of them")
        found[word] = name
    return {split: found[split] for split in SPLIT_NAMES if split in found}


def _lists(tree: Tree, base: Path) -> tuple[Path | None, dict[SplitWord, str], list[str]]:
    """Return the folder of the lists, the list of each split, and the other files in that folder.

    Raises:
        ValueError: There are lists in several folders, or it is unclear what one is for.
    """
    main, sets = base / "ImageSets/Main", base / "ImageSets"
    places = [path for path in (main, sets) if path.is_dir()]
    found = {}
    for path in [*places, base]:
        tree.resolved(path)
        found[path] = find_lists(path, all_files=path != base)
    holding = [path for path, (lists, _) in found.items() if lists]
    if len(holding) > 1:
        raise ValueError(f"lists in both {readable(str(holding[0]))} and {readable(str(holding[1]))}: keep one of them")
    chosen = (holding or places or [None])[0]
    return (chosen, *found[chosen]) if chosen else (None, {}, [])


def _nothing_found(tree: Tree, base: Path) -> str:
    """Say what is missing, and where it may be."""
    nested = list(_nested(tree, base))
    if nested:
        return f"{readable(str(base))}: no images with annotations; did you mean data.root={readable(str(nested[0]))}?"
    missing = [name for name in ("Annotations", "JPEGImages") if not (base / name).is_dir()]
    below = [name for name in tree(base).folders if name.casefold() in IMAGE_FOLDERS and _holds(tree, base / name)]
    empty = f"{base}: images lie in folders below {below[0]}/" if below else f"{base}: no images, or no annotations"
    what = f"{base / missing[0]}: no such folder" if missing else empty
    return (
        f"{readable(what)} (expected are Annotations/ and JPEGImages/ with ImageSets/Main/train.txt, or train/, valid/ and "
        "test/ with images and XML files)"
    )


def _nested(tree: Tree, base: Path) -> Iterator[Path]:
    """Yield the folders in a folder that could be data sets."""
    for name in tree(base).folders:
        if not tree.allows((base / name).resolve()):
            continue
        inner = {one.casefold() for one in tree(base / name).folders}
        paired = inner & IMAGE_FOLDERS and inner & ANNOTATION_FOLDERS
        if paired or _direct(tree, base / name) or any(split_of(one) == "train" for one in inner):
            yield base / name
