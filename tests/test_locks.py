"""Locks between processes; what a file system without locks does to them."""

import errno
import fcntl
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from necklace.atomic import HOST
from necklace.locks import CannotLock, Lock, local_locks, locked
from necklace.run.folder import RunFolder

MOUNTS = """\
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
30 22 0:40 / /home rw,relatime shared:2 - nfs4 server:/home rw,vers=4.2,local_lock=none
31 22 0:41 / /old\\040disk rw,relatime - nfs server:/old rw,vers=3,nolock,proto=tcp
32 30 0:42 / /home/scratch rw - nfs server:/scratch rw,vers=3,local_lock=flock
33 22 0:43 / /lustre rw - lustre node@tcp:/fs rw,localflock
34 32 8:2 / /home/scratch/disk rw - ext4 /dev/sdb1 rw
a line that is none
"""


@pytest.mark.parametrize(
    ("folder", "option"),
    [
        ("/srv/outputs", None),
        ("/home/me/outputs", None),
        ("/homes", None),
        ("/old disk/outputs", "nolock"),
        ("/home/scratch", "local_lock=flock"),
        ("/home/scratch/disk/x", None),
        ("/lustre/outputs", "localflock"),
    ],
)
def test_a_mount_whose_locks_stay_on_this_machine_is_known(folder: str, option: str | None) -> None:
    assert local_locks(folder, MOUNTS) == option


def test_a_lock_has_one_holder_who_is_named_and_a_dead_one_has_none(tmp_path: Path) -> None:
    path = tmp_path / "x.lock"
    code = "import sys, time; from necklace.locks import Lock; print(Lock(sys.argv[1]).take(), flush=True); time.sleep(60)"
    words = [sys.executable, "-c", code.replace("Lock(sys.argv[1])", "(lock := Lock(__import__('pathlib').Path(sys.argv[1])))")]
    other = subprocess.Popen([*words, str(path)], stdout=subprocess.PIPE, text=True)
    assert other.stdout is not None
    try:
        assert other.stdout.readline() == "True\n"
        lock = Lock(path)
        assert lock.is_taken()
        assert not lock.take()
        assert lock.holder() == f" (process {other.pid} of {HOST})"
    finally:
        other.kill()
        other.communicate()
    assert not lock.is_taken()
    with locked(path):
        assert Lock(path).is_taken()
        assert Lock(path).holder() == f" (process {os.getpid()} of {HOST})"
    path.write_bytes(b"\xff\xfe not two words")
    assert Lock(path).holder() == ""


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EIO])
def test_a_file_system_without_locks_is_refused_in_a_sentence(
    tmp_path: Path, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flock(*arguments: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    words = (
        rf"^{tmp_path}: files there cannot be locked \({os.strerror(number)}\), and two .*; use a folder on a disk with locks$"
    )
    with pytest.raises(CannotLock, match=words):
        Lock(tmp_path / "x.lock").take()
    folder = RunFolder(tmp_path / "none_s0_0123456789")
    with pytest.raises(CannotLock, match="files there cannot be locked"), folder.held(None):
        pass
    monkeypatch.undo()
    with folder.held(None):  # nothing was left that would be in the way
        pass


def test_a_lock_where_no_folder_can_be_is_no_matter_of_locks(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(FileExistsError):
        Lock(tmp_path / "file" / "x.lock").take()
