"""What entered a run, in words: how many images of which split, what was skipped, which classes are absent."""

from collections.abc import Mapping, Sequence

from necklace.data.files import readable
from necklace.data.images import ImageSet, SplitName
from necklace.data.reasons import skipped_phrase

_SHOWN = 5


def data_line(images: Mapping[SplitName, ImageSet], classes: Sequence[str], skipped: Sequence[tuple[str, str]]) -> str:
    """Say what entered a run: `train 20, val 20, test 20 images, 3 classes; 2 files skipped (2 truncated)`.

    Args:
        images: Split to its images.
        classes: Names of the classes.
        skipped: (path, reason) of each file that was left out.
    """
    counts = ", ".join(f"{name} {len(one)}" for name, one in images.items())
    no_test = "" if "test" in images else ", no test split"
    classes_text = f"{len(classes)} class{'es' * (len(classes) != 1)}"
    return "; ".join(filter(None, [f"{counts} images{no_test}, {classes_text}", skipped_phrase(skipped)]))


def split_notes(
    images: Mapping[SplitName, ImageSet], classes: Sequence[str], skipped: Mapping[SplitName, Sequence[tuple[str, str]]]
) -> list[str]:
    """Say which split lacks images: those of a class, or test images that were skipped.

    Args:
        images: Split to its images.
        classes: Names of the classes.
        skipped: Split to (path, reason) of each file that was left out of it.

    Returns:
        Sentences without full stop, such as `val: no image of class cat`.
    """
    notes = []
    if skipped.get("test"):
        notes.append(f"test: {skipped_phrase(skipped['test'])}")
    for name, one in images.items():
        labels = one.labels
        shown = set(labels.tolist()) if labels.ndim == 1 else set((labels == 1).any(0).nonzero().flatten().tolist())
        absent = [readable(text) for index, text in enumerate(classes) if index not in shown]
        if absent:
            more = f" and {len(absent) - _SHOWN} more" if len(absent) > _SHOWN else ""
            listed = f"{'class' if len(absent) == 1 else 'classes'} {', '.join(absent[:_SHOWN])}{more}"
            notes.append(f"{name}: no image of {listed}")
    return notes + _alike(classes)


def _alike(classes: Sequence[str]) -> list[str]:
    """Class names that differ in upper and lower case only: likely one class by mistake."""
    groups: dict[str, list[str]] = {}
    for name in classes:
        groups.setdefault(name.casefold(), []).append(readable(name))
    return [f"classes {' and '.join(names)} differ only in case" for names in groups.values() if len(names) > 1]
