import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from necklace.data.folder import Folder
from necklace.data.problems import Problems


def png(seed: int = 0) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (9, 9, 3), dtype=np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def test_one_problem_is_one_line_and_more_are_counted(tmp_path: Path) -> None:
    problems = Problems(tmp_path, "stop")
    problems.raise_if_any()
    problems.add("test", "a.png", "bad: very")
    problems.add("test", "a.png", "bad: very")
    with pytest.raises(ValueError, match=r"a\.png: bad: very \(data\.on_corrupt=skip leaves such files out\)$") as caught:
        problems.raise_if_any()
    assert "\n" not in str(caught.value)
    for number in range(13):
        problems.add("train", f"{number:02}.png", "worse")
    with pytest.raises(ValueError, match="14 files cannot be used: 13 worse, 1 bad") as caught:
        problems.raise_if_any()
    lines = str(caught.value).splitlines()
    assert lines[1:] == [f"  {number:02}.png: worse" for number in range(10)] + ["  and 4 more"]


def test_with_skip_nothing_is_raised_and_all_is_listed_by_split(tmp_path: Path) -> None:
    problems = Problems(tmp_path, "skip")
    problems.add("test", "a", "x")
    problems.add("train", "c", "y")
    problems.add("train", "b", "y")
    problems.raise_if_any()
    assert problems.skipped(["test", "train"]) == (("b", "y"), ("c", "y"), ("a", "x"))
    assert problems.of("test") == (("a", "x"),)


def test_a_run_stops_with_the_problems_of_all_splits_and_stages(tmp_path: Path) -> None:
    """Two files of the wrong kind, found in the listing, and three that cannot be decoded, in two splits."""
    for split in ("train", "val", "test"):
        for kind in ("cat", "dog"):
            (tmp_path / split / kind).mkdir(parents=True)
            (tmp_path / split / kind / "good.png").write_bytes(png())
    for name in ("train/cat/a.png", "test/dog/a.png", "test/dog/b.png"):
        (tmp_path / name).write_bytes(b"no image")
    with pytest.raises(ValueError, match="3 files cannot be used: 3 not an image"):
        Folder(tmp_path).split("train")
    for name in ("train/cat/x.txt", "val/cat/x.txt"):
        (tmp_path / name).write_bytes(b"text")
    with pytest.raises(ValueError, match="3 not an image by its content, 2 not an image by its extension"):
        Folder(tmp_path)
    source = Folder(tmp_path, on_corrupt="skip")
    for split in ("train", "val", "test"):
        source.split(split)
    assert len(source.skipped) == 5
