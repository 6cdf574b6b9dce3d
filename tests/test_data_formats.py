import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from necklace.data.files import decode
from necklace.data.formats import EXTENSIONS, FORMATS, content_of, is_image, why_odd_name, why_unreadable

PIXELS = np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8)


def encoded(kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(PIXELS).save(buffer, kind)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", FORMATS)
def test_what_pillow_reads_is_recognised_and_decoded(kind: str) -> None:
    data = encoded(kind)
    found = content_of(data[:512])
    assert found is not None
    assert found[1] == kind
    assert is_image(found[0])
    image = decode(data)
    assert image.shape == (9, 7, 3)
    if kind in ("PNG", "BMP", "TIFF", "PPM", "JPEG2000"):
        assert (image.numpy() == PIXELS).all()
    assert f"{found[0]} by its first bytes, but damaged" in why_unreadable(data)


@pytest.mark.parametrize(
    ("head", "what"),
    [
        (b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00mif1heic", "a HEIC image"),
        (b"\x00\x00\x00\x1cftypmif1\x00\x00\x00\x00mif1heicmiaf", "a HEIC image"),
        (b"\x00\x00\x00\x1cftypmif1\x00\x00\x00\x00mif1avifmiaf", "an AVIF image"),
        (b"\x00\x00\x00\x18ftypmp42\x00\x00\x00\x00isommp42", "a video (MP4)"),
        (b"\xff\x4f\xff\x51\x00\x2f", "a JPEG 2000 image"),
        (b"\xff\x0a\xfa\x1f", "a JPEG XL image"),
        (b"8BPS\x00\x01", "a Photoshop image (PSD)"),
        (b"II\x2a\x00\x10\x00\x00\x00CR\x02\x00", "a camera's raw image (CR2)"),
        (bytes(128) + b"DICM", "a DICOM image"),
        (b"\n<!doctype HTML><title>403", "a web page"),
        (b"<?xml version='1.0'?><svg>", "an SVG drawing, an image without pixels"),
        (b"<?xml version='1.0'?><annotation>", "an XML file"),
        (b"%PDF-1.7", "a PDF file"),
        (b"PK\x03\x04", "a ZIP archive"),
        (b"hello", None),
        (b"", None),
        (b"P", None),
    ],
)
def test_what_it_does_not_read_is_named(head: bytes, what: str | None) -> None:
    found = content_of(head)
    assert (found and found[0]) == what
    if what is not None and found is not None and found[1] is None:
        reason = why_unreadable(head)
        assert reason.startswith(f"{what}, which is not read here" if is_image(what) else f"not an image but {what}")


def test_the_reason_for_an_odd_name_comes_from_the_content(tmp_path: Path) -> None:
    def reason(name: str, data: bytes) -> str:
        (tmp_path / name).write_bytes(data)
        return why_odd_name(str(tmp_path / name))

    assert reason("a.txt", b"hello") == "not an image by its extension"
    assert reason("a.zip", b"PK\x03\x04") == "not an image by its extension"
    assert reason("a.jpg_large", encoded("JPEG")) == (
        "not an image by its extension, but a JPEG image by its content: give it that extension"
    )
    assert reason("a.nef", encoded("TIFF")).startswith("a TIFF image, which is not read here")  # a camera's raw data
    assert "cannot be read: No such file" in why_odd_name(str(tmp_path / "none"))
    assert all(extension == extension.lower() and extension[0] == "." for extension in EXTENSIONS)
