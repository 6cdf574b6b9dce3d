from xml.sax.saxutils import escape

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from necklace.data.voc_xml import METADATA, parse

TEXT = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"], exclude_characters="\ufffe\uffff"), max_size=30)
NAMES = TEXT.filter(lambda text: text.strip() != "")


def element(tag: str, content: str) -> str:
    return f"<{tag}>{content}</{tag}>"


@given(NAMES, st.dictionaries(st.sampled_from(sorted(METADATA)), TEXT), TEXT, st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_what_decides_no_label_changes_nothing(name: str, metadata: dict[str, str], value: str, random) -> None:
    """Any text in any other element, tags in any case, elements in any order, and any encoding."""

    def cased(tag: str) -> str:
        return "".join(random.choice((letter.lower(), letter.upper())) for letter in tag)

    inside = [element(cased(tag), escape(value)) for tag in ("truncated", "pose", "bndbox", "polygon", "occluded")]
    inside.append(element(cased("name"), escape(name)))
    random.shuffle(inside)
    parts = [element(cased("object"), "".join(inside)), *(element(cased(tag), escape(text)) for tag, text in metadata.items())]
    random.shuffle(parts)
    document = element(cased("annotation"), "\n ".join(parts))
    for encoding in ("utf-8", "utf-8-sig", "utf-16", "utf-32"):
        assert parse(document.encode(encoding)).labels == {" ".join(name.split()): 1}


@pytest.mark.parametrize("text", ["1", "true", " Yes ", "1.0", "T", "on", "2"])
def test_flags_that_are_set(text: str) -> None:
    thing = "<object><name>a</name><difficult>{}</difficult></object>"
    assert parse(element("annotation", thing.format(text)).encode()).labels == {"a": -1}
    assert parse(element("annotation", thing.format(text) + thing.format(0)).encode()).labels == {"a": 1}
    deleted = f"<object><deleted>{text}</deleted><name>a</name></object>"
    assert parse(element("annotation", deleted).encode()).labels == {}


@pytest.mark.parametrize("text", ["0", "", "False", "no", "Unspecified", "0.0", "None", "nan", "-1"])
def test_flags_that_are_not(text: str) -> None:
    for flag in ("difficult", "deleted"):
        found = parse(f"<annotation><object><name>a</name><{flag}>{text}</{flag}></object></annotation>".encode())
        assert (found.labels, found.unclear) == ({"a": 1}, ())


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        ("<annotation><objekt/></annotation>", "<objekt> is not VOC's"),
        ("<annotation><Objects><object><name>a</name></object></Objects></annotation>", "<Objects> is not VOC's"),
        ("<annotation><foo/></annotation>", "<foo> is not VOC's"),
        ("<annotation><filename>a</filename><items><item><bndbox/></item></items></annotation>", "<items> is not VOC's"),
        ("<annotation><object><name>a</name></object><thing><polygon/></thing></annotation>", "<thing> is not VOC's"),
        ("<annotation>dog</annotation>", "text 'dog' is not VOC's"),
        ("<annotation><object>dog</object></annotation>", "without <name>: object 1"),
        ("<annotation><object><name><en>dog</en></name></object></annotation>", "without <name>: object 1"),
        ("<annotation><object name='dog'/></annotation>", "without <name>: object 1"),
        ("<annotations/>", "outermost element is <annotations>"),
        ("", "malformed XML"),
    ],
)
def test_objects_that_are_not_recognised_are_an_error(document: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        parse(document.encode())


def test_metadata_beside_objects_is_passed_over() -> None:
    extra = "<lens><f>2.8</f></lens><sky>blue</sky>"
    assert parse(f"<annotation>{extra}<object><name>a</name></object></annotation>".encode()).labels == {"a": 1}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "latin-1"])
def test_a_doctype_is_refused_in_every_encoding(encoding: str) -> None:
    for start in ("", "\n", f'<?xml version="1.0" encoding="{encoding}"?>', '<?xml version="1.0" encoding="no-such"?>'):
        document = start + '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><annotation>&x; \xfc</annotation>'
        with pytest.raises(ValueError, match="DOCTYPE"):
            parse(document.encode(encoding))


def test_an_entity_that_is_not_defined_is_an_error() -> None:
    with pytest.raises(ValueError, match="malformed XML"):
        parse(b"<annotation><object><name>&cat;</name></object></annotation>")
    assert parse(b"<annotation><object><name>a & b</name></object></annotation>").labels == {"a & b": 1}
