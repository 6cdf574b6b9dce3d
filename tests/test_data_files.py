import os

import numpy as np
import pytest
import torch
from PIL import Image

from necklace.data import files as module
from necklace.data.files import File, cores, decode_files, decoded_sizes


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
    results = list(decode_files(many, decoded_sizes(many)))
    assert len(results) == 70
    for index, result in enumerate(results):
        if index in (20, 40):
            assert isinstance(result, str)
        else:
            assert isinstance(result, torch.Tensor)
            assert result.unique().tolist() == [index]
    assert results[40] == "No such file or directory"


def test_sizes_are_those_of_the_decoded_images(many, tmp_path):
    (tmp_path / "20.png").write_text("no image")
    sizes = decoded_sizes(many)
    assert sizes[:3] == [6, 12, 18]
    assert sizes[20] == 0
    assert sizes[-1] == 2000 * 2000 * 3
    for size, result in zip(sizes, decode_files(many, sizes), strict=True):
        assert size == (0 if isinstance(result, str) else result.numel())


def test_decoding_runs_only_a_little_ahead_and_stops_with_its_consumer(many, monkeypatch):
    monkeypatch.setattr(module, "cores", lambda: 1)
    done = []
    decode = module.decode
    monkeypatch.setattr(module, "decode", lambda data: (done.append(1), decode(data))[1])
    large = many[-3:] * 10
    results = decode_files(large, decoded_sizes(large))
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
