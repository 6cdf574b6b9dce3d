from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from necklace.data.voc_lists import Names, check_others, find_lists, lines_of

NAMES = ["a", "b.v1", "my cat", "my cat 2", "cafe\u0301", "IMG_1", "x,y", "#1"]
KNOWN = Names(NAMES, ["JPEGImages", "Annotations"])
BEFORE = ["", "./", "JPEGImages/", "/data/VOC/JPEGImages/", "..\\jpegimages\\", "C:\\x\\Annotations\\"]
ENDINGS = ["", ".jpg", ".JPEG", ".xml"]
AFTER = ["", " 1", "\t-1", " 0 1 0", ",dog", ";1", " Annotations/z.xml", " # blurred"]


@given(st.sampled_from(NAMES), st.sampled_from(BEFORE), st.sampled_from(ENDINGS), st.sampled_from(AFTER), st.booleans())
@settings(max_examples=300, deadline=None)
def test_a_line_means_the_same_name_whatever_is_around_it(
    name: str, before: str, ending: str, after: str, quoted: bool
) -> None:
    mark = '"' if quoted else ""
    found = KNOWN.of_line(f"{mark}{before}{name}{ending}{mark}{after}")
    assert found is not None
    expected = "my cat 2" if name == "my cat" and after == " 2" else name
    assert found == (expected, "" if ending == ".xml" else ending)


def test_case_and_the_form_of_accents_do_not_matter_where_there_is_one_such_name() -> None:
    assert KNOWN.of_line("A.JPG") == ("a", ".JPG")
    assert KNOWN.of_line("caf\xe9") == ("cafe\u0301", "")
    with pytest.raises(ValueError, match="'Q': neither"):
        Names(["q1", "Q1"], []).of_line("Q")
    assert Names(["q1", "Q1"], []).of_line("Q1") == ("Q1", "")


@pytest.mark.parametrize("line", ["../../a", "/etc/passwd", "..", ".", "sub/a", "sub\\a", "a\0b"])
def test_other_folders_are_refused(line: str) -> None:
    with pytest.raises(ValueError, match="must be the name of a file without folders"):
        KNOWN.of_line(line)


def test_names_in_an_old_encoding_are_found() -> None:
    for name in ("m\xfccke", "\x80uro"):
        line = name.replace("\x80", "\u20ac").encode("cp1252").decode("utf-8", "surrogateescape")
        known = name.replace("\x80", "\u20ac")
        assert Names([known], []).of_line(f"{line} 1") == (known, "")
        assert Names([line, "other"], []).of_line(line) == (line, "")
    with pytest.raises(ValueError, match="neither an image"):
        Names(["a"], []).of_line("\udcfc")


def test_comments_are_passed_over_unless_they_are_names() -> None:
    assert KNOWN.of_line("# list of cats") is None
    assert KNOWN.of_line("// list") is None
    assert KNOWN.of_line("#1") == ("#1", "")


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_line_ends_and_byte_order_marks(tmp_path: Path, end: str, encoding: str) -> None:
    path = tmp_path / "train.txt"
    path.write_bytes(end.join(["a ", "", "\u732b", "b\u2028c"]).encode(encoding))
    assert lines_of(path) == ["a", "", "\u732b", "b\u2028c"]


def test_lists_by_split_and_the_others(tmp_path: Path) -> None:
    for name in ("Train.txt", "valid.txt", "test.txt", "cat_train.txt", "Dog_val.txt", "notes.md", "._test.txt"):
        (tmp_path / name).write_text("a 1\nb -1\n")
    (tmp_path / "sub").mkdir()
    lists, others = find_lists(tmp_path, all_files=True)
    assert lists == {"train": "Train.txt", "val": "valid.txt", "test": "test.txt"}
    assert others == ["Dog_val.txt", "cat_train.txt", "notes.md"]
    assert check_others(tmp_path, others, ["dog"]) == ["notes.md"]
    (tmp_path / "cat_train.txt").write_text("a 1\nb 1\n")  # no flags of a class that some images do not show
    assert check_others(tmp_path, others, ["dog", "cat"]) == ["notes.md"]
    with pytest.raises(ValueError, match=r"cat_train\.txt: looks like the list of a split"):
        check_others(tmp_path, others, ["dog"])
    assert find_lists(tmp_path, all_files=False)[1] == []
