import hashlib
import io
import os
import tarfile
import time
import urllib.request
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
from PIL import Image
from torchvision.datasets.voc import DATASET_YEAR_DICT

from necklace.data.splits import read_splits
from necklace.data.voc import CLASSES, Voc
from tests.conftest import compose_train

SHARED = Path(__file__).parents[2] / "shared" / "data"


def encoded(height=20, width=30, mode="RGB", kind="JPEG", seed=0, **options):
    image = Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)).convert(mode)
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def thing(name="cat", box=(2, 3, 10, 12), difficult: object = 0):
    sides = "".join(f"<{side}>{value}</{side}>" for side, value in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True))
    return f"<object><name>{name}</name><difficult>{difficult}</difficult><bndbox>{sides}</bndbox></object>"


def xml(*objects, size: tuple[int, int] | None = (30, 20), filename="a.jpg"):
    said = f"<size><width>{size[0]}</width><height>{size[1]}</height><depth>3</depth></size>" if size else ""
    return f"<annotation><filename>{filename}</filename>{said}{''.join(objects)}</annotation>".encode()


def write(root, files):
    for name, data in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return root


@pytest.fixture
def root(tmp_path):
    """Two good images in train, `a` and `b`, and one in test."""
    return write(
        tmp_path / "data",
        {
            "JPEGImages/a.jpg": encoded(),
            "Annotations/a.xml": xml(thing("cat"), thing("dog", difficult=1), thing("cat", difficult=1)),
            "JPEGImages/b.PNG": encoded(7, 9, kind="PNG", seed=1),
            "Annotations/b.xml": xml(thing("cow", (1, 1, 9, 7)), size=(9, 7)),
            "JPEGImages/t.jpg": encoded(seed=2),
            "Annotations/t.xml": xml(),
            "ImageSets/Main/train.txt": "a\nb\n",
            "ImageSets/Main/test.txt": "t\r\n\r\n",
        },
    )


def usable(root, **options):
    """The training split read with `skip`, and what was skipped."""
    source = Voc(root, on_corrupt="skip", **options)
    train = source.split("train")
    assert train is not None
    return train, source.skipped


def check_refused(root, name, reason):
    """With `stop` an error that names the file; with `skip` the image is left out and listed, and `b` stays."""
    with pytest.raises(ValueError, match=reason) as caught:
        Voc(root).split("train")
    assert str(root / name) in str(caught.value)
    train, skipped = usable(root)
    assert train.names == ("JPEGImages/b.PNG",)
    assert [path for path, _ in skipped] == [name]


def test_labels_follow_the_rule_for_difficult_objects(root):
    source = Voc(root)
    assert source.classes == ("cat", "cow", "dog")
    train, test = source.split("train"), source.split("test")
    assert train is not None
    assert test is not None
    assert train.names == ("JPEGImages/a.jpg", "JPEGImages/b.PNG")
    assert train.labels.tolist() == [[1, 0, -1], [0, 1, 0]]
    assert test.labels.tolist() == [[0, 0, 0]]
    assert train.shapes.tolist() == [[20, 30], [7, 9]]
    assert source.split("val") is None
    assert source.skipped == ()


def test_a_lone_trainval_is_the_training_split(root):
    (root / "ImageSets/Main/train.txt").rename(root / "ImageSets/Main/trainval.txt")
    train = Voc(root).split("train")
    assert train is not None
    assert len(train) == 2
    write(root, {"ImageSets/Main/val.txt": "a"})
    with pytest.raises(FileNotFoundError, match=r"train\.txt: no such file"):
        Voc(root)


BAD_XML = {
    "malformed": (xml()[:-5], "malformed XML"),
    "empty": (b"", "malformed XML"),
    "other root": (b"<html/>", "outermost element is <html>"),
    "laughs": (
        b'<!DOCTYPE a [<!ENTITY a "ha">' + b"".join(b'<!ENTITY a%d "&a;&a;">' % n for n in range(9)) + b"]><annotation/>",
        "DOCTYPE",
    ),
    "external": (b'<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><annotation>&x;</annotation>', "DOCTYPE"),
    "no name": (xml("<object><name> </name></object>"), "an object without <name>: object 1"),
}


@pytest.mark.parametrize("case", BAD_XML)
def test_bad_annotations_are_refused(root, case):
    data, reason = BAD_XML[case]
    write(root, {"Annotations/a.xml": data})
    check_refused(root, "Annotations/a.xml", reason)


@pytest.mark.parametrize("name", ["../../a", "/etc/passwd", "..", "sub/a", "a\\b", "a\0b"])
def test_names_that_lead_elsewhere_are_refused(root, name):
    write(root, {"ImageSets/Main/train.txt": f"{name}\nb\n"})
    check_refused(root, "ImageSets/Main/train.txt", r"line 1: .* without folders")


def test_names_listed_twice_are_refused(root):
    write(root, {"ImageSets/Main/train.txt": "b\nb\n"})
    check_refused(root, "ImageSets/Main/train.txt", "line 2: 'b' is listed already")
    write(root, {"ImageSets/Main/train.txt": "a\nb\n", "ImageSets/Main/test.txt": "t\na\n"})
    with pytest.raises(ValueError, match=r"test\.txt: line 2: 'a' is listed already, in ImageSets/Main/train\.txt"):
        Voc(root)


def test_half_a_pair_is_refused(root):
    data = (root / "Annotations/a.xml").read_bytes()
    (root / "Annotations/a.xml").unlink()
    check_refused(root, "Annotations/a.xml", "the image is listed, but this file does not exist")
    write(root, {"Annotations/a.xml": data})
    (root / "JPEGImages/a.jpg").unlink()
    check_refused(root, "JPEGImages/a.jpg", "the annotation is listed, but this file does not exist")
    write(root, {"JPEGImages/a.jpg": encoded(), "JPEGImages/a.png": encoded(kind="PNG")})
    check_refused(root, "JPEGImages/a.jpg", r"one of several images of that name: a\.jpg, a\.png")


@pytest.mark.parametrize("name", ["Annotations/a.xml", "JPEGImages/a.jpg"])
def test_links_and_special_files(root, name):
    path, inside, outside = root / name, root / "kept", root.parent / "outside"
    path.rename(inside)
    path.symlink_to(inside)
    assert len(usable(root)[0]) == 2
    inside.rename(outside)
    check_refused(root, name, "a broken link")
    path.unlink()
    path.symlink_to(outside)
    check_refused(root, name, r"a link that leads out of data\.root")
    path.unlink()
    path.symlink_to(path.name)
    check_refused(root, name, "link")
    path.unlink()
    os.mkfifo(path)  # reading it would wait for ever
    check_refused(root, name, "not a regular file")


@pytest.mark.parametrize("name", ["Annotations", "JPEGImages", "ImageSets", "ImageSets/Main/test.txt"])
def test_folders_and_lists_outside_the_root_are_refused(root, name):
    (root / name).rename(root.parent / "outside")
    (root / name).symlink_to(root.parent / "outside")
    with pytest.raises(ValueError, match=rf"{name}.*: a link that leads out of data\.root"):
        Voc(root, on_corrupt="skip")


def test_a_class_in_two_cases_is_a_hint_and_images_that_are_all_unlike_are_split_too(root):
    write(
        root,
        {"Annotations/a.xml": xml(thing("cat")), "Annotations/b.xml": xml(thing("Cat")), "Annotations/t.xml": xml(thing())},
    )
    splits = read_splits(Voc(root))
    assert {name: len(images) for name, images in splits.images.items()} == {"train": 1, "val": 1, "test": 1}
    assert [note for note in splits.notes if "case" in note] == ["classes Cat and cat differ only in case"]


def test_an_empty_split_is_refused(root):
    for text in ("", "\n \n"):
        write(root, {"ImageSets/Main/test.txt": text})
        with pytest.raises(ValueError, match=r"test\.txt: the list is empty"):
            Voc(root)


def test_a_class_that_train_does_not_have_is_refused(root):
    write(root, {"Annotations/t.xml": xml(thing("yak"))})
    with pytest.raises(ValueError, match=r"Annotations/t\.xml: class 'yak' is none of cat, cow, dog"):
        Voc(root)
    source = Voc(root, on_corrupt="skip")
    with pytest.raises(ValueError, match="no image of the test split can be used"):
        source.split("test")
    assert [path for path, _ in source.skipped] == ["Annotations/t.xml"]


@pytest.mark.parametrize("shape", [(1, 1), (4000, 10), (10, 4000)])
def test_extreme_shapes(root, shape):
    height, width = shape
    annotation = xml(thing(box=(1, 1, width, height)), size=(width, height))
    write(root, {"Annotations/a.xml": annotation, "JPEGImages/a.jpg": encoded(height, width)})
    assert usable(root)[0].shapes.tolist()[0] == [height, width]


@pytest.mark.parametrize(
    "data", [encoded(mode="L"), encoded(mode="CMYK"), encoded(mode="RGBA", kind="PNG"), encoded(mode="I;16", kind="PNG")]
)
def test_kinds_of_images(root, data):
    write(root, {"JPEGImages/a.jpg": data})
    train, skipped = usable(root)
    assert (len(train), skipped) == (2, ())


@pytest.mark.parametrize("size", [(30, 20), (20, 30), None])
def test_size_may_be_that_before_or_after_exif_turns_the_image(root, size):
    exif = Image.Exif()
    exif[274] = 6
    write(root, {"JPEGImages/a.jpg": encoded(exif=exif), "Annotations/a.xml": xml(thing(), size=size)})
    assert usable(root)[0].shapes.tolist()[0] == [30, 20]


def test_unreadable_images_are_refused(root):
    for data in (encoded()[:200], b"", b"no image"):
        write(root, {"JPEGImages/a.jpg": data})
        check_refused(root, "JPEGImages/a.jpg", r"JPEGImages/a\.jpg: ")


def official(root, year="2007"):
    root.rename(root.parent / "old")
    root.mkdir()
    target = root / DATASET_YEAR_DICT[year]["base_dir"]
    target.parent.mkdir(parents=True)
    (root.parent / "old").rename(target)
    return target


def test_official_layout_has_the_20_classes(root):
    folder = official(root)
    source = Voc(root, year=2007)
    train = source.split("train")
    assert source.classes == CLASSES
    assert len(CLASSES) == 20
    assert train is not None
    assert train.names[0] == "JPEGImages/a.jpg"
    assert train.labels[0].nonzero().flatten().tolist() == [CLASSES.index("cat"), CLASSES.index("dog")]
    write(folder, {"Annotations/a.xml": xml(thing("yak"))})
    with pytest.raises(ValueError, match=r"VOC2007/Annotations/a\.xml: class 'yak' is none of aeroplane"):
        Voc(root, year="2007")
    with pytest.raises(FileNotFoundError, match=r"no such folder.*; .*set data\.year"):
        Voc(root)


def no_network(*args, **kwargs):
    raise URLError("no network")


def test_without_files_or_network_it_says_what_it_wants(tmp_path, monkeypatch):
    monkeypatch.setattr(urllib.request, "urlopen", no_network)
    wanted = r"VOCtrainval_06-Nov-2007\.tar and VOCtest_06-Nov-2007\.tar; .*put .* into .*data"
    with pytest.raises(FileNotFoundError, match=wanted):
        Voc(tmp_path / "data", year=2007)
    with pytest.raises(FileNotFoundError, match=f"no network.*{wanted}"):
        Voc(tmp_path / "data", year=2007, download=True)
    with pytest.raises(FileNotFoundError, match=wanted):
        Voc(tmp_path / "data", year=2007)
    with pytest.raises(FileNotFoundError, match=r"no network.*VOCtrainval_11-May-2012\.tar"):
        Voc(tmp_path, year=2012, download=True)


def test_an_archive_put_there_by_hand_is_unpacked_once(root, monkeypatch):
    folder = official(root, "2012")
    (folder / "JPEGImages/b.PNG").rename(folder / "JPEGImages/b.jpg")
    (folder / "ImageSets/Main/test.txt").unlink()
    write(folder, {"ImageSets/Main/trainval.txt": "a\nb\n"})
    other = root.parent / "other"
    other.mkdir()
    archive = other / "VOCtrainval_11-May-2012.tar"
    with tarfile.open(archive, "w") as tar:
        tar.add(root / "VOCdevkit", "VOCdevkit")
    monkeypatch.setitem(DATASET_YEAR_DICT["2012"], "md5", hashlib.md5(archive.read_bytes()).hexdigest())
    monkeypatch.setattr(urllib.request, "urlopen", no_network)
    for _ in range(2):
        train = Voc(other, year=2012, download=True).split("train")
        assert train is not None
        assert len(train) == 2
        archive.write_bytes(b"never looked at again")
    (other / "VOCdevkit/VOC2012/JPEGImages/b.jpg").unlink()  # as an unpacking that was cut off leaves it
    with pytest.raises(FileNotFoundError, match=r"no network.*damaged or could not be unpacked: .*VOCtrainval"):
        Voc(other, year=2012, download=True)


def test_options_are_checked(root):
    with pytest.raises(ValueError, match=r"data\.year=1999: must be 2007, .*2012"):
        Voc(root, year=1999)
    with pytest.raises(ValueError, match=r"data\.download=true needs data\.year"):
        Voc(root, download=True)
    with pytest.raises(ValueError, match="must be stop or skip"):
        Voc(root, on_corrupt="no")  # pyright: ignore[reportArgumentType]
    with pytest.raises(FileNotFoundError, match="does not exist"):
        Voc(root / "none")
    with pytest.raises(FileNotFoundError, match=r"Annotations: no such folder \(expected are"):
        Voc(root / "Annotations")


def test_config_composes_to_a_source(root):
    config, _ = compose_train(["data=voc", f"data.root={root}"])
    source = Voc(**{key: value for key, value in config.data.source.items() if key != "_target_"})
    assert source.classes == ("cat", "cow", "dog")


def mutated(data: bytes, generator: np.random.Generator, pieces: list[bytes]) -> bytes:
    """Bytes changed, cut out, repeated, replaced by something nasty, or the end cut off: up to four times."""
    changed = bytearray(data)
    for _ in range(generator.integers(1, 5)):
        kind, length = generator.integers(5), len(changed)
        start, size = int(generator.integers(length + 1)), int(generator.integers(1, 20))
        part = changed[start : start + size]
        if kind == 0:
            part = generator.integers(0, 256, len(part), dtype=np.uint8).tobytes()
        elif kind == 1:
            part = b""
        elif kind == 2:
            part = part * 3
        elif kind == 3:
            part = pieces[generator.integers(len(pieces))]
        else:
            size = length
            part = b""
        changed[start : start + size] = part
    return bytes(changed)


NASTY_XML = [
    b"<",
    b"</object>",
    b"&x;",
    b"-7",
    b"1e999",
    b"nan",
    b"999999",
    b"\0",
    b"../",
    b"]]>",
    b"<object>",
    b"\xff\xfe",
    b"",
]
NASTY_BYTES = [b"\xff\xd8", b"\xff\xd9", b"\xff\xff", b"\0" * 8, b"IDAT", b"IEND", b"\x7f\xff\xff\xff", b"Exif\0\0", b""]


@pytest.mark.parametrize("kind", ["xml", "images"])
def test_fuzz(root, kind):
    generator = np.random.default_rng(0)
    good = xml(thing("cat"), thing("dog", (4, 5, 29, 19), 1), thing("cow"))
    names = [f"f{number}" for number in range(300)]
    exif = Image.Exif()
    exif[274] = 6
    pictures = [encoded(exif=exif), encoded(kind="PNG"), encoded(mode="CMYK"), encoded(mode="P", kind="PNG")]
    for number, name in enumerate(names):
        picture, annotation = pictures[number % 4], good
        if kind == "xml":
            annotation = mutated(annotation, generator, NASTY_XML)
        else:
            picture = mutated(picture, generator, NASTY_BYTES)
        write(root, {f"JPEGImages/{name}.jpg": picture, f"Annotations/{name}.xml": annotation})
    write(root, {"ImageSets/Main/train.txt": "\n".join(["a", *names])})
    (root / "ImageSets/Main/test.txt").unlink()
    started = time.perf_counter()
    train, skipped = usable(root)
    kept = {Path(name).stem for name in train.names}
    left_out = {Path(path).stem: reason for path, reason in skipped}
    # Each is used or listed.
    assert kept | set(left_out) == {"a", *names}
    assert not kept & set(left_out)
    assert all(reason for _, reason in skipped)
    assert len(left_out) > 100
    # One by one, each that was left out stops a run with its file's name.
    for name in sorted(left_out):
        write(root, {"ImageSets/Main/train.txt": f"a\n{name}\n"})
        with pytest.raises((ValueError, OSError), match=rf"{name}\.(xml|jpg): "):
            Voc(root).split("train")
    assert time.perf_counter() - started < 60


def test_bccd(tmp_path):
    archive = SHARED / "bccd-voc.tar.xz"
    if not archive.exists():
        pytest.skip(f"needs {archive}")
    with tarfile.open(archive) as tar:
        tar.extractall(tmp_path, filter="data")
    source = Voc(tmp_path / "BCCD")
    assert source.classes == ("Platelets", "RBC", "WBC")
    splits = [source.split("train"), source.split("val"), source.split("test")]
    assert [len(split) for split in splits if split is not None] == [205, 87, 72]
    assert (source.skipped, source.notes) == ((), ())
