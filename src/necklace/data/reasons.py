"""Why files were left out, counted by kind: `2 files skipped (1 truncated, 1 not an image by its extension)`.

Works on plain text and imports nothing heavy, as tables of finished runs are made without torch.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence

# Text in a reason, in small letters -> how it is counted. Pillow alone has several words for a file that ends too early.
_KINDS = {
    "truncated": "truncated",
    "data.max_pixels": "above data.max_pixels",
    "not an image by its extension": "not an image by its extension",
    "not an image, or of another format": "not an image by its content",
    "the file is empty": "empty",
    "leads out of data.root": "linked from outside data.root",
}
_SHOWN = 5


def kind_of(reason: str) -> str:
    """Return the kind of a reason: what is left of it without article and without the values that differ from file to file."""
    for text, kind in _KINDS.items():
        if text in reason.lower():
            return kind
    kind = re.sub(r"^line \d+: ?", "", reason)
    kind = re.sub(r"'[^']*'|\"[^\"]*\"", "...", kind)
    kind = re.sub(r", which is not read here.*", " that is not read", kind, flags=re.DOTALL)
    kind = re.split(r"[:;(]", kind)[0].strip() or kind
    return re.sub(r"\b\d+(x\d+)?\b", "N", re.sub(r"^(an?|the) ", "", kind))


def counted(reasons: Iterable[str]) -> str:
    """Count reasons by kind, the most frequent first: `2 truncated, 1 empty`."""
    kinds = sorted(Counter(map(kind_of, reasons)).items(), key=lambda item: (-item[1], item[0]))
    shown = [f"{number} {kind}" for kind, number in kinds[:_SHOWN]]
    rest = sum(number for _, number in kinds[_SHOWN:])
    return ", ".join(shown + ([f"{rest} for other reasons"] if rest else []))


def skipped_phrase(skipped: Iterable[Sequence[str]]) -> str:
    """Say how many files were skipped and why: `2 files skipped (1 truncated, 1 the file is empty)`; empty if there are none.

    Args:
        skipped: (path, reason) of each; a file that is named twice counts once, by its first reason.
    """
    first: dict[str, str] = {}
    for path, reason in skipped:
        first.setdefault(path, reason)
    return f"{number_of(len(first), 'file')} skipped ({counted(first.values())})" if first else ""


def number_of(count: int, noun: str) -> str:
    """Return `1 file`, `2 files`."""
    return f"{count} {noun}{'s' * (count != 1)}"
