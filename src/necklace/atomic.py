"""Files that are written whole or not at all.

A file is written under a temporary name beside its own, `.NAME.HOST.PID`, and then takes its place: a disk that several
machines share has no two writers of one temporary file, and what a process that was killed left is known by its name.
"""

import errno
import os
import re
import socket
from pathlib import Path

HOST = re.sub(r"[^0-9A-Za-z-]", "-", socket.gethostname())[:40] or "host"
# The disk is full, or this user's share of it, or the largest file that this process may write.
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class CannotWrite(OSError):
    """A file that cannot be written; its words name the file, which those of a full disk do not."""

    def __str__(self) -> str:
        return f"{self.filename}: cannot be written ({self.strerror})"


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file so that a reader, and the next process after a crash, finds the old content or the new one, never half.

    Raises:
        CannotWrite: The disk is full, for example; the old content stands.
    """
    _replace(path, content, wait_for_disk=True)


def write_changed(path: Path, content: str | bytes) -> None:
    """Write a file whole if its content differs; without waiting for the disk, for copies that can be made again.

    Raises:
        CannotWrite: As of `write_whole`.
    """
    content = content.encode() if isinstance(content, str) else content
    if not path.exists() or path.read_bytes() != content:
        _replace(path, content, wait_for_disk=False)


def temporary(path: Path) -> Path:
    """The name under which this process writes a file before it takes its place."""
    return path.with_name(f".{path.name}.{HOST}.{os.getpid()}")


def is_left_over(path: Path) -> bool:
    """Whether a file is a temporary one of a process of this machine that has ended without removing it."""
    found = re.fullmatch(r"\..+\.(?P<host>[0-9A-Za-z-]+)\.(?P<pid>[0-9]{1,9})", path.name)
    if found is None or found["host"] != HOST:  # of another machine, whose processes cannot be seen from here
        return False
    try:
        os.kill(int(found["pid"]), 0)
    except ProcessLookupError:
        return True
    except PermissionError:  # another user's process
        return False
    return False


def is_full(error: BaseException | None) -> bool:
    """Whether an error comes from a full disk, whatever other errors were made of it."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        # Some libraries raise an error of their own, with the system's words.
        if getattr(error, "errno", None) in FULL or os.strerror(errno.ENOSPC) in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


def _replace(path: Path, content: str | bytes, wait_for_disk: bool) -> None:
    data = content.encode() if isinstance(content, str) else content
    unfinished = temporary(path)
    try:
        with open(unfinished, "wb") as file:
            file.write(data)
            if wait_for_disk:
                file.flush()
                os.fsync(file.fileno())
        os.replace(unfinished, path)
    except BaseException as error:
        unfinished.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise CannotWrite(error.errno, error.strerror, str(path)) from error
        raise
