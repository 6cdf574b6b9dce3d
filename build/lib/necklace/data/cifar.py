"""CIFAR-10 and CIFAR-100, downloaded and checked by torchvision.

Every file is compared with torchvision's checksum before it is read, each time: the files are pickles, which can run
anything when they are loaded.
"""

import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
from filelock import FileLock
from torchvision.datasets import CIFAR10, CIFAR100
from torchvision.datasets.utils import check_integrity

from necklace.data.files import readable
from necklace.data.images import ImageSet, SplitName

SETS = {"cifar10": CIFAR10, "cifar100": CIFAR100}


def obtain(make: Callable[[], Any], is_there: Callable[[], bool], root: Path, archives: list[str]) -> None:
    """Have torchvision download and unpack something, or say what to do by hand.

    Of processes that want it in one folder at once, one downloads, and the others wait and find it there.

    Args:
        make: Makes the torchvision dataset with `download=True`.
        is_there: Whether all of it is there already.
        root: Folder that torchvision downloads to.
        archives: Names of the archives that it wants there.

    Raises:
        FileNotFoundError: It could not; the message names the archives and where to put them.
    """
    timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(30)  # torchvision sets none: a network that drops packets would hold up the run for ever
    try:
        root.mkdir(parents=True, exist_ok=True)
        with FileLock(root / ".download.lock"):
            if not is_there():
                make()
    except Exception as error:  # URLError, RuntimeError (checksum), tarfile's and http.client's own, ...
        reason = " ".join(str(error).split()) or type(error).__name__
        bad = [readable(str(root / name)) for name in archives if (root / name).exists()]
        found = f"; what is there is damaged or could not be unpacked: {', '.join(bad)}" if bad else ""
        raise FileNotFoundError(f"the download failed ({reason}){found}; {by_hand(root, archives)}") from error
    finally:
        socket.setdefaulttimeout(timeout)


def by_hand(root: str | Path, archives: list[str]) -> str:
    """What to do about missing files, with and without network, in words."""
    files = " and ".join(archives)
    return (
        f"data.download=true downloads {files}; without network, put {files} into {readable(str(root))} first: "
        "what lies there is checked and unpacked, not downloaded again"
    )


class Cifar:
    """CIFAR-10 or CIFAR-100: 50,000 training and 10,000 test images of 32x32, no val.

    Attributes:
        root: The folder that holds `cifar-10-batches-py/` or `cifar-100-python/`.
        classes: Names of the classes, in the dataset's own order (CIFAR-100: the 100 fine ones).
        skipped: Always empty.
    """

    skipped: tuple[tuple[str, str], ...] = ()

    def __init__(self, root: str | Path, name: Literal["cifar10", "cifar100"] = "cifar10", download: bool = False):
        """Check the files, downloading them first if asked to and needed.

        Args:
            root: Where the archive is downloaded to and unpacked.
            name: Which of the two.
            download: Whether to download what is not there yet.

        Raises:
            FileNotFoundError: Files are missing or damaged; the message names them, the archive and where to put it.
        """
        if name not in SETS:
            raise ValueError(f"data.source.name={name!r}: must be {' or '.join(SETS)}")
        self.root, self.name, self._make = Path(root).expanduser().resolve(), name, SETS[name]
        archives = [self._make.filename]
        wrong = self._wrong_files()
        if download and wrong:
            obtain(lambda: self._make(str(self.root), download=True), lambda: not self._wrong_files(), self.root, archives)
            wrong = self._wrong_files()
        if wrong:
            raise FileNotFoundError(f"{name}: {', '.join(wrong)}; {by_hand(self.root, archives)}")
        self.classes: tuple[str, ...] = tuple(self._make(str(self.root), train=False).classes)

    def split(self, name: SplitName) -> ImageSet | None:
        """The images of `train` or `test`; None for `val`."""
        if name == "val":
            return None
        data = self._make(str(self.root), train=name == "train")
        return ImageSet(
            pixels=torch.from_numpy(data.data.reshape(-1)),
            shapes=torch.tensor(data.data.shape[1:3]).repeat(len(data), 1),
            labels=torch.tensor(data.targets, dtype=torch.int64),
            names=tuple(f"{name}/{index}" for index in range(len(data))),
        )

    def _wrong_files(self) -> list[str]:
        """The files that are missing or damaged, each with which of the two."""
        files = [*self._make.train_list, *self._make.test_list, (self._make.meta["filename"], self._make.meta["md5"])]
        wrong = []
        for name, md5 in files:
            path = self.root / self._make.base_folder / name
            if not os.access(path, os.R_OK) or not path.is_file():
                wrong.append(f"{readable(str(path))} is missing or unreadable")
            elif not check_integrity(str(path), md5):
                wrong.append(f"{readable(str(path))} is damaged (its checksum is another)")
        return wrong
