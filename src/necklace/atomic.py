"""Files that are written whole or not at all."""

import os
from pathlib import Path


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file so that a reader, and the next process after a crash, finds the old content or the new one, never half."""
    _replace(path, content, wait_for_disk=True)


def write_changed(path: Path, content: str | bytes) -> None:
    """Write a file whole if its content differs; without waiting for the disk, for copies that can be made again."""
    content = content.encode() if isinstance(content, str) else content
    if not path.exists() or path.read_bytes() != content:
        _replace(path, content, wait_for_disk=False)


def _replace(path: Path, content: str | bytes, wait_for_disk: bool) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(temporary, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            if wait_for_disk:
                file.flush()
                os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
