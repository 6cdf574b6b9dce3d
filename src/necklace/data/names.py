"""What the names of files and folders say: which split they are, or that a system left them there."""

import re
from typing import Literal

from necklace.data.images import SplitName

SplitWord = Literal["train", "val", "test", "trainval", "unclear"]

SPLIT_WORDS: dict[str, SplitName] = {
    **dict.fromkeys(("train", "training", "trn"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "validate", "dev", "development", "eval", "evaluation"), "val"),
    **dict.fromkeys(("test", "testing", "tst"), "test"),
}
# Words that may stand beside them: `training_set`, `TestImages`.
_FILLERS = ("set", "sets", "split", "data", "dataset", "images", "image", "imgs", "img", "folder")
# Folders and files that file managers, network drives, notebooks and operating systems leave behind, in small letters. Hidden
# ones (.DS_Store, .ipynb_checkpoints, ._a.jpg) need no entry.
LITTER = frozenset(
    ("thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "__macosx", "__pycache__", "lost+found", "system volume information")
    + ("$recycle.bin", "#recycle", "recycler", "@eadir", "@recycle", "@tmp", "@synoresource", "@synoeastream", "#snapshot")
    + ("@recently-snapshot", "@sharebin")
)
# Some call the data to choose on by these names, others the data to test on.
_UNCLEAR = frozenset(("holdout", "heldout", "holdback"))


def split_of_name(name: str) -> SplitName | None:
    """Return the split that a folder's name stands for: `valid`, `Test` and `training_set` do, `train2` does not."""
    words = [_bare(word) for word in re.findall(r"[^\W\d_]+|\d+", name.lower())]
    words = [word for word in words if word not in _FILLERS]
    return SPLIT_WORDS.get(words[0]) if len(words) == 1 else None


def _bare(word: str) -> str:
    for filler in _FILLERS:
        if word.removesuffix(filler) in SPLIT_WORDS:
            return word.removesuffix(filler)
    return word


def split_of(name: str) -> SplitWord | None:
    """The split that a name stands for, in any case and with any separators: `val` for `valid`, `Validation` and `VAL`.

    Returns:
        None for a name that is no word for a split, and `unclear` for one that could be val as well as test.
    """
    if re.sub(r"[\W_]+", "", name).casefold() in _UNCLEAR:
        return "unclear"
    # `train_val` is no such word: among VOC's lists it is that of the class `train`.
    return "trainval" if name.casefold() in ("trainval", "trainvalid", "trainvalidation") else split_of_name(name)


def looks_like_a_split(name: str) -> bool:
    """Whether a word for a split is a part of a name, as in `test_new`, `val2017` or `TrainImages`."""
    parts = [*re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", name), *re.findall(r"[^\W\d_]+", name)]
    return split_of(name) is not None or any(split_of(part) is not None for part in parts)


def is_litter(name: str) -> bool:
    """Whether a file or folder is hidden or a leftover of an operating system, a NAS, an editor or a notebook."""
    return name.startswith((".", "~$")) or name.endswith("~") or name.casefold() in LITTER
