import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from necklace.boxes import Evidence, evidence_of
from necklace.boxes import evidence as module
from tests.boxes_drawn import drawn, image, large

NAMES = ["a", "b", "c"]
BOX = (0.0, 0.0, 10.0, 10.0)


def joined(seed: int = 1, images: int = 12) -> Evidence:
    return Evidence.joined([evidence_of(drawn(seed, images, 3, 14), 3)], images)


def same(left: Evidence, right: Evidence) -> bool:
    names = [*module.COLUMNS, *module.OBJECTS, "images", "starts"]
    return all(np.array_equal(getattr(left, name), getattr(right, name)) for name in names)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32), images=st.integers(0, 12), ranks=st.integers(1, 4), data=st.data())
def test_the_same_however_images_are_dealt(seed: int, images: int, ranks: int, data: st.DataObject) -> None:
    found = drawn(seed, images, 3, 14)
    whole = Evidence.joined([evidence_of(found, 3)], images)
    order = data.draw(st.permutations(range(images)))
    dealt = [[found[number] for number in order[rank::ranks]] for rank in range(ranks)]
    # A rank may send what it has as several parts, and through a pickle, as gathering does.
    parts = [pickle.loads(pickle.dumps(evidence_of(part, 3))) for part in dealt]
    again = Evidence.joined(parts, images)
    assert same(whole, again)
    assert again.metrics(NAMES) == whole.metrics(NAMES) == evidence_of(found, 3).metrics(NAMES)


def test_portions_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    found = large(40, 3, 30, 5)
    whole = Evidence.joined([evidence_of(iter(found), 3)], 40)
    monkeypatch.setattr(module, "_AT_ONCE", 7)
    monkeypatch.setattr(module, "_PAIRS_AT_ONCE", 500)
    assert same(whole, Evidence.joined([evidence_of(iter(found), 3)], 40))
    for pairs in (1, 40):  # a detection at a time, and some
        monkeypatch.setattr("necklace.boxes.matching._PAIRS", pairs)
        assert same(whole, Evidence.joined([evidence_of(iter(found), 3)], 40))


def test_images_missing_and_twice() -> None:
    found = drawn(0, 6, 3)
    first, second = evidence_of(found[:3], 3), evidence_of(found[3:], 3)
    with pytest.raises(ValueError, match=r"3 images .* split of 6: 3 are missing \(the first is image 3\) and 0 occur again"):
        Evidence.joined([first], 6)
    with pytest.raises(ValueError, match=r"9 images \(6 different ones\).* and 3 occur again \(the first is image 0\)"):
        Evidence.joined([first, second, first], 6)
    with pytest.raises(ValueError, match="for a split of 5"):
        Evidence.joined([first, second], 5)
    with pytest.raises(ValueError, match="only 6 different ones"):
        evidence_of([*found, found[0]], 3)
    with pytest.raises(ValueError, match=r"evidence of \[3, 4\] classes"):
        Evidence.joined([first, evidence_of(found[3:], 4)], 6)
    with pytest.raises(ValueError, match="no scores left"):
        Evidence.joined([Evidence.joined([first, second], 6)], 6)
    with pytest.raises(ValueError, match="0 classes"):
        evidence_of(found, 0)


def test_a_part_alone_and_nothing_at_all() -> None:
    found = [image(5, [(BOX, 0, 0)], [(BOX, 0, 0.5)]), image(2, [(BOX, 0, 0)], [])]
    part = evidence_of(found, 1)
    assert part.images.tolist() == [2, 5]
    assert part.metrics(["a"])["box_map12"] == 0.5
    assert evidence_of([], 2).metrics(["a", "b"]) == {"box_map_classes": 0}
    assert Evidence.joined([evidence_of([], 2)], 0).metrics(["a", "b"]) == {"box_map_classes": 0}


@settings(max_examples=15, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32), kept=st.lists(st.booleans(), min_size=9, max_size=9))
def test_a_subset_is_the_evidence_of_those_images(seed: int, kept: list[bool]) -> None:
    found = drawn(seed, 9, 3, 14)
    some = np.flatnonzero(kept)
    subset = Evidence.joined([evidence_of(found, 3)], 9).subset(some)
    assert subset.metrics(NAMES) == evidence_of([found[number] for number in some], 3).metrics(NAMES)
    assert evidence_of(found, 3).subset(some).metrics(NAMES) == subset.metrics(NAMES)


def test_a_subset_of_other_images_is_refused() -> None:
    for images in ([0, 12], [3, 1], [1, 1]):
        with pytest.raises(ValueError, match="allowed are ascending positions"):
            joined().subset(np.array(images))


@settings(max_examples=15, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32), images=st.integers(0, 12))
def test_a_file_gives_the_same_numbers_bit_for_bit(tmp_path_factory: pytest.TempPathFactory, seed: int, images: int) -> None:
    whole = joined(seed, images)
    path = tmp_path_factory.mktemp("evidence") / "evidence.npz"
    digest = whole.save(path)
    again = Evidence.load(path, digest)
    assert same(whole, again)
    assert again.metrics(NAMES) == whole.metrics(NAMES)
    assert again.save(path.with_name("again.npz")) == digest
    assert path.read_bytes() == path.with_name("again.npz").read_bytes()


def test_what_cannot_change_a_number_is_not_kept() -> None:
    wrong = (50.0, 50.0, 60.0, 60.0)
    found = [(wrong, 0, 0.9), (BOX, 0, 0.8), (wrong, 0, 0.7), (BOX, 0, 0.6)]
    whole = Evidence.joined([evidence_of([image(0, [(BOX, 0, 0)], found)], 1)], 1)
    assert np.diff(whole.starts).tolist() == [2, 2]
    assert whole.metrics(["a"])["box_map12"] == 0.5


def test_a_file_is_small(tmp_path: Path) -> None:
    whole = Evidence.joined([evidence_of(large(72, 3, 100, 13), 3)], 72)
    whole.save(tmp_path / "evidence.npz")
    assert (tmp_path / "evidence.npz").stat().st_size < 35_000


def test_a_part_is_not_saved(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="only evidence of all images"):
        evidence_of(drawn(0, 6, 3)[2:], 3).save(tmp_path / "evidence.npz")
    assert not list(tmp_path.iterdir())


def test_a_file_of_another_split_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "evidence.npz"
    digest = joined(1).save(path)
    joined(2).save(path)
    with pytest.raises(ValueError, match="its SHA-256 is"):
        Evidence.load(path, digest)
    Evidence.load(path)
    with pytest.raises(FileNotFoundError, match="there is no such file"):
        Evidence.load(tmp_path / "other.npz")


def test_a_stated_number_of_images_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    joined().save(tmp_path / "evidence.npz")
    monkeypatch.setattr(module, "MOST_IMAGES", 11)
    with pytest.raises(ValueError, match=r"evidence\.npz: `images` is 12: allowed are 0 to 11"):
        Evidence.load(tmp_path / "evidence.npz")


@pytest.mark.parametrize("names", [["a", "b"], ["a", "b", "b"]])
def test_names_of_classes(names: list[str]) -> None:
    with pytest.raises(ValueError, match=r"names for 3 classes"):
        joined().metrics(names)


def test_an_unknown_metric() -> None:
    with pytest.raises(ValueError, match="box_mar: allowed are box_map, box_map50"):
        joined().precisions("box_mar")
