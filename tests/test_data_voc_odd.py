"""Odd data sets in the VOC format and Roboflow's: each is read with the expected counts, or refused with the expected sentence.

None is ignored: an image that is in no split is in `skipped` or counted in `notes`.
"""

import io
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from necklace.data.images import SPLIT_NAMES
from necklace.data.voc import Voc

Files = dict[str, bytes | str]
MAIN = "ImageSets/Main"
BOX = "<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>4</xmax><ymax>4</ymax></bndbox>"


def png(seed: int = 0) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


PIXELS = [png(seed) for seed in range(10)]


def thing(name: str = "cat", inside: str = BOX) -> str:
    return f"<object><name>{name}</name>{inside}</object>"


def xml(*objects: str, meta: str = "<size><width>8</width><height>6</height></size>") -> str:
    return f"<annotation><filename>x.png</filename>{meta}{''.join(objects)}</annotation>"


def pair(image: str, annotation: str, number: int) -> Files:
    """An image and its annotation; even numbers show a cat, odd ones a dog."""
    return {f"{image}.png": PIXELS[number], f"{annotation}.xml": xml(thing("dog" if number % 2 else "cat"))}


def standard(**changes: bytes | str | None) -> Files:
    """Train a, b, c, d; val e, f; test g, h. Changes are by path; None takes the file away."""
    files: Files = {}
    for number, name in enumerate("abcdefgh"):
        files |= pair(f"JPEGImages/{name}", f"Annotations/{name}", number)
    files |= {f"{MAIN}/train.txt": "a\nb\nc\nd\n", f"{MAIN}/val.txt": "e\nf\n", f"{MAIN}/test.txt": "g\nh\n"}
    return changed(files, changes)


def roboflow(names: tuple[str, str, str] = ("train", "valid", "test"), /, **changes: bytes | str | None) -> Files:
    """The same images as Roboflow exports them: images and XML together in a folder for each split."""
    files: Files = {"README.roboflow.txt": "exported", "README.dataset.txt": "cats and dogs"}
    for number, name in enumerate("abcdefgh"):
        folder = names[0 if number < 4 else 1 if number < 6 else 2]
        stem = f"{folder}/{name}_jpg.rf.0123{name}"
        files |= pair(stem, stem, number)
    return changed(files, changes)


def changed(files: Files, changes: dict[str, Any]) -> Files:
    made = files | {name: content for name, content in changes.items() if content is not None}
    return {name: content for name, content in made.items() if name not in changes or changes[name] is not None}


def with_a(annotation: bytes | str) -> Files:
    return standard(**{"Annotations/a.xml": annotation})


def with_train(content: bytes | str) -> Files:
    return standard(**{f"{MAIN}/train.txt": content})


def moved(files: Files, *pairs: tuple[str, str]) -> Files:
    for old, new in pairs:
        files = {new + name.removeprefix(old) if name.startswith(old) else name: content for name, content in files.items()}
    return files


def without(files: Files, *starts: str) -> Files:
    return {name: content for name, content in files.items() if not name.startswith(starts)}


@dataclass
class Case:
    """Files, the options, and what is expected: counts of train, val, test with what is said, or an error."""

    files: Files
    counts: tuple[int, int, int] = (4, 2, 2)
    said: tuple[str, ...] = ()
    error: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    unused: tuple[str, ...] = ()  # images that belong to another task
    first: dict[str, int] | None = None  # the labels of the first train image; as they were written, if None


SKIP = {"on_corrupt": "skip"}
ALLOW = {"background": "allow"}
DOG = {"dog": 1}
LAYOUTS = {
    "as it should be": Case(standard()),
    "roboflow": Case(roboflow()),
    "valid.txt": Case(moved(standard(), (f"{MAIN}/val", f"{MAIN}/valid"))),
    "validation.txt": Case(moved(standard(), (f"{MAIN}/val", f"{MAIN}/validation"))),
    "dev.txt": Case(moved(standard(), (f"{MAIN}/val", f"{MAIN}/dev"))),
    "TRAIN.txt, Val.TXT, Test.txt": Case(
        moved(
            standard(),
            (f"{MAIN}/train", f"{MAIN}/TRAIN"),
            (f"{MAIN}/val.txt", f"{MAIN}/Val.TXT"),
            (f"{MAIN}/test", f"{MAIN}/Test"),
        )
    ),
    "testing.txt": Case(moved(standard(), (f"{MAIN}/test", f"{MAIN}/testing"))),
    "eval.txt": Case(moved(standard(), (f"{MAIN}/val", f"{MAIN}/eval"))),
    "holdout.txt": Case(
        moved(standard(), (f"{MAIN}/test", f"{MAIN}/holdout")), error=r"holdout\.txt: may list images to validate or to test"
    ),
    "val.txt and valid.txt": Case(
        standard(**{f"{MAIN}/valid.txt": "e\n"}), error=r"val\.txt and valid\.txt are both lists of val"
    ),
    "test_new.txt": Case(standard(**{f"{MAIN}/test_new.txt": "g 1\n"}), error=r"test_new\.txt: looks like the list of a split"),
    "val.csv": Case(standard(**{f"{MAIN}/val.csv": "g\n"}), error=r"val\.csv: looks like the list of a split"),
    "all.txt": Case(standard(**{f"{MAIN}/all.txt": "a\n"}), said=("Main/all.txt is not read",)),
    "VOC's lists for each class": Case(
        standard(**{f"{MAIN}/cat_train.txt": "a  1\nb -1\n", f"{MAIN}/yak_val.txt": "e -1\nf 0\n"})
    ),
    "a class named train": Case(
        standard(
            **{f"{MAIN}/train_{split}.txt": "g  1\nh -1\n" for split in ("train", "val", "trainval", "test")},
            **{"Annotations/a.xml": xml(thing("train"))},
        ),
        first={"train": 1},
    ),
    "trainval.txt of train and val": Case(standard(**{f"{MAIN}/trainval.txt": "a\nb\nc\nd\ne\nf\n"})),
    "trainval.txt with more": Case(
        standard(**{f"{MAIN}/trainval.txt": "a\nb\nc\nd\ne\nf\n", f"{MAIN}/val.txt": None}),
        error=r"trainval\.txt: images that are not in train\.txt or test\.txt: 2 \(first: 'e'\)",
    ),
    "trainval.txt alone": Case(
        changed(standard(), {f"{MAIN}/train.txt": None, f"{MAIN}/val.txt": None, f"{MAIN}/trainval.txt": "a\nb\n"}),
        (2, 0, 2),
        ("images that no list names, not used: 4", "annotations that no list names, not used: 4"),
    ),
    "no train.txt": Case(standard(**{f"{MAIN}/train.txt": None}), error=r"train\.txt: no such file, only test\.txt, val\.txt"),
    "lists in ImageSets": Case(moved(standard(), (f"{MAIN}/", "ImageSets/"))),
    "lists beside the folders": Case(moved(standard(), (f"{MAIN}/", ""))),
    "lists in two places": Case(standard(**{"ImageSets/val.txt": "a\n"}), error=r"lists in both .*Main and .*ImageSets"),
    "images/ and annotations/": Case(moved(standard(), ("JPEGImages", "images"), ("Annotations", "annotations"))),
    "Images/ and xmls/, no lists": Case(
        moved(without(standard(), MAIN), ("JPEGImages", "Images"), ("Annotations", "xmls")),
        (6, 0, 2),
        (r"2 of 8 images are split off as test, as no lists or folders say which images are \(data\.test_fraction=0\.3\)",),
        options={"test_fraction": 0.3},
    ),
    "all in one folder": Case(
        moved(without(standard(), MAIN), ("JPEGImages/", ""), ("Annotations/", "")), (6, 0, 2), ("2 of 8 images are split off",)
    ),
    "a list that is no split alone": Case(
        moved(standard(**{f"{MAIN}/val.txt": None, f"{MAIN}/test.txt": None}), (f"{MAIN}/train", f"{MAIN}/default")),
        (6, 0, 2),
        ("Main/default.txt is not read", "2 of 8 images are split off"),
    ),
    "two folders of images": Case(standard(**{"images/a.png": PIXELS[0]}), error="images in both JPEGImages/ and images/"),
    "a picture in the root": Case(
        standard(**{"logo.png": PIXELS[0]}), said=(r"images beside JPEGImages/, not read: 1 \(first: logo\.png\)",)
    ),
    "test/ beside the lists": Case(
        standard(**pair("test/x", "test/x", 0)), error="two things say which images belong to which split: the folder test/"
    ),
    "test/ without images": Case(standard(**{"test/run.py": "pass"}), said=("the folder test/ holds no image",)),
    "images/train, annotations/train": Case(
        {
            name.replace("/", f"/{'train' if name[-5] in 'abcd' else 'val' if name[-5] in 'ef' else 'test'}/", 1): content
            for name, content in without(standard(), MAIN).items()
        }
    ),
    "Validation/ and TEST/": Case(roboflow(("Train", "Validation", "TEST"))),
    "dev/ and testing/": Case(roboflow(("training", "dev", "testing"))),
    "holdout/": Case(roboflow(("train", "valid", "holdout")), error=r"holdout: may be for validation or for the test"),
    "val/ and valid/": Case(
        roboflow(**pair("val/x", "val/x", 0)), error=r"val/ and valid/ are both for val|valid/ and val/ are both for val"
    ),
    "test2017/": Case(roboflow(("train", "valid", "test2017")), error=r"test2017: looks like a split, but is none of"),
    "only test/ and valid/": Case(without(roboflow(), "train"), error=r"train: no such folder, only valid/, test/"),
    "an empty valid/": Case(
        changed(without(roboflow(), "valid"), {"valid/.gitkeep": ""}), error="valid: a folder for a split without images"
    ),
    "train/images and train/annotations": Case(
        {
            re.sub(
                r"/(.*)\.(png|xml)$", lambda m: f"/{'images' if m[2] == 'png' else 'annotations'}/{m[1]}.{m[2]}", name
            ): content
            for name, content in roboflow().items()
        }
    ),
    "another folder with images": Case(roboflow(**pair("extra/x", "extra/x", 1)), said=("the folder extra/ is not read",)),
    "train_val.txt": Case(
        standard(**{f"{MAIN}/train_val.txt": "a\nb\n"}), error=r"train_val\.txt: looks like the list of a split"
    ),
    "folders below JPEGImages/": Case(
        standard(**{"JPEGImages/more/x.png": PIXELS[0], "Annotations/more/x.xml": xml(thing())}),
        said=("the folder JPEGImages/more/ is not read", "the folder Annotations/more/ is not read"),
    ),
    "images only in folders below JPEGImages/": Case(
        moved(standard(), ("JPEGImages/", "JPEGImages/cam/"), ("Annotations/", "Annotations/cam/")),
        error=r"images lie in folders below JPEGImages/",
    ),
    "test/ inside of train/": Case(
        roboflow(**pair("train/test/x", "train/test/x", 0)), error=r"train/test: looks like a split in another folder"
    ),
    "test/ inside of JPEGImages/": Case(
        standard(**{"JPEGImages/test/x.png": PIXELS[0]}),
        error=r"images or annotations lie in them and in folders for splits below",
    ),
    "lists inside of train/": Case(
        roboflow(**{"train/ImageSets/Main/val.txt": "a"}), error=r"train: a folder for a split, and lists in .*Main: keep one"
    ),
    "a folder of masks": Case(standard(**{"SegmentationClass/a.png": PIXELS[0]}), said=(), unused=("SegmentationClass/a.png",)),
    "a folder of other annotations": Case(standard(**pair("more/x", "more/x", 0)), said=("the folder more/ is not read",)),
    "valid/ without annotations, allowed": Case(
        {name: content for name, content in roboflow().items() if not re.match(r"valid/.*xml", name)},
        said=("val images without annotation, taken as showing nothing: 2",),
        options=ALLOW,
    ),
    "a picture in the root, Roboflow": Case(
        roboflow(**{"logo.png": PIXELS[0]}), said=("images beside train/, valid/, test/, not read: 1",)
    ),
    "a YOLO export": Case(
        {"train/images/a.png": PIXELS[0], "train/labels/a.txt": "0 1 1 1 1"},
        error="train: 1 images and no XML annotation; other annotations, such as labels/a.txt, are not read",
    ),
    "a COCO export": Case(
        {name: content for name, content in roboflow(**{"train/_annotations.coco.json": "{}"}).items() if name[-4:] != ".xml"},
        error="train: 4 images and no XML annotation; other annotations, such as train/_annotations.coco.json, are",
    ),
    "an image folder": Case(
        {"train/cat/a.png": PIXELS[0], "train/dog/b.png": PIXELS[1]},
        error="train: 2 images and no XML annotation; .*data=folder",
    ),
    "one folder too high": Case(moved(standard(), ("", "VOC2007/")), error=r"did you mean data\.root=.*VOC2007\?"),
    "nothing at all": Case({"notes.txt": "x"}, error=r"Annotations: no such folder \(expected are"),
}
LITTER = (
    *("._a.xml", ".DS_Store", "Thumbs.db", "desktop.ini", "@eaDir/a.png", ".ipynb_checkpoints/a.png", "__MACOSX/a.xml"),
    *("a.xml~", "#recycle/b.png", "classes.txt"),
)
LISTS = {
    "extensions": Case(with_train("a.png\nb.jpg\nc.xml\nd\n")),
    "a flag column": Case(with_train("a 1\nb  -1\nc\t0\nd 1 0 1\n")),
    "Windows line ends, a mark, blank lines": Case(with_train(b"\xef\xbb\xbfa\r\n\r\nb\r\n  \r\nc\r\nd\r\n")),
    "old Mac line ends": Case(with_train(b"a\rb\rc\rd")),
    "UTF-16 from PowerShell": Case(with_train("a\r\nb\r\nc\r\nd\r\n".encode("utf-16"))),
    "comments": Case(with_train("# all\na\nb # blurred\n// and\nc\nd\n")),
    "paths": Case(with_train("JPEGImages/a.png\n./b\n/data/old/JPEGImages/c.png\nVOC\\JPEGImages\\d.png\n")),
    "pairs of paths": Case(with_train("".join(f"JPEGImages/{name}.png Annotations/{name}.xml\n" for name in "abcd"))),
    "another case": Case(with_train("A\nB.PNG\nc\nd\n")),
    "quotes and commas": Case(with_train('"a",1\n"b",0\nc,\nd;2\n')),
    "names with blanks": Case(
        moved(
            with_train("a 1\nb\nc\nd\nmy cat 01 1\n"),
            ("JPEGImages/h", "JPEGImages/my cat 01"),
            ("Annotations/h", "Annotations/my cat 01"),
        )
        | {f"{MAIN}/test.txt": "g"},
        (5, 2, 1),
    ),
    "a name that does not exist": Case(
        with_train("a\nb\nc\nzz\n"), error=r"train\.txt: line 4: 'zz': neither an image nor an annotation"
    ),
    "a name in train and test": Case(
        standard(**{f"{MAIN}/test.txt": "g\na\n"}),
        error=r"test\.txt: line 2: 'a' is listed already, in ImageSets/Main/train\.txt",
    ),
    "a name in train and test, skipped": Case(
        standard(**{f"{MAIN}/test.txt": "g\na\n"}),
        (4, 2, 1),
        ("test.txt line 2: 'a' is listed already", "no list names"),
        options=SKIP,
    ),
    "only comments": Case(standard(**{f"{MAIN}/test.txt": "# none\n"}), error=r"test\.txt: the list is empty"),
    "images that no list names": Case(with_train("a\nb\n"), (2, 2, 2), ("images that no list names, not used: 2",)),
}
ANNOTATIONS = {
    "tags in capitals": Case(with_a("<ANNOTATION><OBJECT><Name>dog</Name></OBJECT></ANNOTATION>"), first=DOG),
    "a namespace": Case(
        with_a("<annotation xmlns='http://localhost/x'><object><name>dog</name></object></annotation>"), first=DOG
    ),
    "no size": Case(with_a(xml(thing(), meta=""))),
    "size zero": Case(with_a(xml(thing(), meta="<size><width>0</width><height>0</height></size>"))),
    "another size, in words": Case(with_a(xml(thing(), meta="<size><width>wide</width></size>"))),
    "filename and path of another machine": Case(
        with_a(xml(thing(), meta="<path>C:\\x\\..\\b.jpg</path><folder>../..</folder>"))
    ),
    "a box outside": Case(with_a(xml(thing(inside=BOX.replace("4", "4000"))))),
    "swapped, negative, NaN and missing corners": Case(
        with_a(xml(thing(inside="<bndbox><xmin>9</xmin><xmax>-2</xmax><ymin>nan</ymin></bndbox>")))
    ),
    "a polygon": Case(with_a(xml(thing(inside="<polygon><x1>1</x1><y1>2</y1></polygon>")))),
    "no box": Case(with_a(xml(thing(inside="")))),
    "difficult in words": Case(with_a(xml(thing(inside="<difficult>True</difficult>"))), first={"cat": -1}),
    "difficult=1.0": Case(with_a(xml(thing(inside="<difficult>1.0</difficult>"))), first={"cat": -1}),
    "difficult=Unspecified": Case(with_a(xml(thing(inside="<difficult>Unspecified</difficult><truncated>maybe</truncated>")))),
    "difficult=hm": Case(with_a(xml(thing(inside="<difficult>hm</difficult>"))), said=("no yes and no no, .*: 1 .*'hm' in",)),
    "UTF-16": Case(with_a(xml(thing("dog")).encode("utf-16")), first=DOG),
    "UTF-8 with a mark": Case(with_a(b"\xef\xbb\xbf" + xml(thing("dog")).encode()), first=DOG),
    "declared UTF-16, but UTF-8": Case(with_a('<?xml version="1.0" encoding="utf-16"?>' + xml(thing("dog"))), first=DOG),
    "declared Latin-1": Case(
        with_a(b'<?xml version="1.0" encoding="ISO-8859-1"?>' + xml(thing("m\xfccke")).encode("latin-1")), first={"mücke": 1}
    ),
    "declared GBK": Case(with_a(b'<?xml version="1.0" encoding="GBK"?>' + xml(thing("猫")).encode("gbk")), first={"猫": 1}),
    "undeclared Latin-1": Case(
        with_a(xml(thing("m\xfccke")).encode("latin-1")), said=("annotations of unknown encoding.*: 1",), first={"mücke": 1}
    ),
    "blank lines first, and a bare &": Case(with_a("\n\n<?xml version='1.0'?>" + xml(thing("cat"), meta="<path>a & b</path>"))),
    "a deleted object": Case(with_a(xml(thing("dog"), thing(inside="<deleted>1</deleted>"))), first=DOG),
    "a negative image": Case(with_a(xml(meta="<owner/><source><database>x</database></source>")), first={}),
    "LabelMe": Case(
        with_a("<annotation><imagesize/>" + thing("dog", "<deleted>0</deleted><polygon/>") + "</annotation>"), first=DOG
    ),
    "LabelMe without names": Case(with_a(xml(thing(""))), error=r"a\.xml: an object without <name>: object 1"),
    "objekt": Case(
        with_a("<annotation><objekt><name>dog</name></objekt></annotation>"), error="objects that are not read: <objekt>"
    ),
    "objekt beside an object": Case(with_a(xml(thing(), "<objekt><name>dog</name></objekt>")), error="not read: <objekt>"),
    "wrapped objects": Case(with_a(f"<annotation><objects>{thing()}</objects></annotation>"), error="not read: <objects>"),
    "unknown children only": Case(with_a("<annotation><label>dog</label></annotation>"), error="not read: <label>"),
    "COCO in XML": Case(with_a('<annotation>{"annotations": []}</annotation>'), error="objects that are not read: text"),
    "CVAT": Case(
        with_a("<annotations><image><box label='cat'/></image></annotations>"), error="outermost element is <annotations>"
    ),
    "two names": Case(
        with_a(xml("<object><name>a</name><name>b</name></object>")), error="with several names: object 1 is a, b"
    ),
    "no XML": Case(standard(**{"Annotations/a.xml": None}), error=r"a\.xml: the image is listed.*data\.background=allow"),
    "no XML, allowed": Case(
        standard(**{"Annotations/a.xml": None}), said=("train images without annotation.*: 1",), options=ALLOW, first={}
    ),
    "no XML in test, skipped": Case(standard(**{"Annotations/g.xml": None}), (4, 2, 1), ("Annotations/g.xml",), options=SKIP),
    "no XML, Roboflow": Case(
        without(roboflow(), "train/a_jpg.rf.0123a.xml"),
        error=r"train/a_jpg\.rf\.0123a\.xml: the image exists, but this file does not",
    ),
    "no XML, Roboflow, allowed": Case(
        without(roboflow(), "test/g_jpg.rf.0123g.xml"), said=("test images without annotation.*: 1",), options=ALLOW
    ),
    "no image": Case(
        standard(**{"JPEGImages/a.png": None}), error=r"a\.jpg: the annotation is listed, but this file does not exist"
    ),
    "no image, Roboflow": Case(
        without(roboflow(), "train/b_jpg.rf.0123b.png"), (3, 2, 2), ("annotations without image, not used: 1",)
    ),
    "an image of another format": Case(
        moved(standard(), ("JPEGImages/a.png", "JPEGImages/a.psd")),
        error=r"but only a\.psd exists, not an image by its extension",
    ),
    "an image of another format, Roboflow": Case(
        moved(roboflow(), ("train/b_jpg.rf.0123b.png", "train/b_jpg.rf.0123b.psd")), error=r"0123b\.psd: has an annotation, but"
    ),
    "an XML in capitals": Case(moved(standard(), ("Annotations/a.xml", "Annotations/a.XML"))),
    "names that differ in blanks": Case(
        with_a(xml(thing("hot dog"), thing("hot_dog"))), said=("differ only in blanks",), first={"hot dog": 1, "hot_dog": 1}
    ),
    "a class of another case in test": Case(
        standard(**{"Annotations/g.xml": xml(thing("Cat"))}), error=r"class 'Cat' is none of cat, dog \(train has 'cat'\)"
    ),
    "a class that only test has": Case(
        standard(**{"Annotations/g.xml": xml(thing("yak"))}), (4, 2, 1), ("g.xml class 'yak' is none of",), options=SKIP
    ),
    "several at once": Case(
        standard(**{"Annotations/a.xml": "<annotation", "Annotations/g.xml": "", "JPEGImages/e.png": b"no image"}),
        error=r"3 files cannot be used: 2 malformed XML, 1 not an image by its content",
    ),
    "nothing of test remains": Case(
        standard(**{"Annotations/g.xml": "<annotation", "JPEGImages/h.png": b""}),
        error=r"no image of the test split can be used: 1 empty, 1 malformed XML",
        options=SKIP,
    ),
    "nothing of train remains": Case(
        standard(**{f"Annotations/{name}.xml": "" for name in "abcd"}),
        error=r"no annotation of the train split can be used and names an object: 4 malformed XML",
        options=SKIP,
    ),
    "nothing but background": Case(
        standard(**{f"Annotations/{name}.xml": xml() for name in "abcd"}),
        error=r"no annotation of the train split .* names an object$",
    ),
}
LITTERED = {
    "litter": Case(standard(**{f"{folder}{name}": b"x" for folder in ("", "Annotations/", "JPEGImages/") for name in LITTER})),
    "litter beside lists": Case(standard(**{f"{MAIN}/{name}": b"x" for name in LITTER if name != "classes.txt"})),
    "litter, Roboflow": Case(roboflow(**{f"{folder}{name}": b"x" for folder in ("", "train/") for name in LITTER})),
}
CASES = LAYOUTS | LISTS | ANNOTATIONS | LITTERED


def test_there_are_enough_cases() -> None:
    assert len(CASES) >= 100


@pytest.mark.parametrize("name", CASES)
def test_odd_data_sets(tmp_path: Path, name: str) -> None:
    root, case = tmp_path, CASES[name]
    for path, content in case.files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(content if isinstance(content, bytes) else content.encode())

    def read() -> tuple[Voc, dict[str, Any]]:
        source = Voc(root, **case.options)
        return source, {name: source.split(name) for name in SPLIT_NAMES}

    if case.error:
        with pytest.raises((ValueError, FileNotFoundError), match=case.error):
            read()
        return
    source, splits = read()
    assert tuple(len(one) if one else 0 for one in splits.values()) == case.counts
    text = "\n".join([*source.notes, *(f"{path} {reason}" for path, reason in source.skipped)])
    for sentence in case.said:
        assert re.search(sentence, text), text
    if not case.said:
        assert text == ""
    labels = dict(zip(source.classes, splits["train"].labels[0].tolist(), strict=True))
    name = Path(splits["train"].names[0]).stem[0].lower()
    expected = {"dog" if name in "bdfh" else "cat": 1} if case.first is None else case.first
    assert {label: value for label, value in labels.items() if value} == expected
    used = set(case.unused) | {name for one in splits.values() if one for name in one.names}
    on_disk = {name for name in case.files if name.endswith(".png") and not any(part in name for part in LITTER)}
    assert used <= on_disk
    assert used == on_disk or case.said, "an image is left out and nothing says so"
