"""Locks between processes, also of several machines that share a disk.

The system releases a lock when the process that holds it ends, however it ends. The file of a lock says who holds it. Where a
file system cannot lock, or its locks do not reach the other machines, that is refused: two processes would train one run, or
write one file, and nobody would know.
"""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

from filelock import FileLock, Timeout

from necklace.atomic import FULL, HOST

# These say that the file cannot be made, not that it cannot be locked.
_FILE_ERRORS = (
    errno.ENOENT,
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.EISDIR,
    errno.ENOTDIR,
    errno.EEXIST,
    errno.ELOOP,
    errno.ENAMETOOLONG,
    *FULL,
)
# Options of a mount of NFS with which its locks stay on this machine.
_LOCAL = ("nolock", "local_lock=flock", "local_lock=all", "localflock")


class CannotLock(OSError):
    """A file system without locks that hold."""


class Lock:
    """A lock of one holder, by a file that stays behind.

    Args:
        path: The file; its folder exists.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        # The library's own replacement where a system has no locks is a file that a killed process leaves behind.
        self._lock = FileLock(path, thread_local=False, fallback_to_soft=False)

    def take(self, wait: bool = False) -> bool:
        """Take the lock, and write into its file who has it; gives whether this process does.

        Args:
            wait: Whether to wait for whoever holds it.

        Raises:
            CannotLock: The file system cannot lock.
        """
        if not self._acquired(wait):
            return False
        with suppress(OSError):  # the disk may be full
            self.path.write_text(f"{HOST} {os.getpid()}\n")
        return True

    def is_taken(self) -> bool:
        """Whether another process has it.

        Raises:
            CannotLock: The file system cannot lock.
        """
        if not self._acquired(wait=False):
            return True
        self.release()
        return False

    def _acquired(self, wait: bool) -> bool:
        if option := _local_locks(self.path.parent):
            raise CannotLock(
                f"{self.path.parent}: is on a disk that is mounted with {option}: locks there do not reach other machines; "
                "mount it without, or use another folder"
            )
        try:
            self._lock.acquire(timeout=-1 if wait else 0)
        except Timeout:
            return False
        except (OSError, NotImplementedError) as error:
            words = getattr(error, "strerror", None) or str(error) or type(error).__name__
            if getattr(error, "errno", None) in _FILE_ERRORS:
                raise
            raise CannotLock(
                f"{self.path.parent}: files there cannot be locked ({words}), and two processes could train one run; "
                "use a folder on a disk with locks"
            ) from error
        return True

    def release(self) -> None:
        """Release it, so that others may take it."""
        self._lock.release()

    def holder(self) -> str:
        """Who took the lock last, in brackets, such as ` (process 123 of node7)`; empty where that is not known."""
        with suppress(OSError, ValueError):
            host, pid = self.path.read_text(errors="replace").split()
            return f" (process {int(pid)} of {host[:60]})"
        return ""


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock, after whoever holds it now.

    Raises:
        CannotLock: The file system cannot lock.
    """
    lock = Lock(path)
    lock.take(wait=True)
    try:
        yield
    finally:
        lock.release()


@cache
def _local_locks(folder: Path) -> str | None:
    try:
        return local_locks(os.path.realpath(folder), Path("/proc/self/mountinfo").read_text(errors="replace"))
    except OSError:  # a system without that file
        return None


def local_locks(folder: str, mounts: str) -> str | None:
    """The option of a folder's mount with which its locks stay on this machine; None where they reach the others.

    Args:
        folder: An absolute path.
        mounts: What `/proc/self/mountinfo` holds.
    """
    best, option = -1, None
    for line in mounts.splitlines():
        left, _, right = line.partition(" - ")
        words, kind = left.split(), right.split()
        if len(words) < 6 or len(kind) < 3:
            continue
        point = words[4].encode().decode("unicode_escape", "replace").rstrip("/")
        if (folder == point or folder.startswith(f"{point}/")) and len(point) >= best:
            options = {*words[5].split(","), *kind[2].split(",")} if kind[0].startswith(("nfs", "lustre")) else set()
            best, option = len(point), next((name for name in _LOCAL if name in options), None)
    return option
