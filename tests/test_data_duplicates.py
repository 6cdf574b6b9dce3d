from itertools import combinations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from necklace.data.duplicates import PAIRS, duplicate_notes
from necklace.data.images import ImageSet, SplitName

NAMES: tuple[SplitName, ...] = ("train", "val", "test")
# Kinds of pixels: two that differ in one byte only, and one that has the bytes of another in another shape.
BASE = torch.arange(40 * 30 * 3).remainder(251).to(torch.uint8)
CHANGED = BASE.clone()
CHANGED[1801] ^= 1
KINDS = [BASE.view(40, 30, 3), CHANGED.view(40, 30, 3), BASE.view(30, 40, 3), BASE[:3].view(1, 1, 3)]
SPLIT = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 1)), max_size=5)


def made(name: str, members: list[tuple[int, int]]) -> ImageSet:
    names = [f"{name}/{index}" for index in range(len(members))]
    return ImageSet.build([KINDS[kind] for kind, _ in members], [label for _, label in members], names)


@settings(max_examples=60, deadline=None)
@given(st.tuples(SPLIT, SPLIT, SPLIT))
def test_counts_are_those_of_a_comparison_of_all_pairs(splits: tuple[list[tuple[int, int]], ...]) -> None:
    members = dict(zip(NAMES, splits, strict=True))
    found = duplicate_notes({name: made(name, some) for name, some in members.items()})
    expected = {}
    for one, other in PAIRS:
        expected[f"also in {other}", one] = sum(kind in {k for k, _ in members[other]} for kind, _ in members[one])
    for name, some in members.items():
        unlike = {kind for (kind, a), (other, b) in combinations(some, 2) if kind == other and a != b}
        expected["with another label", name] = sum(kind in unlike for kind, _ in some)
    for (what, name), number in expected.items():
        counted = [int(note.split()[0]) for note in found if what in note.split(",")[0] and note.split()[1] == name]
        assert counted == ([number] if number else [])


def test_the_first_pair_is_named_and_other_labels_are_counted() -> None:
    images: dict[SplitName, ImageSet] = {
        "train": made("train", [(1, 0), (0, 0)]),
        "test": made("test", [(3, 0), (0, 1), (0, 0)]),
    }
    assert duplicate_notes(images) == [
        "2 test images are also in train, 1 of them with another label (first: test/1 = train/1)",
        "2 test images have an equal image with another label (first: test/1 = test/2)",
    ]


def test_images_that_are_mapped_and_labelled_with_several_classes() -> None:
    """Two sets over the same pixels, as a cache has them; `train/0` and `val/0` are the same image."""
    pixels = torch.cat([KINDS[0].reshape(-1), KINDS[3].reshape(-1), KINDS[0].reshape(-1)])
    shapes = torch.tensor([[40, 30], [1, 1], [40, 30]])
    starts = torch.tensor([0, 3600, 3603])
    labels = torch.tensor([[1, 0], [0, 1], [1, 1]], dtype=torch.int8)
    whole = ImageSet(pixels, shapes, labels, ("a", "b", "odd\udcff"), starts)
    found = duplicate_notes({"train": whole.select([0]), "val": whole.select([2, 1])})
    assert found == ["1 val image is also in train, 1 of them with another label (first: 'odd\\udcff' = a)"]
