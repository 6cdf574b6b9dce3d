import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from necklace.tasks.class_weights import balanced_weights, weights_tensor


@given(st.lists(st.integers(0, 50), min_size=2, max_size=6).filter(any))
@settings(max_examples=60, deadline=None)
def test_balanced_weights_give_every_class_the_same_part(counts: list[int]) -> None:
    labels = torch.tensor([label for label, count in enumerate(counts) for _ in range(count)])
    weights = balanced_weights(labels, len(counts))
    parts = [weight * count for weight, count in zip(weights, counts, strict=True) if count]
    assert parts == pytest.approx([len(labels) / len(parts)] * len(parts))
    assert [weight for weight, count in zip(weights, counts, strict=True) if not count] == [1.0] * counts.count(0)


def test_balanced_weights_by_hand() -> None:
    assert balanced_weights(torch.tensor([0] * 95 + [1] * 5), 2) == pytest.approx([100 / 190, 10])
    # The first class is in one of four images, the second in one of three that are known; for the others there is no ratio.
    several = torch.tensor([[1, 1, 0, 1], [0, 0, 0, 1], [0, -1, 0, 1], [0, 0, 0, 1]], dtype=torch.int8)
    assert balanced_weights(several, 4) == [3.0, 2.0, 1.0, 1.0]


def test_weights_that_are_none_or_fit() -> None:
    assert weights_tensor(None, "ab") is None
    found = weights_tensor([1, 2.5], "ab")
    assert found is not None
    assert found.dtype == torch.float32
    assert found.tolist() == [1, 2.5]


@pytest.mark.parametrize(
    "weights",
    [[1], [1, 2, 3], [], 5, "balance", "12", [1, 0], [1, -1], [1, math.nan], [1, math.inf], [1, 1e39], [1, 1e-60]]
    + [[1, True], [1, "2"], [1, None], [[1, 2], [3, 4]], {"a": 1, "b": 2}],
    ids=str,
)
def test_weights_that_cannot_be_are_refused(weights: Any) -> None:
    with pytest.raises(ValueError, match=r"^task\.class_weights=.*must be null, balanced, or 2 positive .*\(a, b\)$") as error:
        weights_tensor(weights, "ab")
    assert str(error.value).startswith(f"task.class_weights={weights}:")
