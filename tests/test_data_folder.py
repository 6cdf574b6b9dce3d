import io
import os
import tarfile
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from necklace.data.files import decode
from necklace.data.folder import Folder

SHARED = Path(__file__).parents[2] / "shared" / "data"


def pixels(height=6, width=9, channels=3, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)


def encoded(image, kind="PNG", **options):
    if not isinstance(image, Image.Image):
        image = Image.fromarray(image)
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def write(root, files):
    for name, data in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return root


@pytest.fixture
def root(tmp_path):
    return write(
        tmp_path / "data",
        {
            "train/dog/b.png": encoded(pixels(seed=1)),
            "train/dog/a.PNG": encoded(pixels(5, 4, seed=2)),
            "train/cat/z.png": encoded(pixels(1, 1, seed=3)),
            "train/cat/deeper/y.bmp": encoded(pixels(3, 40, seed=4), "BMP"),
            "test/dog/a.png": encoded(pixels(seed=5)),
        },
    )


def test_classes_names_labels_and_pixels(root):
    folder = Folder(root)
    assert folder.classes == ("cat", "dog")
    train, test = folder.split("train"), folder.split("test")
    assert train is not None
    assert test is not None
    assert folder.split("val") is None
    assert train.names == ("train/cat/deeper/y.bmp", "train/cat/z.png", "train/dog/a.PNG", "train/dog/b.png")
    assert train.labels.tolist() == [0, 0, 1, 1]
    assert test.labels.tolist() == [1]
    assert train.shapes.tolist() == [[3, 40], [1, 1], [5, 4], [6, 9]]
    assert (train.image(0).numpy() == pixels(3, 40, seed=4)).all()
    assert (train.image(3).numpy() == pixels(seed=1)).all()
    assert folder.skipped == ()


def test_content_does_not_depend_on_where_it_lies(root, tmp_path):
    before = Folder(root).split("train")
    root.rename(tmp_path / "moved")
    after = Folder(str(tmp_path / "moved")).split("train")
    assert before is not None
    assert after is not None
    assert before.digest() == after.digest()


def test_hidden_files_and_junk_are_passed_over(root):
    write(root, {"train/.DS_Store": b"x", "train/dog/Thumbs.db": b"x", "train/dog/.a.png": b"x", "train/.x/a.png": b""})
    write(root, {"README.txt": b"not looked at", "train/__MACOSX/dog/a.png": b"x"})
    folder = Folder(root)
    train = folder.split("train")
    assert train is not None
    assert len(train) == 4
    assert folder.classes == ("cat", "dog")
    assert folder.skipped == ()


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("train/dog/notes.txt", b"hello", "not an image by its extension"),
        ("train/loose.png", b"", "outside the class folders"),
        ("train/dog/text.jpg", b"hello", "not an image"),
        ("train/dog/empty.jpg", b"", "empty"),
        ("train/dog/cut.jpg", encoded(pixels(64, 64), "JPEG")[:1500], "truncated"),
        ("train/dog/cut.png", encoded(pixels(64, 64))[:1500], "truncated"),
        ("train/dog/float.tif", encoded(np.zeros((2, 2), dtype=np.float32), "TIFF"), "floating-point"),
        ("train/dog/int.tif", encoded(np.full((2, 2), 70000, dtype=np.int32), "TIFF"), "32-bit"),
        ("train/dog/script.png", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 1 1\n", "not an image"),
    ],
)
def test_what_is_no_image_stops_with_its_path_or_is_listed(root, name, data, reason):
    write(root, {name: data})
    with pytest.raises(ValueError, match=reason) as caught:
        Folder(root).split("train")
    assert str(root.resolve() / name) in str(caught.value)
    assert "\n" not in str(caught.value)
    folder = Folder(root, on_corrupt="skip")
    train = folder.split("train")
    assert train is not None
    assert len(train) == 4
    assert [path for path, _ in folder.skipped] == [name]
    assert reason in folder.skipped[0][1]
    folder.split("train")
    assert len(folder.skipped) == 1


def test_skipped_lists_the_splits_read(root):
    write(root, {"train/dog/x.png": b"x", "test/dog/x.png": b"x"})
    folder = Folder(root, on_corrupt="skip")
    assert folder.skipped == ()
    folder.split("test")
    assert [path for path, _ in folder.skipped] == ["test/dog/x.png"]
    folder.split("train")
    assert [path for path, _ in folder.skipped] == ["train/dog/x.png", "test/dog/x.png"]


def test_a_bomb_is_refused(root):
    write(root, {"train/dog/large.png": encoded(pixels(30, 50)), "train/dog/huge.png": encoded(pixels(50, 50))})
    before = Image.MAX_IMAGE_PIXELS
    with pytest.raises(ValueError, match=r"huge\.png: an image of 2500 pixels, more than .*=1000: data\.max_pixels=2500"):
        Folder(root, max_pixels=1000).split("train")
    folder = Folder(root, on_corrupt="skip", max_pixels=1000)
    assert folder.split("train") is not None
    assert [path for path, _ in folder.skipped] == ["train/dog/huge.png", "train/dog/large.png"]
    train = Folder(root, max_pixels=2500).split("train")
    assert train is not None
    assert len(train) == 6
    assert before == Image.MAX_IMAGE_PIXELS


def test_a_class_of_unreadable_images_only_is_an_error(root):
    write(root, {"train/ant/a.png": b"x"})
    with pytest.raises(ValueError, match=r"train/ant: none of its files is a readable image"):
        Folder(root, on_corrupt="skip").split("train")


def test_missing_and_empty_folders_are_named(root, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"data\.root=.*nowhere does not exist"):
        Folder(tmp_path / "nowhere")
    (tmp_path / "bare").mkdir()
    with pytest.raises(FileNotFoundError, match=r"data\.root=.*bare has no folder train/"):
        Folder(tmp_path / "bare")
    (tmp_path / "bare" / "train").mkdir()
    with pytest.raises(ValueError, match=r"bare/train: no class folders"):
        Folder(tmp_path / "bare")
    with pytest.raises(ValueError, match="on_corrupt='ignore' must be stop or skip"):
        Folder(root, on_corrupt="ignore")  # pyright: ignore[reportArgumentType]
    (root / "train" / "emu").mkdir()
    with pytest.raises(ValueError, match=r"train/emu: a class folder without images"):
        Folder(root)


@pytest.mark.parametrize("split", ["val", "test"])
def test_a_class_that_train_lacks_is_named(root, split):
    write(root, {f"{split}/zebra/a.png": encoded(pixels())})
    with pytest.raises(ValueError, match=rf"{split}/zebra: a class that .*train does not have"):
        Folder(root)


def test_links_out_of_the_root_are_refused(root, tmp_path):
    write(tmp_path, {"secret/a.png": encoded(pixels())})
    link = root / "train" / "dog" / "link.png"
    link.symlink_to(tmp_path / "secret" / "a.png")
    with pytest.raises(ValueError, match=r"train/dog/link\.png: a link that leads out of data\.root"):
        Folder(root)
    folder = Folder(root, on_corrupt="skip")
    train = folder.split("train")
    assert train is not None
    assert folder.skipped == (("train/dog/link.png", "a link that leads out of data.root (data.links=follow follows it)"),)
    link.unlink()
    for name in ("train/emu", "val"):
        (root / name).symlink_to(tmp_path / "secret")
        with pytest.raises(ValueError, match=rf"{name}: a link that leads out of data\.root"):
            Folder(root, on_corrupt="skip")
        (root / name).unlink()


def test_links_inside_the_root_are_followed_and_loops_are_not(root, tmp_path):
    (root / "train" / "dog" / "again.png").symlink_to(root / "test" / "dog" / "a.png")
    (root / "val").symlink_to("test")
    (tmp_path / "alias").symlink_to(root)
    folder = Folder(tmp_path / "alias")
    train, val = folder.split("train"), folder.split("val")
    assert train is not None
    assert val is not None
    assert "train/dog/again.png" in train.names
    assert val.names == ("val/dog/a.png",)
    (root / "train" / "dog" / "loop").symlink_to(root / "train" / "dog")
    (root / "train" / "cat" / "self").symlink_to("self")
    os.mkfifo(root / "train" / "cat" / "pipe.png")
    folder = Folder(root, on_corrupt="skip")
    folder.split("train")
    assert dict(folder.skipped) == {
        "train/cat/pipe.png": "not a regular file",
        "train/cat/self": "a broken link",
        "train/dog/loop": "a link to a folder that contains it",
    }


def test_two_folders_that_link_to_each_other_end(root):
    write(root, {"train/dog/one/a.png": encoded(pixels()), "train/dog/two/a.png": encoded(pixels())})
    (root / "train" / "dog" / "one" / "x").symlink_to("../two")
    (root / "train" / "dog" / "two" / "y").symlink_to("../one")
    folder = Folder(root, on_corrupt="skip")
    assert folder.split("train") is not None
    assert {path for path, _ in folder.skipped} == {"train/dog/one/x/y", "train/dog/two/y/x"}


def test_names_of_any_bytes_make_one_line(root):
    name = os.fsdecode(b"bad\nname\xff.png")
    (root / "train" / "dog" / name).write_bytes(b"x")
    with pytest.raises(ValueError, match=r"bad\\nname\\udcff\.png") as caught:
        Folder(root).split("train")
    str(caught.value).encode()
    (root / "train" / "dog" / name).write_bytes(encoded(pixels()))
    train = Folder(root).split("train")
    assert train is not None
    assert f"train/dog/{name}" in train.names


def test_unreadable_file_is_named(root, monkeypatch):
    really = os.open

    def refused(path, *others, **options):
        if str(path).endswith("y.bmp"):
            raise PermissionError(13, "Permission denied")
        return really(path, *others, **options)

    monkeypatch.setattr(os, "open", refused)
    with pytest.raises(ValueError, match=r"y\.bmp: Permission denied"):
        Folder(root).split("train")


def test_grey_black_and_white_and_palette():
    grey = pixels(channels=1)[..., 0]
    assert (decode(encoded(grey)).numpy() == grey[..., None]).all()
    bits = Image.fromarray(grey).convert("1")
    assert (decode(encoded(bits)).numpy() == np.array(bits.convert("L"))[..., None]).all()
    palette = Image.fromarray(pixels()).quantize(8)
    assert (decode(encoded(palette, "GIF")).numpy() == np.array(palette.convert("RGB"))).all()


def test_sixteen_bits_are_scaled_not_clipped():
    values = np.array([[0, 1, 128, 129], [257, 32896, 65406, 65535]], dtype=np.uint16)
    expected = np.array([[0, 0, 0, 1], [1, 128, 254, 255]])
    assert (decode(encoded(values)).numpy() == expected[..., None]).all()
    assert (decode(encoded(values, "TIFF")).numpy() == expected[..., None]).all()
    pgm = b"P5 4 2 65535\n" + values.astype(">u2").tobytes()
    assert (decode(pgm).numpy() == expected[..., None]).all()


def test_transparency_is_put_on_white():
    rgba = pixels(channels=4)
    rgba[0, :, 3], rgba[1, :, 3] = 0, 255
    found = decode(encoded(rgba)).numpy().astype(int)
    alpha = rgba[..., 3:].astype(float) / 255
    assert np.abs(found - (rgba[..., :3] * alpha + 255 * (1 - alpha))).max() <= 1
    assert (found[0] == 255).all()
    assert (found[1] == rgba[1, :, :3]).all()
    assert (decode(encoded(rgba, "WEBP", lossless=True, exact=True)).numpy()[1] == rgba[1, :, :3]).all()
    grey = decode(encoded(Image.fromarray(rgba).convert("LA")))
    assert (grey[0] == 255).all()
    # One palette entry transparent, and transparency as bytes, about which Pillow warns.
    palette = Image.fromarray(pixels()).quantize(4)
    index = np.array(palette)
    for transparency in (2, bytes([255, 255, 0, 255])):
        found = decode(encoded(palette, transparency=transparency)).numpy()
        assert (found[index == 2] == 255).all()
        assert (found[index != 2] == np.array(palette.convert("RGB"))[index != 2]).all()


def test_cmyk():
    cmyk = Image.fromarray(pixels(16, 16)).resize((64, 64)).convert("CMYK")
    found = decode(encoded(cmyk, "JPEG", quality=98, subsampling=0)).numpy().astype(int)
    assert np.abs(found - np.array(cmyk.convert("RGB")).astype(int)).mean() < 3


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(kind, orientation):
    stored = pixels(4, 7)
    turned = {
        1: stored,
        2: stored[:, ::-1],
        3: stored[::-1, ::-1],
        4: stored[::-1],
        5: stored.transpose(1, 0, 2),
        6: np.rot90(stored, -1),
        7: stored[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(stored),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if kind == "WEBP" else {}
    assert (decode(encoded(stored, kind, exif=exif, **options)).numpy() == turned).all()


def test_exif_that_cannot_be_parsed_leaves_the_image_as_it_is(root):
    stored = np.tile(np.linspace(0, 255, 16).astype(np.uint8)[None, :, None], (8, 1, 3))
    plain = encoded(stored, "JPEG", quality=95)
    entries = b"\x00\x05" + b"\x01\x12\x00\x03\x00\x00\xff\xff\x00\x00\xff\xff" * 2
    for payload in (b"Exif\x00\x00garbage", b"Exif\x00\x00MM\x00\x2a\x00\x00\x00\x08" + entries, b"Exif\x00\x00"):
        segment = b"\xff\xe1" + (len(payload) + 2).to_bytes(2, "big") + payload
        write(root, {"train/dog/broken.jpg": plain[:2] + segment + plain[2:]})
        train = Folder(root).split("train")
        assert train is not None
        image = train.image(train.names.index("train/dog/broken.jpg"))
        assert torch.equal(image, decode(plain))


def test_first_frame_of_an_animation():
    frames = [Image.fromarray(pixels(seed=seed)).quantize(16) for seed in range(3)]
    animation = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert (decode(animation).numpy() == np.array(frames[0].convert("RGB"))).all()


def test_mutated_files_end_in_an_image_or_a_reason(root):
    rng = np.random.default_rng(0)
    exif = Image.Exif()
    exif[0x0112] = 6
    originals = [
        encoded(pixels(40, 30), "JPEG", exif=exif),
        encoded(pixels(40, 30)),
        encoded(Image.fromarray(pixels(40, 30)).quantize(16), "GIF"),
        encoded(pixels(40, 30), "TIFF", compression="tiff_lzw"),
        encoded(pixels(40, 30), "WEBP"),
        encoded(pixels(40, 30), "BMP"),
    ]
    for index in range(300):
        data = bytearray(originals[index % len(originals)])
        for _ in range(int(rng.integers(1, 12))):
            # Headers are short; half of the mutations go there.
            place = int(rng.integers(len(data) if rng.random() < 0.5 else 60))
            data[place] = int(rng.integers(256))
        if rng.random() < 0.3:
            data = data[: int(rng.integers(len(data)))]
        write(root, {f"train/dog/{index:03}.png": bytes(data)})
    folder = Folder(root, on_corrupt="skip")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train = folder.split("train")
    assert train is not None
    assert len(train) + len(folder.skipped) == 304
    assert 50 < len(folder.skipped) < 290
    assert all(reason and "\n" not in reason for _, reason in folder.skipped)


def test_cifar_as_jpeg(tmp_path):
    archive = SHARED / "cifar10-jpeg.tar.xz"
    if not archive.exists():
        pytest.skip(f"{archive} is not there")
    with tarfile.open(archive) as tar:
        members = [member for member in (tar.next() for _ in range(40)) if member is not None and member.isfile()]
        for member in members:
            stream = tar.extractfile(member)
            assert stream is not None
            write(tmp_path, {f"train/{Path(member.name).parent.name}/{Path(member.name).name}": stream.read()})
    train = Folder(tmp_path).split("train")
    assert train is not None
    assert len(train) == len(members) > 20
    assert train.common_shape == (32, 32)
    assert 60 < train.pixels.double().mean() < 190
