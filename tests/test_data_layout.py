from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from necklace.data.layout import holds_images, is_about
from necklace.data.names import SPLIT_WORDS, split_of_name


@settings(max_examples=100, deadline=None)
@given(
    st.sampled_from(sorted(SPLIT_WORDS)),
    st.sampled_from(["", "set", "_set", "-images", " Data", "_split", "_data_set"]),
    st.sampled_from([str.lower, str.upper, str.title]),
)
def test_a_word_for_a_split_is_that_split_in_any_case_and_with_fillers(word: str, filler: str, case: type) -> None:
    assert split_of_name(case(word + filler)) == SPLIT_WORDS[word]


@pytest.mark.parametrize(
    "name",
    ["train2", "train2017", "seg_train", "trainval", "train_val", "old test", "cat", "images", "set", "", "latest", "untrained"]
    + ["unlabeled", "holdout", "extra", "trains", "test tube", "bullet train"],
)
def test_other_names_are_no_split(name: str) -> None:
    assert split_of_name(name) is None


@pytest.mark.parametrize(
    ("name", "about"),
    [
        ("README.dataset.txt", True),
        ("readme", True),
        ("_classes.csv", True),
        ("_annotations.coco.json", True),
        ("data.yaml", True),
        ("Notes.MD", True),
        ("notes.txt", False),
        ("a.png", False),
        ("readme.png", False),
        ("train.zip", False),
    ],
)
def test_texts_about_the_data_are_told_from_files(name: str, about: bool) -> None:
    assert is_about(name) == about


def test_images_are_found_below_a_folder_but_not_in_litter(tmp_path: Path) -> None:
    (tmp_path / "a" / "@eaDir").mkdir(parents=True)
    (tmp_path / "a" / "@eaDir" / "x.png").write_bytes(b"x")
    (tmp_path / "a" / "x.txt").write_bytes(b"x")
    assert not holds_images(tmp_path)
    (tmp_path / "a" / "plain").write_bytes(b"\xff\xd8\xff\xe0")  # a JPEG without extension
    assert holds_images(tmp_path)
    (tmp_path / "a" / "plain").unlink()
    (tmp_path / "a" / "b").symlink_to("..")
    assert holds_images(tmp_path)
