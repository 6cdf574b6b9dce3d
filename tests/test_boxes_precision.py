import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from necklace.boxes.precision import Rule, coco, mean_defined, ranked_precision, steps, voc07, voc12, weights_of
from tests.boxes_drawn import exactly


def ranked(rule: Rule, right: list[int], objects: int) -> float:
    """The average precision of a ranking, one image a detection."""
    hits = np.array([right], bool)
    weights = np.ones((1, len(right)))
    return float(ranked_precision(rule, weights, np.array([objects]), np.arange(len(right)), hits, np.ones_like(hits))[0])


def by_definition(right: list[int], objects: int) -> dict[str, float]:
    """The rules as their papers state them."""
    hits = np.cumsum(right)
    precision, recall = hits / np.arange(1, len(right) + 1), hits / objects
    best = np.array([precision[number:].max() for number in range(len(right))])
    grown = np.diff(recall, prepend=0)
    return {
        "coco": float(np.mean([precision[recall >= point].max(initial=0) for point in np.linspace(0, 1, 101)])),
        "voc07": float(np.mean([precision[10 * hits >= point * objects].max(initial=0) for point in range(11)])),
        "voc12": float((grown * best).sum()),
        "steps": float((grown * precision).sum()),
    }


@given(right=st.lists(st.integers(0, 1), min_size=1, max_size=40), missed=st.integers(0, 200))
def test_equal_to_the_definitions(right: list[int], missed: int) -> None:
    objects = sum(right) + missed
    if objects:
        found = {rule.__name__: ranked(rule, right, objects) for rule in (coco, voc07, voc12, steps)}
        assert found == pytest.approx(by_definition(right, objects), abs=1e-12)


def test_by_hand() -> None:
    # Right, wrong, right; 4 objects. Precision 1 to recall 1/4, then 2/3 to recall 1/2, where 1/2 lay between.
    assert exactly(ranked(voc12, [1, 0, 1], 4), 5, 12)
    assert exactly(ranked(steps, [1, 0, 1], 4), 5, 12)
    assert exactly(ranked(voc07, [1, 0, 1], 4), 3 * 3 + 3 * 2, 33)  # recalls 0, 0.1, 0.2, and 0.3, 0.4, 0.5
    assert exactly(ranked(coco, [1, 0, 1], 4), 26 * 3 + 25 * 2, 303)  # 0 to 0.25, and to 0.5
    # Wrong, right, right: the best at or above recall 1/2 is 2/3, not the 1/2 of its own place.
    assert exactly(ranked(voc12, [0, 1, 1], 2), 2, 3)
    assert exactly(ranked(steps, [0, 1, 1], 2), 7, 12)


def test_nothing_found_is_zero_and_nothing_to_find_is_undefined() -> None:
    assert ranked(coco, [0, 0], 3) == 0
    assert ranked(coco, [], 3) == 0
    assert np.isnan(ranked(coco, [0, 0], 0))


def test_mean_of_what_is_defined() -> None:
    values = np.array([[1.0, np.nan, np.nan], [0.5, 0.25, np.nan]])
    np.testing.assert_array_equal(mean_defined(values), [0.75, 0.25, np.nan])


@pytest.mark.parametrize(
    "weights", [np.ones((2, 4), np.int64), np.ones(3, np.int64), np.ones((2, 3)), np.array([[1, -1, 3]]), np.ones((2, 3), bool)]
)
def test_weights_are_whole_numbers_for_each_image(weights: np.ndarray) -> None:
    with pytest.raises(ValueError, match="allowed are whole numbers from 0"):
        weights_of(weights, 3)
