import os
import resource
import sys
import time
from importlib import import_module, invalidate_caches
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from PIL import Image

import necklace.data.cache
import necklace.data.pixel_files
import necklace.source_code
from necklace.build import datamodule_of
from necklace.data.augment import Augmentation
from necklace.data.cache import PixelCache
from necklace.data.context import Context
from necklace.data.datamodule import DataModule
from necklace.data.folder import Folder
from necklace.data.glyphs import Glyphs
from necklace.data.images import ImageSet
from necklace.data.sizes import Fixed, Multiscale, Native
from necklace.data.splits import read_splits
from necklace.data.voc import Voc
from necklace.identity import run_identity
from necklace.locks import locked
from tests.conftest import compose_train
from tests.warm import WarmProcess

SHAPES = [(20, 30), (17, 9), (20, 30), (40, 12), (1, 1), (33, 64)]


def put_images(root: Path, count: int = 12) -> Path:
    """Images of several shapes in two classes; the first one lies on its side, as its EXIF says."""
    generator = np.random.default_rng(0)
    for index in range(count):
        folder = root / "train" / ("cat", "dog")[index % 2]
        folder.mkdir(parents=True, exist_ok=True)
        height, width = SHAPES[index % len(SHAPES)]
        image = Image.fromarray(generator.integers(0, 256, (height, width, 3), dtype=np.uint8))
        exif = Image.Exif()
        exif[0x0112] = 6 if index == 0 else 1
        image.save(folder / f"{index:03}.png", exif=exif)
    return root


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return put_images(tmp_path / "images")


def train_split(root: Path, cache: Path, memory_gib: float = 0) -> ImageSet:
    images = Folder(root, "stop", memory_gib, cache).split("train")
    assert images is not None
    return images


def decoded(root: Path) -> ImageSet:
    """The same split, decoded in this process."""
    images = Folder(root).split("train")
    assert images is not None
    return images


def file_mapped_at(images: ImageSet) -> str:
    """The file behind the memory that holds the pixels; empty where there is none."""
    address = images.pixels.data_ptr()
    for line in Path("/proc/self/maps").read_text(encoding="utf-8").splitlines():
        span, _, _, _, _, *path = line.split(maxsplit=5)
        start, end = (int(text, 16) for text in span.split("-"))
        if start <= address < end:
            return path[0] if path else ""
    raise AssertionError("the pixels lie nowhere")


def no_decoding(*args):
    raise AssertionError("decoded again")


def test_a_split_is_mapped_from_the_cache_whether_it_fits_or_not(root, tmp_path):
    images = train_split(root, tmp_path / "cache", memory_gib=4)
    assert images.starts is None
    (file,) = (tmp_path / "cache").glob("*.pixels")
    assert file_mapped_at(images) == str(file)
    size = images.pixels.numel() / 2**30
    assert train_split(root, tmp_path / "cache", memory_gib=size).starts is None
    assert train_split(root, tmp_path / "cache", memory_gib=size * 0.999).starts is not None
    assert len(list((tmp_path / "cache").glob("*.pixels"))) == 1


def test_without_a_cache_nothing_is_written(root, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    images = Folder(root, "stop", memory_gib=0, cache=None).split("train")
    assert images is not None
    assert images.starts is None
    assert images.digest() == train_split(root, tmp_path / "cache").digest()
    assert [path for path in sorted(tmp_path.rglob("*")) if "cache" not in path.parts] == before


def test_a_mapped_split_has_the_same_content_and_is_decoded_once(root, tmp_path, monkeypatch):
    held, mapped = decoded(root), train_split(root, tmp_path)
    assert held.shapes[0].tolist() == [30, 20]
    assert mapped.digest() == held.digest()
    (file,) = tmp_path.glob("*.pixels")
    assert file_mapped_at(mapped) == str(file)
    assert not file_mapped_at(held).endswith(".pixels")
    monkeypatch.setattr(necklace.data.cache, "decode_files", no_decoding)
    root.rename(tmp_path / "moved")
    assert train_split(tmp_path / "moved", tmp_path).digest() == held.digest()
    with pytest.raises(AssertionError, match="decoded again"):
        decoded(tmp_path / "moved")


def test_selecting_shares_the_mapped_pixels(root, tmp_path):
    held, mapped = train_split(root, tmp_path, memory_gib=4), train_split(root, tmp_path)
    chosen = [7, 2, 11, 0]
    part = mapped.select(chosen).select([2, 0, 3])
    assert part.pixels.data_ptr() == mapped.pixels.data_ptr()
    assert part.digest() == held.select([11, 7, 0]).digest()
    assert torch.equal(part.resized(8, 6), held.select([11, 7, 0]).resized(8, 6))
    same = mapped.select([6, 9])
    assert same.common_shape == (17, 9)
    assert torch.equal(same.resized(17, 9), torch.stack([held.image(6), held.image(9)]))
    assert len(mapped.select([])) == 0
    assert mapped.select([]).digest() == held.select([]).digest()


def test_writing_to_the_pixels_does_not_reach_the_file(root, tmp_path):
    images = train_split(root, tmp_path)
    before = images.digest()
    images.pixels.fill_(7)
    assert train_split(root, tmp_path).digest() == before


@pytest.mark.parametrize("sizes", [Fixed(16), Multiscale([8, 24], 16), Native(32, 4)])
def test_batches_of_a_mapped_split_are_those_of_one_in_memory(root, tmp_path, sizes):
    modules = [
        DataModule(read_splits(Folder(root, "stop", memory_gib, tmp_path), 0.3), sizes, 2, 0, Augmentation(flip=True))
        for memory_gib in (4, 0)
    ]
    held, mapped = modules
    assert held.digest == mapped.digest
    for module in modules:
        assert len(module.splits["val"]) == 4
    for loader in ("train_dataloader", "val_dataloader"):
        pairs = list(zip(*[getattr(module, loader)() for module in modules], strict=True))
        assert pairs
        for first, second in pairs:
            assert torch.equal(first.images, second.images)
            assert torch.equal(first.labels, second.labels)
    assert all(part.pixels.data_ptr() == mapped.splits["train"].pixels.data_ptr() for part in mapped.splits.values())
    assert file_mapped_at(mapped.splits["train"]).endswith(".pixels")
    assert not any(sized._made for sized in mapped._sized.values())  # no copy at another size is kept


def test_what_cannot_be_read_is_skipped_and_listed_from_the_cache_too(root, tmp_path, monkeypatch):
    (root / "train/cat/000.png").write_bytes((root / "train/cat/000.png").read_bytes()[:200])
    (root / "train/dog/text.png").write_text("no image")
    places = ((4, None), (0, tmp_path / "cache"), (4, tmp_path / "cache"))
    sources = [Folder(root, "skip", memory_gib, place) for memory_gib, place in places]
    digests = []
    for source in sources:
        images = source.split("train")
        assert images is not None
        digests.append(images.digest())
    assert len(set(digests)) == 1
    assert sources[0].skipped == sources[1].skipped == sources[2].skipped
    assert [name for name, _ in sources[0].skipped] == ["train/cat/000.png", "train/dog/text.png"]
    monkeypatch.setattr(necklace.data.cache, "decode_files", no_decoding)
    with pytest.raises(ValueError, match=r"000\.png: .*truncated"):
        train_split(root, tmp_path / "cache")


def test_stopping_at_a_bad_file_leaves_no_file(root, tmp_path):
    (root / "train/dog/z.png").write_text("no image")
    with pytest.raises(ValueError, match=r"z\.png: not an image"):
        train_split(root, tmp_path / "cache")
    assert [path.suffix for path in (tmp_path / "cache").iterdir()] == [".lock"]


def test_a_voc_split_is_mapped_too(root, tmp_path):
    (root / "ImageSets/Main").mkdir(parents=True)
    (root / "Annotations").mkdir()
    (root / "train").rename(root / "JPEGImages")
    names = []
    for path in sorted(root.glob("JPEGImages/*/*.png")):
        path.rename(root / "JPEGImages" / path.name)
        names.append(path.stem)
        with Image.open(root / "JPEGImages" / path.name) as image:
            thing = "<object><name>dot</name></object>" if image.size == (1, 1) else ""
        end = "" if path.stem == "003" else "</annotation>"  # cut off
        (root / f"Annotations/{path.stem}.xml").write_text(f"<annotation>{thing}{end}")
    (root / "ImageSets/Main/train.txt").write_text("\n".join(names))
    sources = [Voc(root, on_corrupt="skip", memory_gib=memory_gib, cache=tmp_path / "cache") for memory_gib in (4, 0, 0)]
    splits = [source.split("train") for source in sources]
    assert [split.starts is not None for split in splits if split] == [False, True, True]
    assert len({split.digest() for split in splits if split}) == 1
    for source in sources:
        assert [name for name, _ in source.skipped] == ["Annotations/003.xml"]
    assert splits[1] is not None
    assert len(splits[1]) == 11
    assert int(splits[1].labels.sum()) == 2


def test_the_file_is_of_bytes_names_and_order(root, tmp_path):
    def files() -> int:
        train_split(root, tmp_path)
        return len(list(tmp_path.glob("*.pixels")))

    assert files() == 1
    (root / "train/cat/004.png").rename(root / "train/cat/0040.png")
    assert files() == 2
    (root / "train/cat/0040.png").write_bytes((root / "train/cat/000.png").read_bytes())
    assert files() == 3
    first, second = root / "train/cat/000.png", root / "train/cat/002.png"
    contents = first.read_bytes(), second.read_bytes()
    first.write_bytes(contents[1])
    second.write_bytes(contents[0])
    assert files() == 4
    assert files() == 4


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take what changed just now for settled: no test can set the time of a change of the inode."""
    monkeypatch.setattr(necklace.data.cache, "_SETTLED_S", -60)


@pytest.mark.usefixtures("settled")
def test_what_was_not_touched_is_not_read_again(root, tmp_path, monkeypatch):
    first = train_split(root, tmp_path).digest()
    assert len(list(tmp_path.glob("*.index"))) == 1

    def no_reading(path):
        raise AssertionError(f"{path} was read again")

    monkeypatch.setattr(necklace.data.cache, "content_of", no_reading)
    assert train_split(root, tmp_path).digest() == first
    path = root / "train/cat/002.png"
    path.write_bytes(path.read_bytes())
    with pytest.raises(AssertionError, match=r"was read again"):
        train_split(root, tmp_path)


@pytest.mark.usefixtures("settled")
def test_a_change_that_keeps_size_and_time_is_seen(root, tmp_path):
    path = root / "train/cat/002.png"
    before, at = train_split(root, tmp_path).digest(), path.stat()
    other = path.read_bytes()
    Image.fromarray(np.full((20, 30, 3), 9, dtype=np.uint8)).save(path)
    path.write_bytes((path.read_bytes() + bytes(len(other)))[: len(other)])
    os.utime(path, ns=(at.st_atime_ns, at.st_mtime_ns))
    assert path.stat().st_size == at.st_size
    assert train_split(root, tmp_path).digest() != before


def test_what_has_just_changed_is_not_remembered_by_its_time(root, tmp_path):
    train_split(root, tmp_path)
    assert not list(tmp_path.glob("*.index"))


@pytest.mark.usefixtures("settled")
def test_beyond_the_limit_what_was_unused_for_longest_goes(root, tmp_path, monkeypatch):
    folders = []
    for number in range(3):
        folder = tmp_path / f"images{number}"
        put_images(folder)
        Image.fromarray(np.full((20, 30, 3), number, dtype=np.uint8)).save(folder / "train/cat/004.png")
        folders.append(folder)
    cache = tmp_path / "cache"
    digests = [train_split(folder, cache).digest() for folder in folders[:2]]
    sizes = {path: path.stat().st_size for path in cache.glob("*.pixels")}
    now = os.stat(root).st_mtime
    for path in sizes:
        os.utime(path, (now - 100, now - 100))
    kept = train_split(folders[0], cache)  # used again
    monkeypatch.setattr(necklace.data.pixel_files, "LIMIT_GIB", 2.5 * max(sizes.values()) / 2**30)
    train_split(folders[2], cache)
    assert len(list(cache.glob("*.pixels"))) == len(list(cache.glob("*.index"))) == 2
    assert file_mapped_at(kept) in map(str, cache.glob("*.pixels"))
    assert [train_split(folder, cache).digest() for folder in folders[:2]] == digests


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> tuple[Path, Path, bytes, str]:
    base = tmp_path_factory.mktemp("whole")
    root = put_images(base / "images")
    digest = train_split(root, base / "cache").digest()
    (path,) = (base / "cache").glob("*.pixels")
    return root, path, path.read_bytes(), digest


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_a_file_that_is_not_whole_is_made_anew(whole, data):
    root, path, content, digest = whole
    cut = data.draw(st.integers(0, len(content) - 1))
    damaged = data.draw(
        st.sampled_from(
            [content[:cut], content[cut + 1 :], content + content[:cut] + b"x", b"\0" * cut, content[:-8] + b"\xff" * 8]
        )
    )
    path.write_bytes(damaged)
    assert train_split(root, path.parent).digest() == digest
    assert path.read_bytes() == content


def test_a_full_disk_is_a_clear_error_and_leaves_no_half_file(root, tmp_path):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))  # the system refuses to let a file grow beyond this
    try:
        with pytest.raises(OSError, match=r"data\.cache=.*cannot write .*too large.*data\.cache=null decodes"):
            train_split(root, tmp_path / "cache")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [path.suffix for path in (tmp_path / "cache").iterdir()] == [".lock"]
    assert len(train_split(root, tmp_path / "cache")) == 12


def test_a_cache_that_cannot_be_made_is_named(root, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"data\.cache=.*file/cache: cannot write"):
        train_split(root, tmp_path / "file/cache")


@pytest.mark.parametrize("memory_gib", [-1, float("nan"), None, "4"])
def test_a_wrong_limit_is_named(memory_gib):
    with pytest.raises(ValueError, match=rf"data\.memory_gib={memory_gib}: must be"):
        PixelCache("cache", memory_gib)


# Reads a split; leaves a file for each time that it decodes, and the digest that it sees.
READ_SLOWLY = """
import sys, time
from pathlib import Path
import necklace.data.cache as cache
from necklace.data.folder import Folder
from necklace.data.glyphs import Glyphs

root, folder, number = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
decode_files = cache.decode_files

def watched(files, read):
    (folder / f"decoded_{number}").touch()
    time.sleep(0.5)  # the other one asks meanwhile
    yield from decode_files(files, read)

cache.decode_files = watched
(folder / f"ready_{number}").touch()
while len(list(folder.glob("ready_*"))) < 2:
    time.sleep(0.01)
(folder / f"digest_{number}").write_text(Folder(root, "stop", 0, folder / "cache").split("train").digest())
"""


@pytest.mark.slow
def test_of_two_processes_one_decodes(root, tmp_path):
    processes = [
        WarmProcess("-c", READ_SLOWLY, str(root), str(tmp_path), str(number), cwd=tmp_path, env=os.environ)
        for number in range(2)
    ]
    for process in processes:
        ended = process.finish(120)
        assert (ended.returncode, ended.stderr) == (0, "")
    assert len(list(tmp_path.glob("decoded_*"))) == 1
    expected = decoded(root).digest()
    assert [path.read_text() for path in tmp_path.glob("digest_*")] == [expected] * 2
    found = {path.suffix for path in (tmp_path / "cache").iterdir()}
    assert found - {".index"} == {".lock", ".pixels"}


@pytest.fixture
def loaded_now(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the code's files, edited or checked out just now, for those that this process has loaded."""
    monkeypatch.setattr(necklace.source_code, "_LOADED_NS", time.time_ns() + 60 * 10**9)


def no_drawing(*args):
    raise AssertionError("drawn again")


@pytest.mark.usefixtures("loaded_now")
@pytest.mark.parametrize(("kind", "options"), [(Glyphs, {}), (Context, {"image_size": (48, 60)})])
def test_what_was_drawn_once_is_mapped(kind, options, tmp_path, monkeypatch):
    in_memory = {name: kind(train=20, test=8, **options).split(name) for name in ("train", "test")}
    first = kind(train=20, test=8, cache=tmp_path, **options)
    assert {name: first.split(name).digest() for name in in_memory} == {name: one.digest() for name, one in in_memory.items()}
    monkeypatch.setattr(kind, "_image", no_drawing)
    again = kind(train=20, test=8, cache=str(tmp_path), **options)
    assert again.split("val") is None
    for name, expected in in_memory.items():
        images = again.split(name)
        assert images.digest() == expected.digest()
        assert images.starts is None
        assert torch.equal(images.labels, expected.labels)
        assert file_mapped_at(images).endswith(".pixels")
    with pytest.raises(AssertionError, match="drawn again"):
        kind(train=20, test=8, cache=tmp_path, seed=1, **options).split("train")
    assert len(list(tmp_path.glob("*.pixels"))) == 2
    assert not list(tmp_path.glob("*.part"))
    assert len(kind(train=0, test=8, cache=tmp_path, **options).split("train")) == 0


DRAWS = """
import torch
from necklace.data.cache import drawn_split
from necklace.data.images import ImageSet
from {shades} import SHADE

class Plain:
    def __init__(self, cache):
        self.cache, self.side = cache, 3

    def split(self, name):
        def draw():
            return ImageSet.build([torch.full((self.side, 2, 3), SHADE, dtype=torch.uint8)], [0], ["one"])

        return drawn_split(self, name, draw)
"""


def edited(folder: Path, shade: int, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A source in files of its own, of which one says how bright the image is, loaded anew."""
    (folder / "plain_source.py").write_text(DRAWS.format(shades="plain_shades"))
    (folder / "plain_shades.py").write_text(f"SHADE = {shade}\n")
    for name in ("plain_source", "plain_shades"):
        sys.modules.pop(name, None)
    for known in (necklace.source_code._parsed, necklace.source_code._located, necklace.source_code.file_of):
        known.cache_clear()
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.syspath_prepend(str(folder))
    invalidate_caches()
    return import_module("plain_source").Plain


@pytest.mark.usefixtures("loaded_now")
def test_an_edit_of_a_module_that_draws_is_seen(tmp_path, monkeypatch):
    for shade, files in ((10, 1), (20, 2), (10, 2)):
        images = edited(tmp_path, shade, monkeypatch)(tmp_path / "cache").split("train")
        assert images.pixels.unique().tolist() == [shade]
        assert len(list((tmp_path / "cache").glob("*.pixels"))) == files


def test_code_that_changed_after_it_was_loaded_leaves_no_file(tmp_path, monkeypatch):
    """What is drawn then is not what the file says."""
    source = edited(tmp_path, 10, monkeypatch)
    assert source(tmp_path / "cache").split("train").pixels.unique().tolist() == [10]
    assert not (tmp_path / "cache").exists()


@pytest.mark.usefixtures("loaded_now")
def test_drawn_images_whose_file_is_not_whole_are_drawn_anew(tmp_path):
    def digest(cache: Path | None) -> str:
        images = Glyphs(train=12, test=0, cache=cache).split("train")
        assert images is not None
        return images.digest()

    expected = digest(None)
    assert digest(tmp_path) == expected
    (path,) = tmp_path.glob("*.pixels")
    content = path.read_bytes()
    for damaged in (b"", content[:-1], content[1:], content + b"x", content[:-30] + bytes(30), content[:-8] + b"\xff" * 8):
        path.write_bytes(damaged)
        assert digest(tmp_path) == expected
        assert path.read_bytes() == content


@pytest.mark.usefixtures("loaded_now")
def test_a_cache_that_cannot_be_written_is_named_for_drawn_images_too(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(
        OSError, match=r"data\.cache=.*file/cache: cannot write drawn .*data\.cache=null draws them into memory"
    ):
        Glyphs(train=12, test=0, cache=tmp_path / "file/cache").split("train")


def test_where_the_pixels_are_does_not_make_another_cell(root, tmp_path):
    identities = []
    for memory_gib in (4, 0):
        chosen = ["data=folder", f"data.root={root}", f"outputs={tmp_path}", f"data.memory_gib={memory_gib}", "batch_size=2"]
        plain: Any = OmegaConf.to_container(compose_train(chosen)[0], resolve=True)
        data = datamodule_of(plain)
        assert (data.splits["train"].starts is not None) == (memory_gib == 0)
        identities.append(run_identity(plain, data.digest))
    assert identities[0] == identities[1]
    assert os.listdir(tmp_path / "cache")


@pytest.mark.usefixtures("loaded_now")
@pytest.mark.parametrize("name", ["glyphs", "context"])
def test_a_run_on_drawn_images_is_the_same_run_with_and_without_a_cache(name, tmp_path):
    identities = []
    for chosen in ([], ["data.cache=null"]):
        small = [f"data={name}", f"outputs={tmp_path}", "data.source.train=120", "data.source.test=16", *chosen]
        plain: Any = OmegaConf.to_container(compose_train(small)[0], resolve=True)
        identities.append(run_identity(plain, datamodule_of(plain).digest))
        assert len(list((tmp_path / "cache").glob("*.pixels"))) == 2
    assert identities[0] == identities[1]


def test_what_a_killed_writer_left_goes_and_what_another_is_writing_stays(tmp_path: Path) -> None:
    """Whose file it is, its lock says, and no clock: those of machines that share a disk differ."""
    dead, alive = (tmp_path / f"{letter * 64}.other.7.part" for letter in "ab")
    for path in (dead, alive):
        path.write_bytes(b"half")
    with locked(tmp_path / f"{'b' * 64}.lock"):
        new = tmp_path / f"{'c' * 64}.pixels"
        new.write_bytes(b"whole")
        necklace.data.pixel_files._remove_unused(tmp_path, new)
    assert sorted(path.name[0] for path in tmp_path.glob("*.p*")) == ["b", "c"]
