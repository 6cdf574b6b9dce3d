"""Annotations of Pascal VOC: parsing and checks.

Labels do not depend on boxes, but a wrong box shows that the annotation belongs to another image or was written by a broken
tool. Coordinates are VOC's: they start at 1, include the last pixel, and may be fractions. Tools that start at 0, or are off by
one, are common, so a box may extend from 0 to one pixel past the side. If xmin equals xmax, the box has no area (unless the
image is one pixel wide). Real datasets have such boxes, from a click without a drag (two of BCCD's 4,888): if the labels of the
image are the same without the object, it is ignored and listed in `skipped`, otherwise it is an error.
`<size>` must be the size of the image as stored or after its EXIF rotation; without `<size>`, the stored size is used.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from xml.etree.ElementTree import Element, ParseError

from defusedxml.common import DefusedXmlException
from defusedxml.ElementTree import fromstring

SIDES = ("xmin", "ymin", "xmax", "ymax")


@dataclass(frozen=True)
class Object:
    """An object of an image: its class, whether it is `difficult`, and xmin, ymin, xmax, ymax of its box."""

    number: int
    name: str
    difficult: bool
    box: tuple[float, float, float, float]

    def __str__(self) -> str:
        sides = " ".join(f"{side}={value:g}" for side, value in zip(SIDES, self.box, strict=True))
        return f"object {self.number} ({self.name}): box {sides}"


@dataclass(frozen=True)
class Annotation:
    """The content of an XML file: width and height of the image, None if not stated, and its objects."""

    size: tuple[int, int] | None
    objects: tuple[Object, ...]


def parse(data: bytes) -> Annotation:
    """Parse an annotation; boxes are checked by `check_boxes`.

    Raises:
        ValueError: It is not a VOC annotation; the message has the reason.
    """
    try:
        # A DOCTYPE can define entities, which can expand to gigabytes or read other files.
        root: Element = fromstring(data, forbid_dtd=True)
    except DefusedXmlException:
        raise ValueError("XML with a DOCTYPE or entities, which an annotation must not have") from None
    except ParseError as error:
        raise ValueError(f"malformed XML: {error}") from None
    except Exception as error:  # an unknown encoding, or bytes that are not in it
        raise ValueError(f"unreadable XML: {' '.join(str(error).split()) or type(error).__name__}") from error
    if root.tag != "annotation":
        raise ValueError(f"the outermost element is <{root.tag}>, not <annotation>")
    filename = root.findtext("filename")
    if filename is not None:
        check_name(filename.strip(), "<filename>")
    size = None
    if root.find("size") is not None:
        width, height = (_number(root, f"size/{side}", "<size>") for side in ("width", "height"))
        if min(width, height) < 1 or width % 1 or height % 1:
            raise ValueError(f"<size> is {width:g}x{height:g}: must be whole numbers from 1")
        size = int(width), int(height)
    return Annotation(size, tuple(_object(item, number) for number, item in enumerate(root.findall("object"), 1)))


def _object(item: Element, number: int) -> Object:
    name = " ".join((item.findtext("name") or "").split())
    if not name:
        raise ValueError(f"object {number} has no <name>")
    what = f"object {number} ({name})"
    difficult = (item.findtext("difficult") or "0").strip()
    if difficult not in ("0", "1"):
        raise ValueError(f"{what}: <difficult> is {difficult[:40]!r}, must be 0 or 1")
    xmin, ymin, xmax, ymax = (_number(item, f"bndbox/{side}", what) for side in SIDES)
    return Object(number, name, difficult == "1", (xmin, ymin, xmax, ymax))


def labels_of(objects: Iterable[Object]) -> dict[str, int]:
    """Return VOC's labels: 1 for each class with an object, -1 if all its objects are difficult; other classes are absent."""
    labels: dict[str, int] = {}
    for item in objects:
        labels[item.name] = max(labels.get(item.name, -1), -1 if item.difficult else 1)
    return labels


def _number(element: Element, path: str, what: str) -> float:
    text = element.findtext(path)
    try:
        value = float("" if text is None else text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        found = "is missing" if text is None else f"is {text.strip()[:40]!r}, not a number"
        raise ValueError(f"{what}: <{path.replace('/', '><')}> {found}")
    return value


def check_boxes(annotation: Annotation, size: tuple[int, int]) -> list[str]:
    """Compare the boxes with width and height of the image.

    Args:
        annotation: The annotation.
        size: Width and height of the image, in pixels.

    Returns:
        A note for each box without area that is ignored.

    Raises:
        ValueError: A box is wrong; the message names it and the reason.
    """
    empty = []
    for item in annotation.objects:
        xmin, ymin, xmax, ymax = item.box
        if xmin > xmax or ymin > ymax:
            raise ValueError(f"{item} has its corners swapped")
        if min(xmin, ymin) < 0 or xmax > size[0] + 1 or ymax > size[1] + 1:
            raise ValueError(f"{item} extends out of the image of {size[0]}x{size[1]} (width x height)")
        if (xmin == xmax and size[0] > 1) or (ymin == ymax and size[1] > 1):
            empty.append(item)
    if empty and labels_of(item for item in annotation.objects if item not in empty) != labels_of(annotation.objects):
        raise ValueError(f"{empty[0]} has no area")
    reason = "has no area; only this object is left out, as the image's labels do not depend on it"
    return [f"{item} {reason}" for item in empty]


def check_name(name: str, what: str) -> None:
    """Check that a text is the name of a file without folders.

    Args:
        name: The text.
        what: Its description in the message.

    Raises:
        ValueError: It is empty, or could lead to another folder.
    """
    if name in ("", ".", "..") or any(character in name for character in "/\\\0"):
        raise ValueError(f"{what} {name[:80]!r}: must be the name of a file without folders")
