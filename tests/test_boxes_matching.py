"""Matching on boxes whose overlaps are computed by hand; COCO's as a whole is compared in test_boxes_measures.py."""

import dataclasses
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from necklace.boxes import CROWD, IGNORED, Evidence, ImageBoxes, evidence_of
from necklace.boxes.matching import IGNORABLE, RIGHT, WRONG, match
from necklace.boxes.overlap import overlaps
from tests.boxes_drawn import drawn, exactly, image

A, B = (0.0, 0.0, 10.0, 10.0), (20.0, 0.0, 30.0, 10.0)
NOWHERE = (50.0, 50.0, 60.0, 60.0)


def voc(*images: ImageBoxes) -> tuple[list[int], dict[str, float]]:
    """What became of each detection by VOC's rules, in order of image and score, and all metrics of class 0."""
    return match(images, 1)[0].voc.tolist(), Evidence.joined([evidence_of(images, 1)], len(images)).metrics(["0"])


def test_overlaps() -> None:
    boxes = np.array([A, A, A, A, A, [0, 0, 0, 0]], float)
    others = np.array([A, [5, 0, 15, 10], [10, 0, 20, 10], [0, 0, 10, 5], [0, 0, 100, 100], A], float)
    crowd = np.array([False, False, False, False, True, False])
    # The halves share 50 of 150; neighbours touch; half a box is 50 of 100; all of the first lies in the crowd.
    np.testing.assert_array_equal(overlaps(boxes.T, others.T, crowd), [1, 1 / 3, 0, 0.5, 1, 0])


def test_voc_difficult_and_duplicates() -> None:
    first = image(0, [(A, 0, 0), (B, 0, IGNORED)], [(A, 0, 0.9), (A, 0, 0.8), (B, 0, 0.7), (B, 0, 0.6)])
    second = image(1, [(A, 0, 0), (B, 0, 0)], [(NOWHERE, 0, 0.5), (A, 0, 0.4)])
    outcomes, metrics = voc(first, second)
    assert outcomes == [RIGHT, WRONG, IGNORABLE, IGNORABLE, WRONG, RIGHT]
    # Three objects count. The ranking: right (precision 1, recall 1/3), a duplicate, two that do not count, wrong, right
    # (precision 2/4, recall 2/3). Recalls 0 to 0.3: precision 1; 0.4 to 0.6: 1/2; above: 0.
    assert exactly(metrics["box_map07"], 4 * 2 + 3, 22)
    assert exactly(metrics["box_map12"], 1, 2)  # 1/3 * 1 + 1/3 * 1/2
    # By COCO's rules an ignored object is taken once only, so the second detection of it is wrong: 2/5 at recall 2/3.
    # Recalls 0 to 0.33 are 34 points, 0.34 to 0.66 are 33.
    assert exactly(metrics["box_ap50/0"], 34 * 5 + 33 * 2, 505)


def test_voc_looks_only_at_the_object_with_the_highest_overlap() -> None:
    low = (0.0, 2.0, 10.0, 12.0)
    both = (0.0, 0.0, 10.0, 10.5)  # overlaps A by 10 / 10.5 = 0.952, and `low` by 8.5 / 12 = 0.708
    outcomes, metrics = voc(image(0, [(A, 0, 0), (low, 0, 0)], [(A, 0, 0.9), (both, 0, 0.8)]))
    assert outcomes == [RIGHT, WRONG]  # A was found before
    assert exactly(metrics["box_map07"], 6, 11)  # recalls 0 to 0.5
    assert exactly(metrics["box_map12"], 1, 2)
    # COCO takes the other object where 0.708 is enough: at 5 of the 10 IoUs all is right, at 5 half of it (51 of 101 recalls).
    assert exactly(metrics["box_map50"], 1)
    assert exactly(metrics["box_map"], 5 * 101 + 5 * 51, 1010)
    # The same with the better one `difficult`: the detection does not count, and the object is missed.
    outcomes, metrics = voc(image(0, [(A, 0, IGNORED), (low, 0, 0)], [(both, 0, 0.8)]))
    assert outcomes == [IGNORABLE]
    assert metrics["box_map07"] == metrics["box_map12"] == 0
    assert metrics["box_map50"] == 1  # COCO prefers what counts


def test_voc_of_equal_overlaps_the_first_and_coco_the_last() -> None:
    left, right = ((0.0, 0.0, 20.0, 10.0), 0, 0), ((10.0, 0.0, 30.0, 10.0), 0, 0)
    # The first detection shares 15 of 25 with each of the two.
    found = [((5.0, 0.0, 25.0, 10.0), 0, 0.9), (right[0], 0, 0.8)]
    # VOC: `left` for the first, `right` for the second. COCO: `right` for the first, and none for the second, as `left` is
    # too far away (10 of 30): half is found, 51 of 101 recalls.
    outcomes, metrics = voc(image(0, [left, right], found))
    assert outcomes == [RIGHT, RIGHT]
    assert exactly(metrics["box_map50"], 51, 101)
    assert exactly(metrics["box_loc50"], 51, 101)
    outcomes, metrics = voc(image(0, [right, left], found))
    assert outcomes == [RIGHT, WRONG]
    assert metrics["box_map50"] == 1
    # With all classes as one, the second goes: it shares 15 of 25 with the first.
    assert exactly(metrics["box_loc50"], 51, 101)


def test_a_place_without_a_class_is_a_place() -> None:
    # Both objects are found, in each class with the same box; for the second the wrong class has the higher score.
    guesses = [(A, 0, 0.9), (A, 1, 0.8), (B, 0, 0.7), (B, 1, 0.6)]
    metrics = Evidence.joined([evidence_of([image(0, [(A, 0, 0), (B, 1, 0)], guesses)], 2)], 1).metrics(["0", "1"])
    assert metrics["box_loc"] == 1
    assert metrics["box_class50"] == 0.5
    # Of class 1, a wrong detection stands before the right one.
    assert exactly(metrics["box_map50"], 3, 4)


def test_half_is_enough_and_less_is_not() -> None:
    half, less = (0.0, 0.0, 10.0, 5.0), (0.0, 0.0, 10.0, 4.99)
    assert voc(image(0, [(A, 0, 0)], [(half, 0, 0.9)]))[1]["box_map50"] == 1
    assert voc(image(0, [(A, 0, 0)], [(half, 0, 0.9)]))[0] == [RIGHT]
    assert voc(image(0, [(A, 0, 0)], [(less, 0, 0.9)]))[0] == [WRONG]
    # VOC's own pixels [1, 10] are [0, 10] here. Of [1, 10] x [1, 10] and [1, 10] x [1, 5] its rule shares 50 of 100, too.


def test_ties_are_ranked_by_image_then_by_their_order() -> None:
    wrong, right = image(0, [(A, 0, 0)], [(NOWHERE, 0, 0.5)]), image(1, [(A, 0, 0)], [(A, 0, 0.5)])
    metrics = voc(wrong, right)[1]
    assert exactly(metrics["box_map07"], 6, 22)  # wrong, right: precision 1/2 at recall 1/2: 0 to 0.5
    assert exactly(metrics["box_map12"], 1, 4)
    assert exactly(metrics["box_map50"], 51, 202)
    first, second = image(0, [(A, 0, 0)], [(A, 0, 0.5)]), image(1, [(A, 0, 0)], [(NOWHERE, 0, 0.5)])
    metrics = voc(first, second)[1]
    assert exactly(metrics["box_map07"], 6, 11)
    assert exactly(metrics["box_map12"], 1, 2)
    assert exactly(metrics["box_map50"], 51, 101)
    # Within an image: the one that is listed first is ranked first.
    assert voc(image(0, [(A, 0, 0)], [(A, 0, 0.5), (A, 0, 0.5)]))[0] == [RIGHT, WRONG]
    assert exactly(voc(image(0, [(A, 0, 0)], [(NOWHERE, 0, 0.5), (A, 0, 0.5)]))[1]["box_map12"], 1, 2)
    assert exactly(voc(image(0, [(A, 0, 0)], [(A, 0, 0.5), (NOWHERE, 0, 0.5)]))[1]["box_map12"], 1)


def one_after_the_other(images: list[ImageBoxes], number: int) -> list[int]:
    """VOC's rules for a class as they are told: all detections in falling order of score, each with its loop over objects."""
    ranking = [
        (-float(score), each.index, place)
        for each in images
        for place, (score, label) in enumerate(zip(each.scores, each.classes, strict=True))
        if label == number
    ]
    found, outcomes = set(), []
    for _, index, place in sorted(ranking):
        each, most, best = images[index], 0.0, -1
        x0, y0, x1, y1 = each.boxes[place].tolist()
        for truth in np.flatnonzero(each.true_classes == number).tolist():
            u0, v0, u1, v1 = each.true_boxes[truth].tolist()
            width, height = min(x1, u1) - max(x0, u0), min(y1, v1) - max(y0, v0)
            if width > 0 and height > 0:
                common = width * height
                overlap = common / ((x1 - x0) * (y1 - y0) + (u1 - u0) * (v1 - v0) - common)
                if overlap > most:
                    most, best = overlap, truth
        if most < 0.5:
            outcomes.append(WRONG)
        elif each.flags[best] == IGNORED:
            outcomes.append(IGNORABLE)
        else:
            outcomes.append(WRONG if (index, best) in found else RIGHT)
            found.add((index, best))
    return outcomes


@settings(max_examples=50, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32), images=st.integers(1, 10), most=st.integers(1, 14))
def test_voc_on_drawn_images(seed: int, images: int, most: int) -> None:
    found = [dataclasses.replace(each, flags=np.minimum(each.flags, 1)) for each in drawn(seed, images, 3, most)]
    evidence = evidence_of(found, 3)
    for number in range(3):
        outcomes = evidence.voc[slice(*evidence.starts[number : number + 2])]
        assert outcomes.tolist() == one_after_the_other(found, number)


def test_voc_recalls_are_compared_exactly() -> None:
    # 10 objects, the 3 best detections right: recall 3/10 reaches 0.3, so recalls 0, 0.1, 0.2, 0.3 have precision 1. Then one
    # wrong, and 4 right: precision 7/8 at recall 7/10 for 0.4 to 0.7.
    boxes = [(20.0 * n, 0.0, 20.0 * n + 10, 10.0) for n in range(10)]
    found = [(boxes[n], 0, 0.9 - 0.01 * n) for n in range(3)] + [((0.0, 90.0, 9.0, 99.0), 0, 0.8)]
    metrics = voc(image(0, [(box, 0, 0) for box in boxes], found))[1]
    assert exactly(metrics["box_map07"], 4, 11)
    found += [(boxes[n], 0, 0.7 - 0.01 * n) for n in range(3, 7)]
    metrics = voc(image(0, [(box, 0, 0) for box in boxes], found))[1]
    assert exactly(metrics["box_map07"], 4 * 8 + 4 * 7, 88)
    assert exactly(metrics["box_map12"], 3 * 8 + 4 * 7, 80)


def test_a_crowd_takes_many_and_is_not_to_be_found() -> None:
    crowd = (0.0, 0.0, 100.0, 100.0)
    inside = [((10.0 * n, 0.0, 10.0 * n + 10, 10.0), 0, 0.9 - 0.1 * n) for n in range(3)]
    outcomes, metrics = voc(image(0, [(crowd, 0, CROWD), (inside[2][0], 0, 0)], inside))
    assert outcomes == [IGNORABLE, IGNORABLE, RIGHT]
    assert metrics["box_map"] == metrics["box_map12"] == metrics["box_loc"] == 1


def test_a_class_that_there_is_not_is_refused() -> None:
    with pytest.raises(ValueError, match="image 4: `classes` holds 2, but there are 2 classes"):
        match([image(4, [], [(A, 2, 0.5)])], 2)
    with pytest.raises(ValueError, match="image 5: `true_classes` holds 7, but there are 2 classes"):
        evidence_of([image(5, [(A, 7, 0)], [])], 2)


@pytest.mark.parametrize(("number", "spread", "found"), [(10_000, 900.0, 10_000), (3_000, 0.0, 1)])
def test_memory_is_bounded_for_ten_thousand_boxes(number: int, spread: float, found: int) -> None:
    """All pairs at once would take 100 million times 8 bytes, several times over."""
    corners = np.random.default_rng(0).uniform(0, 1, (number, 2)) * spread
    boxes = np.concatenate([corners, corners + 50], 1).astype(np.float32)
    labels, scores = np.zeros(number, np.int64), np.linspace(1, 0, number, dtype=np.float32)
    crowded = ImageBoxes(0, 1000, 1000, boxes, labels, np.zeros(number, np.uint8), boxes, scores, labels)
    tracemalloc.start()
    metrics = Evidence.joined([evidence_of([crowded], 1)], 1).metrics(["0"])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 128 * 2**20
    # 100 of the objects can be found by COCO's rules: recalls 0 to 100 / number. VOC knows no limit; but where all boxes are
    # one, all detections look at the first object, so only one is right.
    assert exactly(metrics["box_map"], 100 * 100 // number + 1, 101)
    assert exactly(metrics["box_map12"], found, number)
