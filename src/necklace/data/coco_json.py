"""COCO's annotations in JSON, read for images, classes and boxes.

Read are `images` (id, file_name, height, width), `categories` (id, name), `annotations` (image_id, category_id, bbox, iscrowd),
and of an annotation also `ignore` or `difficult`, by which converters carry VOC's difficult objects. Segmentations, keypoints
and captions are dropped while the file is parsed, so that it needs the memory of its boxes alone.

A file whose images or classes are not clear is an error. What is wrong with one object is a problem of its image.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from necklace.boxes.truth import COUNTS, CROWD, IGNORED
from necklace.data.annotated import Objects, check_corners

MAX_BYTES = 1 << 30  # the largest of COCO's own, instances_train2017.json, has 448 MiB
MAX_ENTRIES = 10_000_000  # images or annotations
_UNREAD = ("segmentation", "keypoints", "caption", "attributes", "counts", "segments_info")


@dataclass
class CocoImage:
    """An image of a file.

    Attributes:
        name: Its `file_name`.
        stated: Height and width, where they are stated.
        rows: x0, y0, x1, y1, class and flag of each object.
        problem: Why it cannot be used, if there is a reason.
    """

    name: str
    stated: tuple[int, int] | None
    rows: list[tuple[float, float, float, float, int, int]] = field(default_factory=list)
    problem: str | None = None

    def objects(self, places: dict[int, int]) -> Objects:
        """Its objects; `places` maps the id of a class to its place among the classes."""
        rows = np.array(self.rows, dtype=np.float64).reshape(-1, 6)
        classes = np.array([places[row[4]] for row in self.rows], dtype=np.int64)
        return Objects(rows[:, :4], classes, rows[:, 5].astype(np.uint8), self.stated)


@dataclass(frozen=True)
class CocoFile:
    """A file of annotations.

    Attributes:
        categories: Id to name of the classes, in the order of their ids.
        parents: Names that other classes name as their supercategory.
        images: In the file's order.
        lost: What is wrong with the file as a whole, in words, without stopping it from being read.
    """

    categories: dict[int, str]
    parents: frozenset[str]
    images: list[CocoImage]
    lost: list[str]


def read_coco(path: Path) -> CocoFile:
    """Read a file of annotations.

    Raises:
        ValueError: It is none, or too large; the message has the reason, without the file's name.
    """
    content = _parsed(path)
    if not isinstance(content, dict):
        hint = " (a list, as results of a detector are)" if isinstance(content, list) else ""
        raise ValueError(f"not COCO's annotations: must be a mapping of images, annotations and categories{hint}")
    for key in ("images", "annotations", "categories"):
        if not isinstance(content.get(key), list):
            raise ValueError(f"not COCO's annotations: no list of {key}")
        if len(content[key]) > MAX_ENTRIES:
            raise ValueError(f"{len(content[key])} {key}, more than {MAX_ENTRIES}")
    categories, parents = _categories(content["categories"])
    images = _images(content["images"])
    orphans: list[str] = []
    for number, item in enumerate(content["annotations"], 1):
        where = _where(item, number)
        image = images.get(_key(item.get("image_id"))) if isinstance(item, dict) else None
        if image is None:
            said = repr(item.get("image_id"))[:40] if isinstance(item, dict) else repr(item)[:40]
            orphans.append(f"image_id {said} in {where}")
        elif image.problem is None:
            try:
                image.rows.append(_row(item, categories))
            except ValueError as error:
                image.problem = f"{error} in {where}"
    lost = [f"annotations of images that the file does not have: {len(orphans)} (first: {orphans[0]})"] if orphans else []
    return CocoFile(categories, parents, list(images.values()), lost)


def _parsed(path: Path) -> Any:
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise ValueError(f"{size >> 20} MiB of JSON, more than {MAX_BYTES >> 20}")
    try:
        return json.loads(path.read_bytes(), object_hook=_without_the_unread)
    except RecursionError:
        raise ValueError("malformed JSON: nested too deeply") from None
    except ValueError as error:  # also bytes that are not text
        raise ValueError(f"malformed JSON: {' '.join(str(error).split())[:200]}") from None


def _without_the_unread(item: dict[str, Any]) -> dict[str, Any]:
    for key in _UNREAD:
        item.pop(key, None)
    return item


def _categories(items: list[Any]) -> tuple[dict[int, str], frozenset[str]]:
    found: dict[int, str] = {}
    for item in items:
        name, number = (item.get("name"), item.get("id")) if isinstance(item, dict) else (None, None)
        if not isinstance(name, str) or not name.strip() or isinstance(number, bool) or not isinstance(number, int):
            raise ValueError(f"a category without id or name: {str(item)[:80]}")
        name = " ".join(name.split())
        if number in found:
            raise ValueError(f"two categories of id {number}: {found[number]!r} and {name!r}")
        if name in found.values():
            raise ValueError(f"two categories of name {name!r}")
        found[number] = name
    if not found:
        raise ValueError("no category")
    parents = frozenset(str(item.get("supercategory")) for item in items)
    return dict(sorted(found.items())), parents


def _images(items: list[Any]) -> dict[Any, CocoImage]:
    found: dict[Any, CocoImage] = {}
    for number, item in enumerate(items, 1):
        name, key = (item.get("file_name"), _key(item.get("id"))) if isinstance(item, dict) else (None, None)
        if not isinstance(name, str) or not name or key is None:
            raise ValueError(f"an image without id or file_name: number {number}, {str(item)[:80]}")
        if key in found:
            raise ValueError(f"two images of id {key}: {found[key].name[:80]!r} and {name[:80]!r}")
        height, width = item.get("height"), item.get("width")
        found[key] = CocoImage(name, None)
        if isinstance(height, int) and isinstance(width, int) and min(height, width) > 0:
            found[key].stated = height, width
    if not found:
        raise ValueError("no image")
    return found


def _key(value: Any) -> int | str | None:
    """An id as it is compared: tools write numbers as text here and there."""
    if isinstance(value, bool) or not isinstance(value, int | str):
        return None
    return int(value) if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 20 else value


def _where(item: Any, number: int) -> str:
    return (
        f"annotation {item['id']}"
        if isinstance(item, dict) and isinstance(item.get("id"), int)
        else f"annotation number {number}"
    )


def _row(item: dict[str, Any], categories: dict[int, str]) -> tuple[float, float, float, float, int, int]:
    """x0, y0, x1, y1, class and flag of an object.

    Raises:
        ValueError: It cannot be used.
    """
    category = _key(item.get("category_id"))
    if not isinstance(category, int) or category not in categories:
        raise ValueError(f"an object of a class that the file does not have: category_id {str(category)[:40]}")
    x0, y0, width, height = _numbers(item.get("bbox"))
    shown = f"[{x0:g}, {y0:g}, {width:g}, {height:g}]"
    if width < 0 or height < 0:
        raise ValueError(f"a box of negative size: {shown}")
    check_corners(x0, y0, x0 + width, y0 + height)
    for name in ("iscrowd", "ignore", "difficult"):
        if item.get(name) not in (None, 0, 1):
            raise ValueError(f"an object whose {name} is neither 0 nor 1: {str(item[name])[:40]!r}")
    flag = CROWD if item.get("iscrowd") else IGNORED if item.get("ignore") or item.get("difficult") else COUNTS
    return x0, y0, x0 + width, y0 + height, category, flag


def _numbers(bbox: Any) -> list[float]:
    if bbox is None:
        raise ValueError("an object without bbox")
    is_list = isinstance(bbox, list) and len(bbox) == 4
    if not is_list or not all(isinstance(value, int | float) and not isinstance(value, bool) for value in bbox):
        raise ValueError(f"a bbox that is no list of four numbers, x, y, width and height: {str(bbox)[:80]}")
    try:
        return list(map(float, bbox))
    except OverflowError:
        raise ValueError("a box with a corner that is no finite number") from None
