"""COCO's layout: images with annotations in JSON, one file for each split or one for all.

| `annotations` | splits |
|---|---|
| `{train: a.json, val: b.json}` | these |
| a file | all images; test is split off by a rule, then val |
| null | the JSON file in each of `train/`, `valid/`, `test/` (Roboflow) |
| null | `annotations/` with files named after their splits, such as `instances_train2017.json`, or with one for all |
| null | these files in the root |

Images lie in the folder where most of the names in a file are found: beside it, in the root, or in a folder of these whose name
is a split's, or is a part of the file's name (`train2017/`), or says that it has images. Each name has to lead to a file inside
the root, unless `links` says otherwise. Classes are in the order of their ids.
"""

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal

from necklace.data.boxed_source import BoxedSource, Entry
from necklace.data.coco_json import CocoFile, read_coco
from necklace.data.files import MAX_PIXELS, readable
from necklace.data.images import SPLIT_NAMES, SplitName
from necklace.data.names import split_of
from necklace.data.voc_layout import ANNOTATION_FOLDERS, IMAGE_FOLDERS

_SAMPLE = 50  # names that say which folder the images are in


class Coco(BoxedSource):
    """Images with boxes, from annotations in COCO's JSON. See the module's docstring."""

    def __init__(  # noqa: PLR0913, the options of its config
        self,
        root: str | Path,
        annotations: str | Mapping[str, str] | None = None,
        on_corrupt: Literal["stop", "skip"] = "stop",
        memory_gib: float = 4,
        cache: str | Path | None = None,
        test_fraction: float | None = None,
        max_pixels: int = MAX_PIXELS,
        links: Literal["inside", "follow"] = "inside",
        boxes: bool = False,
    ):
        """Read the annotations; images are decoded when a split is requested.

        Args:
            root: The folder that holds images and annotations.
            annotations: Path of the file below the root, or split to path; None: they are searched.
            on_corrupt: For files that cannot be used: `stop` with an error, or `skip` them and list them in `skipped`.
            memory_gib: Batches of a split whose pixels need more than this are made from a file, not from memory.
            cache: Folder for files of decoded images, see `cache.py`; None: each process decodes them into memory.
            test_fraction: Share of the images that is split off as test where one file has all; None for `TEST_FRACTION`.
            max_pixels: An image of more pixels is a file that cannot be used.
            links: Which links are followed: those that stay `inside` the root, or all of them (`follow`).
            boxes: Whether the images come with boxes, or with labels alone.

        Raises:
            FileNotFoundError: The root, the annotations or the folder of the images does not exist.
            ValueError: An option is wrong, a file is none of COCO's, or an image cannot be used.
        """
        super().__init__(root, on_corrupt, memory_gib, cache, test_fraction, max_pixels, links, boxes)
        paths = self._given(annotations) if annotations is not None else self._searched()
        files: dict[SplitName, CocoFile] = {}
        for split, path in paths.items():
            try:
                files[split or "train"] = read_coco(path)
            except ValueError as error:
                raise ValueError(f"{readable(str(path))}: {readable(str(error))}") from None
        self.classes, places = self._classes(files)
        found: dict[SplitName, list[Entry]] = {}
        for split, path in paths.items():
            found[split or "train"] = self._entries(split or "train", path, files[split or "train"], places)
        self._count_unused(found)
        self._use(found, divided=None not in paths)

    def _given(self, annotations: str | Mapping[str, str]) -> dict[SplitName | None, Path]:
        """The files that the option names.

        Raises:
            FileNotFoundError: One does not exist.
            ValueError: The option is wrong, or a file is outside the root.
        """
        splits: dict[str | None, str] = {None: annotations} if isinstance(annotations, str) else {**annotations}
        unknown = [str(name) for name in splits if name not in (*SPLIT_NAMES, None)]
        if unknown or not splits or ("train" not in splits and None not in splits):
            raise ValueError(
                f"data.annotations={annotations}: must be a path, or paths of train and, if there are, val and test"
            )
        found: dict[SplitName | None, Path] = {}
        for split in (*SPLIT_NAMES, None):
            if split not in splits:
                continue
            path = self.root / splits[split]
            resolved = self._tree.resolved(path)
            if resolved.is_dir():
                raise ValueError(f"data.annotations={annotations}: {readable(str(path))} is a folder, must be a JSON file")
            if not resolved.is_file():
                raise FileNotFoundError(f"data.annotations={annotations}: {readable(str(path))}: no such file")
            found[split] = path
        return found

    def _searched(self) -> dict[SplitName | None, Path]:
        """Find the files.

        Raises:
            FileNotFoundError: There is none.
            ValueError: It is not clear which they are.
        """
        below: dict[SplitName | None, Path] = {}
        folders = self._tree(self.root).folders
        for name in folders:
            split = split_of(name)
            files = self._json(self.root / name) if split in SPLIT_NAMES else []
            if split in below or len(files) > 1:
                raise ValueError(f"{self._shown(self.root / name)}: several files or folders of {split}: set data.annotations")
            if files:
                below[split] = files[0]  # pyright: ignore[reportArgumentType]
        if below:
            if "train" not in below:
                raise FileNotFoundError(
                    f"{self._shown(self.root)}: no train/ with a JSON file, only {', '.join(map(str, below))}"
                )
            return {split: below[split] for split in SPLIT_NAMES if split in below}
        named = [self.root / name for name in folders if name.casefold() in ANNOTATION_FOLDERS]
        for folder in (*named, self.root):
            files = self._json(folder)
            if files:
                return self._by_name(folder, files)
        raise FileNotFoundError(
            f"{self._shown(self.root)}: no annotations in JSON (expected are annotations/instances_train.json and the like, "
            "train/, valid/ and test/ with a JSON file each, or data.annotations=PATH)"
        )

    def _by_name(self, folder: Path, files: list[Path]) -> dict[SplitName | None, Path]:
        """Which split each file of a folder is for, by its name."""
        boxed = [path for path in files if path.name.startswith("instances")]
        chosen = boxed or files
        if len(chosen) == 1 and _split_in(chosen[0].stem) not in ("val", "test"):
            split = _split_in(chosen[0].stem)
            found: dict[SplitName | None, Path] = {"train" if split == "train" else None: chosen[0]}
        else:
            found = {}
            for path in chosen:
                split = _split_in(path.stem)
                if split in found:
                    raise ValueError(f"{self._shown(path)}: {found[split].name} is for {split} as well: set data.annotations")
                if split is not None:
                    found[split] = path
            if "train" not in found:
                listed = ", ".join(path.name for path in chosen[:5])
                raise FileNotFoundError(
                    f"{self._shown(folder)}: none of {readable(listed)} says that it is for train: set data.annotations, such "
                    "as data.annotations={train: a.json, val: b.json}"
                )
        unread = [path.name for path in files if path not in found.values()]
        self._said += [f"{readable(os.path.relpath(folder / name, self.root))} is not read" for name in unread]
        return {split: found[split] for split in (*SPLIT_NAMES, None) if split in found}

    def _json(self, folder: Path) -> list[Path]:
        return [self._tree.resolved(folder / name) for name in self._tree(folder).files if name.lower().endswith(".json")]

    def _classes(self, files: Mapping[SplitName, CocoFile]) -> tuple[tuple[str, ...], dict[int, int]]:
        """Return the names of the classes, and the place among them of each id.

        Raises:
            ValueError: Two files do not agree.
        """
        categories = files["train"].categories
        for split, file in files.items():
            for number, name in file.categories.items():
                if categories.get(number) != name:
                    own = f"{categories[number]!r}" if number in categories else "none"
                    raise ValueError(
                        f"{self._shown(self.root)}: category {number} of the {split} split is {name!r}, that of train is {own}"
                    )
        used = {row[4] for file in files.values() for image in file.images for row in image.rows}
        parents = frozenset[str]().union(*(file.parents for file in files.values()))
        above = [number for number, name in categories.items() if number not in used and name in parents]
        for number in above if len(above) < len(categories) else ():
            self._said.append(f"the category {readable(categories[number])} stands above others and has no object: no class")
        kept = [number for number in categories if number not in above or len(above) == len(categories)]
        return tuple(categories[number] for number in kept), {number: place for place, number in enumerate(kept)}

    def _entries(self, split: SplitName, path: Path, file: CocoFile, places: dict[int, int]) -> list[Entry]:
        """The images of a file that can be used."""
        for reason in file.lost:
            self._problems.add(split, os.path.relpath(path, self.root), reason)
        folder = self._image_folder(split, path, [image.name for image in file.images])
        entries: list[Entry] = []
        for image in file.images:
            one = self._places.file(folder, image.name)
            if one.problem or image.problem:
                self._problems.add(split, one.name, one.problem or str(image.problem))
            else:
                entries.append((one, image.objects(places)))
        return entries

    def _image_folder(self, split: SplitName, path: Path, names: list[str]) -> Path:
        """The folder to which the names of a file are relative.

        Raises:
            FileNotFoundError: None of the names is found.
        """
        places = list(dict.fromkeys((path.parent, self.root)))
        for _ in range(2):  # a folder below, and one below that
            places += [
                place / name for place in places for name in self._tree(place).folders if self._may_hold(split, path, name)
            ]
            places = [place for place in dict.fromkeys(places) if self._tree.allows(place.resolve())]
        some = names[:: max(1, len(names) // _SAMPLE)]
        hits = {place: sum(self._places.exists(place, name) for name in some) for place in places}
        best = max(places, key=lambda place: hits[place])
        if not hits[best]:
            listed = ", ".join(f"{os.path.relpath(place, self.root)}/" for place in places[:6])
            raise FileNotFoundError(
                f"{self._shown(path)}: none of its images, such as {readable(names[0][:80])!r}, is in {readable(listed)} below "
                f"{self._shown(self.root)}"
            )
        return best

    def _may_hold(self, split: SplitName, path: Path, name: str) -> bool:
        if split_of(name) in SPLIT_NAMES:
            return split_of(name) == split
        return name.casefold() in (*IMAGE_FOLDERS, "data") or (len(name) > 2 and name in path.stem)

    def _shown(self, path: Path) -> str:
        return readable(str(path))


def _split_in(stem: str) -> SplitName | None:
    """The split that a part of a file's name stands for, if there is one: train for `instances_train2017`."""
    words: Iterable[str] = re.findall(r"[^\W\d_]+", stem)
    found = {word for word in map(split_of, words) if word is not None}
    (only,) = found if len(found) == 1 else (None,)
    return "train" if only == "trainval" else only if only in SPLIT_NAMES else None
