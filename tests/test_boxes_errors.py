"""The kinds of errors: on boxes whose overlaps are computed by hand, and by really mending what each kind is about."""

import dataclasses
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from necklace.boxes import COUNTS, CROWD, IGNORED, Evidence, ImageBoxes, evidence_of
from necklace.boxes.errors import KINDS, MISSED, NONE, errors_of, explained
from tests.boxes_drawn import drawn, exactly, image, large

A, B = (0.0, 0.0, 10.0, 10.0), (20.0, 0.0, 30.0, 10.0)
HALF, THIRD = (0.0, 0.0, 10.0, 5.0), (5.0, 0.0, 15.0, 10.0)  # overlap A by 0.5 and by 1 / 3
SLIGHTLY, NOWHERE = (9.0, 0.0, 19.0, 10.0), (50.0, 50.0, 60.0, 60.0)  # A by 10 / 190, and nothing


def kinds(*found: tuple, true: list | None = None) -> tuple[list[str], list[int], int]:
    """What is wrong with detections beside an object A of class 0, the objects they would find, and how many are missed."""
    ((_, told),) = explained([image(0, true or [(A, 0, COUNTS)], list(found))], 3)
    names = ["" if kind == NONE else KINDS[kind] for kind in told.kind]
    return names, told.target.tolist(), int(told.missed.sum())


@pytest.mark.parametrize(
    ("found", "kind", "target", "missed"),
    [
        ((A, 0, 0.9), "", NONE, 0),
        ((HALF, 0, 0.9), "", NONE, 0),
        ((THIRD, 0, 0.9), "localisation", 0, 0),
        ((A, 1, 0.9), "classification", 0, 0),
        ((HALF, 1, 0.9), "classification", 0, 0),
        ((THIRD, 1, 0.9), "both", NONE, 1),
        ((SLIGHTLY, 0, 0.9), "background", NONE, 1),
        ((SLIGHTLY, 1, 0.9), "background", NONE, 1),
        ((NOWHERE, 0, 0.9), "background", NONE, 1),
    ],
)
def test_one_detection(found: tuple, kind: str, target: int, missed: int) -> None:
    assert kinds(found) == ([kind], [target], missed)


def test_what_is_found_is_not_found_again() -> None:
    names, targets, missed = kinds((A, 0, 0.9), (A, 0, 0.8), (THIRD, 0, 0.7), (A, 1, 0.6))
    assert names == ["", "duplicate", "localisation", "classification"]
    assert (targets, missed) == ([NONE] * 4, 0)


def test_the_first_kind_that_holds() -> None:
    # Of class 0, a third of A; of class 1, all of another object.
    assert kinds((THIRD, 0, 0.9), true=[(A, 0, COUNTS), (THIRD, 1, COUNTS)]) == (["localisation"], [0], 1)
    # A is taken, so it could be a duplicate; but it lies on an object of another class.
    names, targets, missed = kinds((A, 0, 0.9), (A, 0, 0.8), true=[(A, 0, COUNTS), (A, 1, COUNTS)])
    assert (names, targets, missed) == (["", "classification"], [NONE, 1], 0)


def test_what_does_not_count_is_no_error() -> None:
    assert kinds((A, 0, 0.9), (B, 0, 0.8), true=[(A, 0, IGNORED), (B, 0, CROWD)]) == (["", ""], [NONE, NONE], 0)
    # An ignored object explains nothing of another class.
    assert kinds((A, 1, 0.9), true=[(A, 0, IGNORED), (B, 2, COUNTS)]) == (["background"], [NONE], 1)
    # The 101st of its class and image.
    names, _, missed = kinds(*[(NOWHERE, 0, 0.9)] * 100, (A, 0, 0.1))
    assert (names, missed) == (["background"] * 100 + [""], 1)


def test_gains_by_hand() -> None:
    first = image(0, [(A, 0, 0), (B, 0, 0)], [(NOWHERE, 0, 0.9), (A, 0, 0.8), (A, 0, 0.7)])
    second = image(1, [(A, 1, 0)], [(THIRD, 1, 0.5), (A, 0, 0.4)])
    errors = errors_of([first, second], 2)
    assert errors.counts == dict.fromkeys(KINDS, 1) | {"both": 0}
    # Class 0: wrong, right, wrong, wrong with 2 objects: precision 1/2 up to recall 0.5, 51 of 101 points. Class 1: 0.
    base = 51 / 202
    assert errors.map50 == pytest.approx(base / 2, abs=1e-12)
    assert exactly(errors.gains["background"], 51, 404)  # precision 1 up to 0.5
    assert errors.gains["duplicate"] == 0  # it stands below all that is right
    assert exactly(errors.gains["missed"], 101 - 51, 404)  # precision 1/2 up to recall 1
    # Class 1 has a wrong detection above, which is right now: 1; or the right one below it: 1/2.
    assert exactly(errors.gains["localisation"], 1, 2)
    assert exactly(errors.gains["classification"], 1, 4)
    assert errors.gains["both"] == 0


def test_of_two_that_claim_an_object_the_better_is_mended() -> None:
    errors = errors_of([image(0, [(A, 0, 0)], [(A, 1, 0.5), (A, 2, 0.9), (NOWHERE, 0, 0.7)])], 3)
    assert errors.counts["classification"] == 2
    assert errors.gains["classification"] == 1  # with 0.9 it stands above the wrong one; the other is gone


def test_a_class_that_is_missed_stays_in_the_mean() -> None:
    errors = errors_of([image(0, [(A, 0, 0), (B, 1, 0)], [(A, 0, 0.5)])], 2)
    assert (errors.map50, errors.gains["missed"], errors.counts["missed"]) == (0.5, 0, 1)


def test_nothing_to_explain() -> None:
    with pytest.raises(ValueError, match="no object counts"):
        errors_of([image(0, [(A, 0, IGNORED)], [(A, 0, 0.5)])], 1)
    with pytest.raises(ValueError, match="no object counts"):
        errors_of([], 1)
    errors = errors_of([image(0, [(A, 0, 0)], [])], 1)
    assert (errors.map50, errors.counts["missed"], sum(errors.counts.values())) == (0, 1, 1)


def mended(images: list[ImageBoxes], kind: int) -> list[ImageBoxes]:
    """The images with one kind of error put right in the boxes themselves, one object at a time."""
    result = []
    for each, told in explained(images, 3):
        boxes, classes, keep = each.boxes.copy(), each.classes.copy(), told.kind != kind
        for target in set(told.target[told.kind == kind].tolist()) - {NONE}:
            best = max(np.flatnonzero((told.kind == kind) & (told.target == target)), key=lambda k: (each.scores[k], -k))
            boxes[best], classes[best], keep[best] = each.true_boxes[target], each.true_classes[target], True
        left = ~told.missed if kind == MISSED else np.full(len(told.missed), True)
        parts = {"boxes": boxes[keep], "classes": classes[keep], "scores": each.scores[keep]}
        parts |= {"true_boxes": each.true_boxes[left], "true_classes": each.true_classes[left], "flags": each.flags[left]}
        result.append(dataclasses.replace(each, **parts))
    return result


def map50(images: list[ImageBoxes], classes: set[int]) -> float:
    """The mean over these classes, of which some may have no object any more."""
    values = Evidence.joined([evidence_of(images, 3)], len(images)).precisions("box_map50")[sorted(classes), 0]
    return float(np.nan_to_num(values).mean())


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_kinds_are_what_they_say(seed: int) -> None:
    images = drawn(seed, 4, 3, unique=True)
    present = {int(c) for each in images for c in each.true_classes[each.flags == COUNTS]}
    if not present:
        return
    errors = errors_of(images, 3)
    assert errors.map50 == pytest.approx(map50(images, present), abs=1e-12)
    for number, name in enumerate(KINDS):
        assert errors.gains[name] == pytest.approx(map50(mended(images, number), present) - errors.map50, abs=1e-12)
        assert errors.gains[name] >= -1e-12
    # Each detection is right, does not count, or is wrong in one way; each object is found, claimed, or missed.
    for each, told in explained(images, 3):
        assert not (told.right & (told.kind != NONE)).any()
        claimed = np.unique(told.target[told.target != NONE])
        assert told.right.sum() + len(claimed) + told.missed.sum() == (each.flags == COUNTS).sum()
        assert not told.missed[claimed].any()
    wrong = sum(int((told.kind != NONE).sum()) for _, told in explained(images, 3))
    assert wrong == sum(errors.counts.values()) - errors.counts["missed"]


def test_a_large_split_in_seconds() -> None:
    images = large(600, 20, 100, 3)
    started = time.process_time()
    errors = errors_of(images, 20)
    assert time.process_time() - started < 5
    assert errors.map50 == Evidence.joined([evidence_of(images, 20)], 600).metrics([str(k) for k in range(20)])["box_map50"]
