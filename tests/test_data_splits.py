import sys
from typing import Any

import pytest
import torch

from necklace.data.glyphs import Glyphs
from necklace.data.images import ImageSet, SplitName
from necklace.data.splits import read_splits, split_indices, splits_key, splits_of


class Toy:
    """A source of one-colour images whose label is known from their colour."""

    skipped: tuple[tuple[str, str], ...] = ()

    def __init__(self, counts: list[int], test: int = 7, side: int = 5) -> None:
        self.classes = tuple(f"class{i}" for i in range(len(counts)))
        self.counts, self.test, self.side = counts, test, side

    def split(self, name: str) -> ImageSet | None:
        if name == "val":
            return None
        labels = torch.tensor([i for i, n in enumerate(self.counts) for _ in range(n)])
        if name == "test":
            labels = torch.arange(self.test) % len(self.counts)
        count, side = len(labels), self.side
        values = torch.arange(count).remainder(256).to(torch.uint8)
        return ImageSet(
            pixels=values.repeat_interleave(side * side * 3),
            shapes=torch.full((count, 2), side),
            labels=labels,
            names=tuple(f"{name}/{i}" for i in range(count)),
        )


def test_val_is_a_share_of_each_class() -> None:
    splits = read_splits(Toy([40, 20]))
    assert torch.bincount(splits.images["val"].labels).tolist() == [4, 2]
    assert torch.bincount(splits.images["train"].labels).tolist() == [36, 18]
    names = [set(splits.images[name].names) for name in ("train", "val")]
    assert not names[0] & names[1]
    assert len(names[0] | names[1]) == 60
    assert read_splits(Toy([40, 20])).digest == splits.digest


def test_split_takes_one_image_of_a_small_class_and_none_of_a_single_one() -> None:
    labels = torch.tensor([0] * 3 + [1] + [2] * 2)
    kept, held_out = split_indices(labels, 0.1)
    assert sorted(labels[held_out].tolist()) == [0, 2]
    assert sorted(kept.tolist() + held_out.tolist()) == list(range(6))


class Odd(Toy):
    """A toy whose files come with problems, more with each split that is read."""

    def __init__(self) -> None:
        super().__init__([40, 20], test=2)
        self.skipped = ()

    def split(self, name: str) -> ImageSet | None:
        lost = {"train": ("a/x.jpg", "b/x.jpg"), "test": ("c/x.jpg",)}.get(name, ())
        self.skipped = (*((path, "truncated") for path in lost), *self.skipped)
        return super().split(name)


def test_each_skipped_file_counts_for_the_split_that_lost_it() -> None:
    splits = read_splits(Odd())
    assert [path for path, _ in splits.skipped] == ["c/x.jpg", "a/x.jpg", "b/x.jpg"]
    assert splits.notes[0] == "test: 1 file skipped (1 truncated)"
    assert not any("skipped" in note for note in splits.notes[1:])


def test_limits_keep_the_classes_in_proportion() -> None:
    images = read_splits(Toy([400, 200]), train_images=60, test_images=4).images
    labels = torch.cat([images["train"].labels, images["val"].labels])
    assert torch.bincount(labels).tolist() == [40, 20]
    assert torch.bincount(images["test"].labels).tolist() == [2, 2]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"val_fraction": 1.0}, "data.val_fraction=1.0"),
        ({"train_images": 61}, "data.train_images=61"),
        ({"test_images": 0}, "data.test_images=0"),
        ({"duplicates": "skip"}, "data.duplicates=skip"),
    ],
)
def test_a_wrong_option_is_named(options: dict, words: str) -> None:
    with pytest.raises(ValueError, match="must") as error:
        read_splits(Toy([40, 20]), **options)
    assert words in str(error.value)


class Counted(Glyphs):
    """Glyphs of several shapes that say on the standard error which splits are drawn."""

    skipped = (("odd\udcff.png", "a file of no format"),)
    notes = ("drawn for a test",)

    def split(self, name: SplitName) -> ImageSet | None:
        print(f"drawn: {name}", file=sys.stderr)
        return super().split(name)


def key_of(**options: Any) -> str:
    source = {"_target_": "tests.test_data_splits.Counted", "train": 30, "test": 12, "image_size": [20, 24]}
    return splits_key({"source": source, "size": 32, "val_fraction": 0.2} | options)


@pytest.fixture(autouse=True)
def _fresh() -> None:
    splits_of.cache_clear()


def test_images_are_read_once_for_what_shares_them(capsys: pytest.CaptureFixture[str]) -> None:
    assert key_of(size=16) == key_of()
    first = splits_of(key_of())
    assert splits_of(key_of(size=16)) is first
    assert capsys.readouterr().err.count("drawn: train") == 1
    assert len(splits_of(key_of(train_images=20)).images["train"]) == 10
    assert capsys.readouterr().err.count("drawn: train") == 1
