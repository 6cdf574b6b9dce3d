"""CIFAR-10 and CIFAR-100, downloaded and checked by torchvision; CIFAR-100 with its 100 fine or its 20 coarse labels.

Every file is compared with torchvision's checksum before each read: the files are pickles, which can run arbitrary code when
they are loaded.
"""

import os
import pickle
from pathlib import Path
from typing import Any, Literal

import torch
from torchvision.datasets import CIFAR10, CIFAR100
from torchvision.datasets.utils import check_integrity

from necklace.data.download import by_hand, fetch
from necklace.data.files import readable
from necklace.data.images import ImageSet, SplitName

SETS = {"cifar10": CIFAR10, "cifar100": CIFAR100}


class Cifar:
    """CIFAR-10 or CIFAR-100: 50,000 training and 10,000 test images of 32x32, no val.

    Attributes:
        root: The folder that holds `cifar-10-batches-py/` or `cifar-100-python/`.
        classes: Names of the classes, in the dataset's own order (CIFAR-100: the 100 fine ones, or the 20 coarse ones).
        skipped: Always empty.
    """

    skipped: tuple[tuple[str, str], ...] = ()

    def __init__(
        self,
        root: str | Path,
        name: Literal["cifar10", "cifar100"] = "cifar10",
        download: bool = False,
        labels: Literal["fine", "coarse"] = "fine",
    ):
        """Check the files, and download them if `download` is set and they are missing.

        Args:
            root: Folder where the archive is downloaded and unpacked.
            name: The dataset.
            download: Whether to download missing files.
            labels: CIFAR-100's 100 `fine` or 20 `coarse` labels; CIFAR-10 has one kind, called `fine` here.

        Raises:
            ValueError: A name or a kind of labels is unknown.
            FileNotFoundError: Files are missing or damaged; the message names them, the archive and where to put it.
        """
        if name not in SETS:
            raise ValueError(f"data.source.name={name!r}: must be {' or '.join(SETS)}")
        if labels != "fine" and not (labels == "coarse" and name == "cifar100"):
            allowed = "fine or coarse" if name == "cifar100" else "fine, as only CIFAR-100 has coarse labels"
            raise ValueError(f"data.labels={labels}: must be {allowed}")
        self.labels = labels
        self.root, self.name, self._make = Path(root).expanduser().resolve(), name, SETS[name]
        archives = [self._make.filename]
        wrong = self._wrong_files()
        if download and wrong:
            fetch(lambda: self._make(str(self.root), download=True), lambda: not self._wrong_files(), self.root, archives)
            wrong = self._wrong_files()
        if wrong:
            raise FileNotFoundError(f"{name}: {', '.join(wrong)}; {by_hand(self.root, archives)}")
        if labels == "coarse":
            self.classes: tuple[str, ...] = tuple(self._content(self._make.meta["filename"])["coarse_label_names"])
        else:
            self.classes = tuple(self._make(str(self.root), train=False).classes)

    def split(self, name: SplitName) -> ImageSet | None:
        """Read the images of `train` or `test`; None for `val`."""
        if name == "val":
            return None
        data = self._make(str(self.root), train=name == "train")
        return ImageSet(
            pixels=torch.from_numpy(data.data.reshape(-1)),
            shapes=torch.tensor(data.data.shape[1:3]).repeat(len(data), 1),
            labels=torch.tensor(data.targets if self.labels == "fine" else self._coarse(name), dtype=torch.int64),
            names=tuple(f"{name}/{index}" for index in range(len(data))),
        )

    def _coarse(self, name: SplitName) -> list[int]:
        """Return the coarse labels of a split; torchvision gives only the fine ones."""
        files = self._make.train_list if name == "train" else self._make.test_list
        return [label for file, _ in files for label in self._content(file)["coarse_labels"]]

    def _content(self, file: str) -> dict[str, Any]:
        """Return what one of the dataset's files holds; its checksum has been compared."""
        with open(self.root / self._make.base_folder / file, "rb") as content:
            return pickle.load(content, encoding="latin1")

    def _wrong_files(self) -> list[str]:
        """Return a phrase for each missing or damaged file."""
        files = [*self._make.train_list, *self._make.test_list, (self._make.meta["filename"], self._make.meta["md5"])]
        wrong = []
        for name, md5 in files:
            path = self.root / self._make.base_folder / name
            if not os.access(path, os.R_OK) or not path.is_file():
                wrong.append(f"{readable(str(path))} is missing or unreadable")
            elif not check_integrity(str(path), md5):
                wrong.append(f"{readable(str(path))} is damaged (its checksum does not match)")
        return wrong
