"""Annotations of Pascal VOC, read for the classes that an image shows and, where they are asked for, for the boxes.

What decides no label is not read, so nothing in it can refuse an image or drop it: `<size>`, `<filename>`, `<folder>`,
`<path>`, boxes and polygons with whatever is in them, `<truncated>`, `<occluded>`, `<pose>`, `<part>`, and the encoding of the
text as long as it can be told. This module is the only one that looks into an annotation, so the rule has no second place.

Where boxes are asked for, each object has to have one `<bndbox>` with four numbers, whose first corner comes first. VOC counts
pixels from 1 and its last ones belong to the box; here they are counted from 0, and the last edge is exclusive. `<size>` is
read as far as it is two whole numbers.

What decides a label is read strictly. An object is `<annotation><object>` with one `<name>`; case and namespaces of tags do not
matter. An object with `<deleted>1</deleted>` does not count. An annotation that holds something else that could be its objects
is an error, because it would be read as an image that shows nothing.

A DOCTYPE is always an error: it can define entities, which can expand to gigabytes or read other files.
"""

import codecs
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple
from xml.etree.ElementTree import Element

from defusedxml.common import DefusedXmlException
from defusedxml.ElementTree import fromstring

from necklace.boxes.truth import COUNTS, IGNORED
from necklace.data.annotated import check_corners

# Elements that say nothing about what an image shows: VOC's own, LabelMe's `imagesize`, and what tools add.
METADATA = frozenset(
    ("folder", "filename", "path", "source", "owner", "size", "segmented", "imagesize", "width", "height", "depth", "id", "url")
    + ("image_id", "database", "license", "version", "date", "time", "timestamp", "created", "modified", "verified", "weather")
    + ("camera", "description", "contributor", "annotator", "comment", "scene", "location")
)
# Elements inside of which an object is described. Found under another tag than `object`, they show objects of another format.
PARTS = frozenset(
    ("bndbox", "bbox", "box", "robndbox", "polygon", "points", "xmin", "difficult", "truncated", "occluded", "pose")
)
YES = frozenset(("true", "yes", "y", "t", "on"))
NO = frozenset(("false", "no", "n", "f", "off", "", "unspecified", "unknown", "none", "null", "nan", "n/a", "na"))


SIDES = ("xmin", "ymin", "xmax", "ymax")


class Object(NamedTuple):
    """An object: its class, `COUNTS` or `IGNORED` (difficult), and x0, y0, x1, y1 in pixels, None if not asked for."""

    name: str
    flag: int
    corners: tuple[float, float, float, float] | None


@dataclass(frozen=True)
class Annotation:
    """What an annotation says about an image.

    Attributes:
        objects: Its objects.
        stated: Height and width of the image, where `<size>` states them.
        unclear: What `<difficult>` says where it is no yes and no no; such an object counts as not difficult.
        guessed: Whether the encoding of the text had to be guessed, as it is neither the declared one nor UTF-8.
    """

    objects: tuple[Object, ...]
    stated: tuple[int, int] | None = None
    unclear: tuple[str, ...] = ()
    guessed: bool = False

    @property
    def labels(self) -> dict[str, int]:
        """VOC's labels: 1 for each class with an object, -1 if all its objects are difficult; other classes are absent."""
        labels: dict[str, int] = {}
        for name, flag, _ in self.objects:
            labels[name] = max(labels.get(name, -1), 1 if flag == COUNTS else -1)
        return labels


def parse(data: bytes, boxes: bool = False) -> Annotation:
    """Read an annotation.

    Args:
        data: The whole file.
        boxes: Whether to read where the objects are.

    Raises:
        ValueError: It is not a VOC annotation, or could have objects that are not read; the message has the reason.
    """
    root, guessed = _root(data)
    if _tag(root) != "annotation":
        raise ValueError(f"not a VOC annotation: the outermost element is <{root.tag}>, not <annotation>")
    objects: list[Object] = []
    unclear: list[str] = []
    number, foreign = 0, ""
    stated = None
    text = (root.text or "").strip()
    unknown = f"text {text[:40]!r}" if text else ""
    for child in root:
        tag = _tag(child)
        if tag == "object":
            number += 1
            name, difficult, word = _object(child, number)
            unclear += word
            if name is not None:
                corners = _corners(child, number) if boxes else None
                objects.append(Object(name, IGNORED if difficult else COUNTS, corners))
        elif tag == "size":
            stated = _size(child) if boxes else None
        elif tag not in METADATA:
            unknown = unknown or f"<{child.tag}>"
            if tag.startswith("obj") or any(_tag(inner) in PARTS for inner in child.iter()):
                foreign = foreign or f"<{child.tag}>"
    if foreign or (unknown and not number):
        raise ValueError(f"objects that are not read: {foreign or unknown} is not VOC's <annotation><object><name>")
    return Annotation(tuple(objects), stated, tuple(unclear), guessed)


def _object(item: Element, number: int) -> tuple[str | None, bool, list[str]]:
    """Return an object's class, None if it is deleted; whether it is difficult; and what was unclear about that."""
    names: list[str] = []
    difficult, unclear = False, []
    for child in item:
        tag = _tag(child)
        if tag == "name":
            names.append(" ".join((child.text or "").split()))
        elif tag == "difficult":
            said = _truth(child.text)
            difficult = bool(said)
            if said is None:
                unclear.append(str(child.text).strip()[:40])
        elif tag == "deleted" and _truth(child.text):
            return None, False, []
    named = {name for name in names if name}
    if not named:
        raise ValueError(f"an object without <name>: object {number}")
    if len(named) > 1:
        raise ValueError(f"an object with several names: object {number} is {', '.join(sorted(named))}")
    return named.pop(), difficult, unclear


def _corners(item: Element, number: int) -> tuple[float, float, float, float]:
    """Return the box of an object: x0, y0, x1, y1 in pixels from 0, the last two exclusive.

    Raises:
        ValueError: It has none, or several, or one that is none.
    """
    found = [child for child in item if _tag(child) == "bndbox"]
    if len(found) != 1:
        other = [f" but a <{_tag(child)}>" for child in item if _tag(child) in PARTS and len(child) and not found][:1]
        raise ValueError(f"an object with{'out' if not found else ' several'} <bndbox>: object {number}{''.join(other)}")
    sides: dict[str, float] = {}
    for side in found[0]:
        tag = _tag(side)
        if tag in sides:
            raise ValueError(f"a box with two <{tag}>: object {number}")
        if tag in SIDES:
            try:
                sides[tag] = float(side.text or "")
            except ValueError:
                raise ValueError(f"a box whose <{tag}> is no number: {(side.text or '')[:40]!r} in object {number}") from None
    missing = [side for side in SIDES if side not in sides]
    if missing:
        raise ValueError(f"a box without <{missing[0]}>: object {number}")
    x0, y0, x1, y1 = (sides[side] for side in SIDES)
    try:
        check_corners(x0, y0, x1, y1)
    except ValueError as error:
        raise ValueError(f"{error} in object {number}") from None
    return x0 - 1, y0 - 1, x1, y1


def _size(item: Element) -> tuple[int, int] | None:
    """Height and width in `<size>`; None where they are not stated."""
    said = {_tag(child): (child.text or "").strip() for child in item}
    height, width = said.get("height", ""), said.get("width", "")
    whole = all(re.fullmatch(r"[1-9][0-9]{0,8}", text) for text in (height, width))
    return (int(height), int(width)) if whole else None


def _truth(text: str | None) -> bool | None:
    """Whether a flag is set, in numbers or words; None if that is unclear."""
    word = (text or "").strip().casefold()
    if word in YES or word in NO:
        return word in YES
    try:
        return float(word) > 0
    except ValueError:
        return None


def _tag(element: Element) -> str:
    """The tag without its namespace, in small letters."""
    tag = element.tag
    return (tag.rpartition("}")[2] if tag[0] == "{" else tag).lower()


def _root(data: bytes) -> tuple[Element, bool]:
    """Return the outermost element, and whether the encoding was guessed.

    Raises:
        ValueError: It is not XML, or has a DOCTYPE.
    """
    try:
        try:
            return fromstring(data, forbid_dtd=True), False
        except DefusedXmlException:
            raise
        except Exception as error:  # a ParseError, an unknown encoding, or bytes that are not in it
            for text, guessed in _texts(data):
                try:
                    return fromstring(text, forbid_dtd=True), guessed
                except DefusedXmlException:
                    raise
                except Exception:
                    continue
            raise ValueError(f"malformed XML: {' '.join(str(error).split()) or type(error).__name__}") from error
    except DefusedXmlException:
        raise ValueError("XML with a DOCTYPE or entities, which an annotation must not have") from None


def _texts(data: bytes) -> Iterator[tuple[str, bool]]:
    """Yield readings of bytes that are not XML as they stand: in another encoding, with a bare & or blanks at the start.

    The declared encoding comes first, then UTF-8, then Windows-1252, which is a guess.
    """
    marks = {codecs.BOM_UTF32_LE: "utf-32", codecs.BOM_UTF32_BE: "utf-32", codecs.BOM_UTF16_LE: "utf-16"}
    marks |= {codecs.BOM_UTF16_BE: "utf-16", codecs.BOM_UTF8: "utf-8"}
    marked = [name for mark, name in marks.items() if data.startswith(mark)][:1]
    declared = re.search(rb"""^\s*<\?xml[^>]*?encoding\s*=\s*["']([\w.:-]+)""", data[:300])
    stated = [declared[1].decode("ascii")] if declared else []
    for encoding in [*marked, *stated, "utf-8", "cp1252", "latin-1"]:
        try:
            text = data.decode(encoding)
        except (LookupError, ValueError):
            continue
        text = re.sub(r"^\s*<\?xml[^>]*\?>", "", text.strip("\ufeff\0 \t\r\n"), count=1)
        text = re.sub(r"&(?!#?\w+;)", "&amp;", text)
        yield text, encoding in ("cp1252", "latin-1") and encoding not in stated
