"""Pascal VOC, and data sets in its format: the classes that an image shows and, where they are asked for, the boxes.

Where images, annotations and lists may lie is in `voc_layout.py`, how a list is read in `voc_lists.py`, and an annotation in
`voc_xml.py`. Images are decoded as in `files.py`. Labels follow VOC: 1 if the image shows an object of the class, 0 if it shows
none, and -1 (ignored in loss and metrics) if all of them are `difficult`.

What decides no label neither refuses nor drops an image; what is left out or not read is in `skipped` or in `notes`.
"""

import os
import re
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Literal

from necklace.data.annotated import read_boxed
from necklace.data.cache import PixelCache
from necklace.data.download import by_hand
from necklace.data.files import MAX_PIXELS, File, check_max_pixels, open_root, readable
from necklace.data.images import SPLIT_NAMES, ImageSet, SplitName
from necklace.data.names import SplitWord
from necklace.data.problems import Problems
from necklace.data.reasons import counted
from necklace.data.splits import split_by_rule
from necklace.data.tree import Tree
from necklace.data.voc_items import Item, Items, read_labelled
from necklace.data.voc_layout import Layout, find_layout, official_layout
from necklace.data.voc_lists import Names, check_others, lines_of
from necklace.data.voc_official import CLASSES, YEARS, archives_of, base_of
from necklace.data.voc_official import download as official_download


class Voc:
    """Images with any number of classes each, from annotations in the VOC format.

    Classes are VOC's 20 with `year`, otherwise those in the annotations of the training split, sorted.

    Attributes:
        root: The folder, with links resolved; no file outside it is read, unless `links` is `follow`.
        classes: Names of the classes.
        notes: What a reader of the results should know about the data, as sentences without full stop.
    """

    def __init__(  # noqa: PLR0913, the options of its config
        self,
        root: str | Path,
        year: int | str | None = None,
        download: bool = False,
        on_corrupt: Literal["stop", "skip"] = "stop",
        memory_gib: float = 4,
        cache: str | Path | None = None,
        background: Literal["stop", "allow"] = "stop",
        test_fraction: float | None = None,
        max_pixels: int = MAX_PIXELS,
        links: Literal["inside", "follow"] = "inside",
        boxes: bool = False,
    ):
        """Read the lists and the annotations; images are decoded when a split is requested.

        Args:
            root: The folder that holds `VOCdevkit/`, or, without `year`, one of the layouts of `voc_layout.py`.
            year: The year of an official VOC set, or None.
            download: Whether to let torchvision download that year.
            on_corrupt: For files that cannot be used: `stop` with an error, or `skip` them and list them in `skipped`.
            memory_gib: Batches of a split whose pixels need more than this are made from a file, not from memory.
            cache: Folder for files of decoded images, see `cache.py`; None: each process decodes them into memory.
            background: For an image without annotation: `stop` as at a file that cannot be used, or `allow` it to show nothing.
            test_fraction: Share of the images that is split off as test where neither lists nor folders say which split
                they belong to; None for `TEST_FRACTION`.
            max_pixels: An image of more pixels is a file that cannot be used.
            links: Which links are followed: those that stay `inside` the root, or all of them (`follow`).
            boxes: Whether to read where the objects are; each has to have a box then.

        Raises:
            FileNotFoundError: A folder or a list is missing.
            ValueError: An option is wrong, the layout is not clear, or a list or an annotation cannot be used.
        """
        self._cache = PixelCache(cache, memory_gib)
        if year is not None and str(year) not in YEARS:
            raise ValueError(f"data.year={year}: must be {', '.join(YEARS)}, or null for a folder of your own")
        if download and year is None:
            raise ValueError("data.download=true needs data.year: only the official VOC sets can be downloaded")
        if background not in ("stop", "allow"):
            raise ValueError(f"data.background={background}: must be stop or allow")
        if links not in ("inside", "follow"):
            raise ValueError(f"data.links={links}: must be inside (links within data.root only) or follow")
        if download:
            Path(root).expanduser().mkdir(parents=True, exist_ok=True)
        try:
            self.root = open_root(root, on_corrupt)
            self.folder = self.root / base_of(str(year)) if year is not None else self.root
            tree = self._tree = Tree(self.root, links == "follow")
            tree.resolved(self.folder)
            if download:
                official_download(self.root, str(year))
            layout = (
                find_layout(tree, self.folder, background == "allow") if year is None else official_layout(tree, self.folder)
            )
        except FileNotFoundError as error:
            wanted = f"; {by_hand(root, archives_of(str(year)))}" if year is not None else ""
            if year is None and (Path(root).expanduser() / "VOCdevkit").is_dir():
                wanted = "; for the official sets in VOCdevkit/, set data.year"
            raise FileNotFoundError(f"{error}{wanted}") from None
        self._test_fraction = layout.test_share(test_fraction)
        self._problems = Problems(self.root, on_corrupt)
        self._read: set[SplitName] = set()
        self._reader = Items(self.root, self._problems, background == "allow", check_max_pixels(max_pixels), boxes)
        self._said: list[str] = list(layout.notes)
        self._boxes, self._box_notes = boxes, dict[SplitName, list[str]]()
        self.classes: tuple[str, ...] = CLASSES if year is not None else ()
        self._items = self._listed(layout) if layout.lists else self._shelved(layout)
        if layout.list_folder is not None:
            unread = check_others(layout.list_folder, layout.other_lists, self.classes)
            self._said += [
                f"{readable(str((layout.list_folder / name).relative_to(self.root)))} is not read" for name in unread
            ]
        self._problems.raise_if_any(self._undecoded())

    @property
    def skipped(self) -> tuple[tuple[str, str], ...]:
        """(path relative to the root, reason) of every file left out, for the splits read so far."""
        return self._problems.skipped(self._read)

    @property
    def notes(self) -> tuple[str, ...]:
        """Finished sentences without full stop."""
        changed = (note for name in SPLIT_NAMES for note in self._box_notes.get(name, ()))
        return (*self._said, *self._reader.notes, *changed, *_alike(self.classes))

    def split(self, name: SplitName) -> ImageSet | None:
        """Read and decode the images of a split; None if there is no such split. Labels are int8 `[N, K]`."""
        if name not in self._items:
            return None
        items = self._items[name]
        if self._boxes:
            found = [(item.image, item.objects(self.classes)) for item in items]
            images, self._box_notes[name] = read_boxed(name, found, len(self.classes), self._problems, self._cache)
        else:
            images = read_labelled(name, items, self.classes, self.folder, self._problems, self._cache)
        self._read.add(name)
        self._problems.raise_if_any(self._undecoded())
        if not len(images):
            raise self._none_left(name)
        return images

    def _listed(self, layout: Layout) -> dict[SplitName, list[Item]]:
        """Read the lists and the annotations that they name.

        Raises:
            FileNotFoundError: There is no list for train.
            ValueError: A list is empty or not a file, or no annotation of train can be used.
        """
        (shelf,), folder, lists = layout.shelves.values(), layout.list_folder, dict(layout.lists)
        assert folder is not None
        if "train" not in lists:
            if "trainval" not in lists or "val" in lists:
                raise FileNotFoundError(
                    f"{readable(str(folder / 'train.txt'))}: no such file, only {', '.join(lists.values())}"
                )
            lists["train"] = lists.pop("trainval")
        names = Names({*shelf.images, *shelf.annotations}, [shelf.folder.name, shelf.annotation_folder.name])
        seen: dict[str, str] = {}
        items: dict[SplitName, list[Item]] = {}
        for split in SPLIT_NAMES:
            if split in lists:
                found = [
                    self._reader.item(split, shelf, *name, listed=True)
                    for name in self._names(split, folder / lists[split], names, seen)
                ]
                items[split] = [item for item in found if item is not None]
        self._compare_trainval(folder, lists, names, seen)
        for kind, there in (("images", shelf.images), ("annotations", shelf.annotations)):
            unlisted = there.keys() - seen.keys()
            if unlisted:
                self._reader.count(f"{kind} that no list names, not used", there[min(unlisted)][0].name, len(unlisted))
        return self._with_known_classes(items)

    def _names(self, split: SplitName, path: Path, names: Names, seen: dict[str, str]) -> list[tuple[str, str]]:
        """Return the name of each image of a list and its extension, if the list states it; they are added to `seen`.

        Raises:
            ValueError: The list is empty, not a file, or outside the root.
        """
        list_name = str(path.relative_to(self.root))
        if not self._tree.resolved(path).is_file():
            raise ValueError(f"{readable(str(path))}: not a regular file")
        found = []
        problems = len(self._problems.of(split))
        for number, line in enumerate(lines_of(path), 1):
            try:
                name = names.of_line(line) if line else None
                if name is None:
                    continue
                if name[0] in seen:
                    raise ValueError(f"{name[0]!r} is listed already, in {seen[name[0]]}")
            except ValueError as error:
                self._problems.add(split, list_name, f"line {number}: {error}")
                continue
            seen[name[0]] = list_name
            found.append(name)
        if not found and len(self._problems.of(split)) == problems:
            raise ValueError(f"{readable(str(path))}: the list is empty")
        return found

    def _compare_trainval(self, folder: Path, lists: dict[SplitWord, str], names: Names, seen: dict[str, str]) -> None:
        """Report images of trainval.txt that are in no split."""
        path = folder / lists["trainval"] if "trainval" in lists else None
        if path is None or not self._tree.resolved(path).is_file():
            return
        found: set[str] = set()
        for line in lines_of(path):
            with suppress(ValueError):
                name = names.of_line(line) if line else None
                found |= {name[0]} if name else set()
        if found - seen.keys():
            others = " or ".join(lists[split] for split in SPLIT_NAMES if split in lists)
            reason = f"images that are not in {others}: {len(found - seen.keys())} (first: {min(found - seen.keys())!r})"
            self._problems.add("train", str(path.relative_to(self.root)), reason)

    def _shelved(self, layout: Layout) -> dict[SplitName, list[Item]]:
        """Read all annotations, where folders or a rule say which split they belong to.

        Raises:
            FileNotFoundError: There is a folder for another split, but none for train.
            ValueError: No annotation of train can be used.
        """
        items: dict[SplitName, list[Item]] = {}
        for split, shelf in layout.shelves.items():
            found = [self._reader.item(split or "train", shelf, name) for name in sorted(shelf.images)]
            for name in sorted(shelf.annotations.keys() - shelf.images.keys()):
                if name in shelf.strays:
                    stray = os.path.relpath(shelf.folder / shelf.strays[name], self.root)
                    self._problems.add(split or "train", stray, "has an annotation, but is not an image by its extension")
                else:
                    self._reader.count("annotations without image, not used", shelf.annotations[name][0].name)
            items[split or "train"] = [item for item in found if item is not None]
        if None in layout.shelves:
            return self._split_off(self._with_known_classes(items)["train"])
        if "train" not in items:
            there = ", ".join(f"{shelf.folder.name}/" for shelf in layout.shelves.values())
            raise FileNotFoundError(f"{readable(str(self.folder / 'train'))}: no such folder, only {there}")
        return self._with_known_classes(items)

    def _split_off(self, items: list[Item]) -> dict[SplitName, list[Item]]:
        """Split off test by a rule that does not depend on the run's seed: the same share of each combination of classes."""
        kept, held_out = split_by_rule([tuple(sorted(item.labels.items())) for item in items], self._test_fraction)
        rule = f"split off as test, as no lists or folders say which images are (data.test_fraction={self._test_fraction})"
        self._said.append(f"{len(held_out)} of {len(items)} images are {rule}")
        split: dict[SplitName, list[Item]] = {"train": [items[index] for index in kept]}
        if held_out:
            split["test"] = [items[index] for index in held_out]
        return split

    def _with_known_classes(self, items: dict[SplitName, list[Item]]) -> dict[SplitName, list[Item]]:
        """Set the classes, and leave out images that show others.

        Raises:
            ValueError: Train shows no class.
        """
        if not self.classes:
            self.classes = tuple(sorted({name for item in items["train"] for name in item.labels}))
        if not self.classes:
            self._problems.raise_if_any()
            reasons = counted(reason for _, reason in self._problems.of("train"))
            raise ValueError(
                f"{readable(str(self.folder))}: no annotation of the train split can be used and names an object"
                + (f": {reasons}" if reasons else "")
            )
        known = frozenset(self.classes)
        alike = {_loose(name): name for name in self.classes}
        kept: dict[SplitName, list[Item]] = {}
        for split, found in items.items():
            kept[split] = []
            for item in found:
                unknown = sorted(set(item.labels) - known)
                if unknown:
                    near = alike.get(_loose(unknown[0]))
                    hint = f" (train has {near!r})" if near else ""
                    reason = f"class {unknown[0]!r} is none of {', '.join(self.classes)}{hint}"
                    self._problems.add(split, item.annotation, reason)
                else:
                    kept[split].append(item)
        return kept

    def _undecoded(self) -> dict[SplitName, list[File]]:
        """The images of the splits that are not decoded yet."""
        return {split: [item.image for item in items] for split, items in self._items.items() if split not in self._read}

    def _none_left(self, split: SplitName) -> ValueError:
        reasons = counted(reason for _, reason in self._problems.of(split))
        return ValueError(
            f"{readable(str(self.folder))}: no image of the {split} split can be used: {reasons or 'there is none'}"
        )


def _loose(name: str) -> str:
    return re.sub(r"[\s_-]+", " ", name).casefold()


def _alike(classes: Iterable[str]) -> list[str]:
    """Say which classes differ in blanks, underscores and hyphens, and may be one class by mistake."""
    groups: dict[str, list[str]] = {}
    for name in classes:
        groups.setdefault(_loose(name), []).append(name)
    alike = [names for names in groups.values() if len({name.casefold() for name in names}) > 1]
    return [f"classes {' and '.join(map(readable, names))} differ only in blanks, underscores or hyphens" for names in alike]
