import pytest

from necklace.data.names import is_litter, looks_like_a_split, split_of


@pytest.mark.parametrize(
    ("word", "names"),
    [
        ("train", "train Train TRAINING training"),
        ("val", "val valid Validation VAL dev eval val_set"),
        ("test", "test Test TESTING testing"),
        ("trainval", "trainval TrainVal TRAINVAL"),
        ("unclear", "holdout hold-out Heldout"),
    ],
)
def test_words_for_splits(word: str, names: str) -> None:
    assert {split_of(name) for name in names.split()} == {word}


def test_names_that_have_a_split_in_them_and_names_that_have_not() -> None:
    for name in (
        "test_new",
        "val2017",
        "Train2Images",
        "images-test-new",
        "my train",
        "test.txt",
        "train_annotations",
        "valid (copy)",
        "TESTset2",
        "old_holdout",
        "train_val",
    ):
        assert looks_like_a_split(name), name
        assert split_of(name) is None, name
    for name in (
        "latest",
        "trainer",
        "contest",
        "validity",
        "value",
        "device",
        "strain",
        "cat",
        "2017",
        "Annotations",
        "developer",
    ):
        assert not looks_like_a_split(name), name
        assert split_of(name) is None, name


def test_litter() -> None:
    litter = "._a.xml .DS_Store Thumbs.db THUMBS.DB desktop.ini __MACOSX @eaDir .ipynb_checkpoints ~$a.xml a.txt~ #recycle"
    assert all(is_litter(name) for name in litter.split())
    assert not any(is_litter(name) for name in ("a.xml", "thumbs", "~a", "@a.png", "a_.xml"))
