"""Downloads through torchvision, guarded by a lock and a timeout; a failure names the archives to put in place by hand."""

import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

from necklace.data.files import readable
from necklace.locks import locked

TIMEOUT_S = 30


def fetch(make: Callable[[], Any], is_complete: Callable[[], bool], root: Path, archives: list[str]) -> None:
    """Let torchvision download and unpack a dataset.

    If several processes ask for the same folder at once, one downloads and the others wait for it.

    Args:
        make: Builds the torchvision dataset with `download=True`.
        is_complete: Whether all files exist already.
        root: Folder that torchvision downloads to.
        archives: Names of the archives (compressed files) that torchvision looks for in `root`.

    Raises:
        FileNotFoundError: The download or the unpacking failed; the message names the archives and where to put them.
    """
    timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(TIMEOUT_S)  # torchvision sets none: a network that drops packets would block the run forever
    try:
        root.mkdir(parents=True, exist_ok=True)
        with locked(root / ".download.lock"):
            if not is_complete():
                make()
    except Exception as error:  # URLError, RuntimeError (checksum), errors of tarfile and http.client, ...
        reason = " ".join(str(error).split()) or type(error).__name__
        damaged = [readable(str(root / name)) for name in archives if (root / name).exists()]
        found = f"; these files are damaged or could not be unpacked: {', '.join(damaged)}" if damaged else ""
        raise FileNotFoundError(f"the download failed ({reason}){found}; {by_hand(root, archives)}") from error
    finally:
        socket.setdefaulttimeout(timeout)


def by_hand(root: str | Path, archives: list[str]) -> str:
    """Return the sentence that tells how to get missing archives, with and without network."""
    files = " and ".join(archives)
    return (
        f"data.download=true downloads {files}; without network, put {files} into {readable(str(root))} first: "
        "files in this folder are checked and unpacked, not downloaded again"
    )
