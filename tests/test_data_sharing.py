import json
import os
from pathlib import Path
from typing import Any

import pytest

from necklace.data.glyphs import Glyphs
from necklace.data.sharing import SHARED_IMAGES, share_images, shared_images
from necklace.data.splits import read_splits, share_splits, splits_of
from tests.test_data_splits import Counted, Toy, key_of
from tests.warm import WarmProcess, warm_up


@pytest.fixture(autouse=True)
def _fresh() -> None:
    warm_up()
    splits_of.cache_clear()


READ = """
import json, sys
from necklace.data.splits import splits_of
splits = splits_of(sys.argv[1])
facts = {"digest": splits.digest, "classes": splits.classes, "skipped": splits.skipped, "gap": splits.min_gap}
facts["notes"] = splits.notes
splits.images["train"].pixels.fill_(0)  # stays in this process
print(json.dumps(facts))
"""


def read_elsewhere(key: str) -> tuple[dict[str, Any], str]:
    """Facts about the images that another process has, and the splits that it has drawn itself."""
    done = WarmProcess("-c", READ, key, cwd=Path.cwd(), env=os.environ).finish()
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), done.stderr


def test_another_process_maps_what_this_one_has_read() -> None:
    expected = json.loads(json.dumps({"digest": splits_of(key_of()).digest, "classes": Glyphs.classes, "gap": None}))
    expected["skipped"] = [list(pair) for pair in Counted.skipped]
    expected["notes"] = list(splits_of(key_of()).notes)
    assert expected["notes"][0] == Counted.notes[0]
    files = set(os.listdir("/proc/self/fd"))
    with share_splits([key_of(), key_of(test_images=10)]):
        path = os.environ[SHARED_IMAGES]
        for _ in range(2):
            assert read_elsewhere(key_of()) == (expected, "")
        other, drawn = read_elsewhere(key_of(test_images=10))
        assert (other["digest"]["train"], drawn) == (expected["digest"]["train"], "")
        assert other["digest"]["test"] != expected["digest"]["test"]
        _, drawn = read_elsewhere(key_of(val_fraction=0.5))  # not shared
        assert "drawn: train" in drawn
    assert SHARED_IMAGES not in os.environ
    assert set(os.listdir("/proc/self/fd")) == files
    os.environ[SHARED_IMAGES] = path  # files that no longer exist
    try:
        assert read_elsewhere(key_of()) == (expected, "".join(f"drawn: {name}\n" for name in ("train", "val", "test")))
    finally:
        del os.environ[SHARED_IMAGES]


def test_only_the_key_that_was_shared_is_found() -> None:
    toy = read_splits(Toy([40, 20]))
    with share_images(["toy"], lambda key: toy):
        found = shared_images("toy")
        assert found is not None
        assert found.digest == toy.digest
        assert shared_images("other") is None
    assert shared_images("toy") is None
