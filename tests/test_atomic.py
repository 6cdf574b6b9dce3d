from pathlib import Path

import pytest

from necklace.atomic import write_changed, write_whole


def test_write_whole_replaces_or_leaves(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_whole(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_whole(path, "new \udc80")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
    write_whole(path, "new")
    assert path.read_text() == "new"


def test_an_unchanged_file_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_changed(path, "text")
    before = path.stat()
    write_changed(path, b"text")
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    write_changed(path, b"other")
    assert path.read_text() == "other"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
