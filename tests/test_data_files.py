import os
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from necklace.data import files as module
from necklace.data.files import File, check_max_pixels, cores, decode, decode_files, open_root


@pytest.fixture
def many(tmp_path):
    """70 images of rising width, the last three of which are large."""
    found = []
    for index in range(70):
        shape = (2000, 2000) if index > 66 else (2, index + 1)
        path = tmp_path / f"{index:02}.png"
        Image.fromarray(np.full((*shape, 3), index, dtype=np.uint8)).save(path, compress_level=1)
        found.append(File(str(path), path.name))
    return found


def test_images_come_in_order_with_reasons_in_their_places(many, tmp_path):
    (tmp_path / "20.png").write_text("no image")
    (tmp_path / "40.png").unlink()
    results = list(decode_files(many))
    assert len(results) == 70
    for index, result in enumerate(results):
        if index in (20, 40):
            assert isinstance(result, str)
        else:
            assert isinstance(result, torch.Tensor)
            assert result.unique().tolist() == [index]
    assert results[40] == "No such file or directory"


def test_decoding_runs_only_a_little_ahead_and_stops_with_its_consumer(many, monkeypatch):
    monkeypatch.setattr(module, "cores", lambda: 1)
    done = []
    decode = module.decode
    monkeypatch.setattr(module, "decode", lambda *given: (done.append(1), decode(*given))[1])
    large = many[-3:] * 10
    results = decode_files(large)
    next(results)
    results.close()
    assert 1 <= len(done) <= 3


def test_cores_are_those_that_this_process_may_use():
    allowed = os.sched_getaffinity(0)
    assert cores() == len(allowed)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        assert cores() == 1
    finally:
        os.sched_setaffinity(0, allowed)


def header_of(width: int, height: int) -> bytes:
    """A PNG that says how large it is and holds no pixels."""
    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    end = b"IDAT"
    parts = (struct.pack(">I", len(part) - 4) + part + struct.pack(">I", zlib.crc32(part)) for part in (chunk, end))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.mark.parametrize("side", [9460, 60_000])  # a little above the limit, and above Pillow's own, which is twice it
def test_an_image_of_too_many_pixels_is_refused_before_it_is_decoded(side):
    reason = f"an image of {side**2} pixels, more than data.max_pixels=89478485: data.max_pixels={side**2} reads it"
    with pytest.raises(ValueError, match=reason):
        decode(header_of(side, side))


def test_limits_that_overlap_hold_each_for_its_own_and_pillows_comes_back(many):
    before = Image.MAX_IMAGE_PIXELS
    small, large = ([File(file.path, file.name, max_pixels=pixels) for file in many] for pixels in (100, 4_000_000))
    first = decode_files(small)
    second = decode_files(large)
    pairs = list(zip(first, second, strict=True))
    assert [isinstance(one, str) for one, _ in pairs] == [index >= 50 for index in range(70)]  # 2 x 51 pixels and more
    assert not any(isinstance(other, str) for _, other in pairs)
    assert before == Image.MAX_IMAGE_PIXELS


@pytest.mark.parametrize("limit", [0, -1, 1.5, True, None, "many"])
def test_a_limit_that_is_no_number_of_pixels_is_refused(limit):
    with pytest.raises(ValueError, match=f"data.max_pixels={limit}: must be a whole number of pixels from 1"):
        check_max_pixels(limit)


def test_a_root_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "images.zip").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"data\.root=.*images\.zip is a file: must be a folder"):
        open_root(tmp_path / "images.zip", "stop")
