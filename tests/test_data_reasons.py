import pytest

from necklace.data.reasons import counted, kind_of, skipped_phrase


@pytest.mark.parametrize(
    ("reason", "kind"),
    [
        ("image file is truncated (12 bytes not processed)", "truncated"),
        ("Truncated File Read", "truncated"),
        ("an image of 400 pixels, more than data.max_pixels=399: data.max_pixels=400 reads it", "above data.max_pixels"),
        (
            "not an image by its extension, but a JPEG image by its content: give it that extension",
            "not an image by its extension",
        ),
        ("a HEIC image, which is not read here (read are JPEG, PNG): convert it", "HEIC image that is not read"),
        ("not an image but a web page", "not an image but a web page"),
        ("the file is empty", "empty"),
        ("class 'zebra' is none of cat, dog", "class ... is none of cat, dog"),
        ("line 17: 'a' is listed already, in train.txt", "... is listed already, in train.txt"),
        ("<size> is 20x30, the image is 5x6", "<size> is N, the image is N"),
        ("malformed XML: line 3", "malformed XML"),
        ("(odd)", "(odd)"),
    ],
)
def test_a_kind_is_the_reason_without_what_differs_from_file_to_file(reason: str, kind: str) -> None:
    assert kind_of(reason) == kind


def test_kinds_are_counted_the_most_frequent_first() -> None:
    reasons = ["malformed XML: line 1", "image file is truncated (3 bytes left)", "malformed XML: line 20"]
    assert counted(reasons) == "2 malformed XML, 1 truncated"
    assert counted([]) == ""
    many = [f"kind {letter}" for letter in "abcdefg"]
    assert counted(many) == "1 kind a, 1 kind b, 1 kind c, 1 kind d, 1 kind e, 2 for other reasons"


def test_a_file_counts_once() -> None:
    assert skipped_phrase([]) == ""
    assert skipped_phrase([["a", "the file is empty"]]) == "1 file skipped (1 empty)"
    twice = [("a", "truncated"), ("a", "the file is empty"), ("b", "truncated")]
    assert skipped_phrase(twice) == "2 files skipped (2 truncated)"
