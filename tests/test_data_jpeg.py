import io

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from necklace.data.files import MAX_PIXELS, File, decode, decode_files
from necklace.data.jpeg import Plain, decode_plain

pytestmark = pytest.mark.filterwarnings("ignore:.*TorchCodec")

# Names that Pillow has for the shares of the colours' resolution, and one that it has no name for.
SAMPLINGS = ("4:4:4", "4:2:2", "4:2:0", 0, 1, 2)


def picture(height: int, width: int, mode: str = "RGB", seed: int = 0) -> Image.Image:
    """A smooth picture with some noise, so that each frequency counts."""
    rng = np.random.default_rng(seed)
    channels = {"L": 1, "RGB": 3, "CMYK": 4}[mode]
    coarse = rng.integers(0, 256, (2, 2, channels), dtype=np.uint8)
    smooth = np.asarray(Image.fromarray(coarse[:, :, :3] if channels > 1 else coarse[:, :, 0]).resize((width, height)))
    pixels = smooth.reshape(height, width, -1).astype(int)[:, :, [0, 1, 2, 0][:channels] if channels > 1 else [0]]
    noisy = (pixels + rng.integers(-40, 41, pixels.shape)).clip(0, 255).astype(np.uint8)
    return Image.fromarray(noisy[:, :, 0] if mode == "L" else noisy, mode if mode == "CMYK" else None)


def jpeg(image: Image.Image, **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, "JPEG", **options)  # pyright: ignore[reportArgumentType]
    return out.getvalue()


def plain(data: bytes) -> torch.Tensor:
    decoded = decode_plain([data])
    assert decoded is not None
    return decoded[0]


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 70),
    st.integers(1, 70),
    st.sampled_from(("L", "RGB")),
    st.integers(1, 100),
    st.sampled_from(SAMPLINGS),
    st.booleans(),
    st.sampled_from((0, 1, 5)),
)
def test_pixels_are_pillows(height, width, mode, quality, sampling, optimize, restart):
    options = {"subsampling": sampling} if mode == "RGB" else {}
    data = jpeg(
        picture(height, width, mode, quality), quality=quality, optimize=optimize, restart_marker_blocks=restart, **options
    )
    assert Plain(MAX_PIXELS)(data)
    assert torch.equal(plain(data), decode(data))


def exif(orientation: int) -> Image.Exif:
    found = Image.Exif()
    found[0x0112] = orientation
    return found


NOT_PLAIN = {
    "exif": jpeg(picture(20, 30), exif=exif(6)),
    "upright exif": jpeg(picture(20, 30), exif=exif(1)),
    "cmyk": jpeg(picture(20, 30, "CMYK")),
    "progressive": jpeg(picture(20, 30), progressive=True),
    "rgb": jpeg(picture(20, 30), keep_rgb=True),
    "truncated": jpeg(picture(20, 30))[:-40],
    "without an end": jpeg(picture(20, 30))[:-2],
    "empty": b"",
    "a mark alone": b"\xff\xd8\xff\xd9",
    "png": b"\x89PNG\r\n\x1a\n\xff\xd9",
}


@pytest.mark.parametrize("what", NOT_PLAIN)
def test_what_pillow_treats_in_a_way_of_its_own_is_not_plain(what):
    assert not Plain(MAX_PIXELS)(NOT_PLAIN[what])


def test_a_colour_profile_is_passed_over_and_a_large_image_is_not_plain():
    data = jpeg(picture(20, 30), icc_profile=b"profile" * 50)
    assert Plain(600)(data)
    assert torch.equal(plain(data), decode(data))
    assert not Plain(599)(data)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_a_damaged_file_comes_out_as_from_pillow(tmp_path_factory, data):
    """Bytes that were changed, cut out or doubled, with the end in place."""
    content = bytearray(jpeg(picture(24, 40, seed=data.draw(st.integers(0, 3))), quality=90))
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(2, len(content) - 3))
        length = data.draw(st.integers(0, 20))
        content[place : place + length] = data.draw(st.binary(max_size=8))
        content = content if content.endswith(b"\xff\xd9") else content + b"\xff\xd9"
    path = tmp_path_factory.mktemp("damaged") / "a.jpg"
    path.write_bytes(content)
    try:
        expected: torch.Tensor | str = decode(bytes(content))
    except ValueError as error:
        expected = str(error)
    (found,) = decode_files([File(str(path), "a.jpg")])
    if isinstance(expected, str) or isinstance(found, str):
        assert found == expected
    else:
        assert torch.equal(found, expected)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sampled_from([*NOT_PLAIN, *range(4)]), min_size=2, max_size=8))
def test_what_is_plain_does_not_depend_on_the_files_before(kinds):
    """Some of them begin with the same bytes: by 0 and 1 of one size, 2 of another, 3 grey."""
    of_number = [
        jpeg(picture(20, 30, seed=0)),
        jpeg(picture(20, 30, seed=1)),
        jpeg(picture(30, 20)),
        jpeg(picture(20, 30, "L")),
    ]
    is_plain = Plain(MAX_PIXELS)
    for kind in kinds:
        data = NOT_PLAIN[kind] if isinstance(kind, str) else of_number[kind]
        assert is_plain(data) == Plain(MAX_PIXELS)(data) == isinstance(kind, int)
