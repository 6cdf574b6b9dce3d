import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from necklace.tasks.mean_loss import MeanLoss


@given(st.lists(st.tuples(st.floats(0, 9), st.integers(1, 64)), min_size=1, max_size=9))
def test_batches_count_by_their_images(batches: list[tuple[float, int]]) -> None:
    mean = MeanLoss()
    for value, images in batches:
        mean.update(torch.tensor(value), images)
    every = [value for value, images in batches for _ in range(images)]
    assert float(mean.compute()) == pytest.approx(sum(every) / len(every), rel=1e-5, abs=1e-6)


def test_a_nan_is_not_left_out() -> None:
    mean = MeanLoss()
    mean.update(torch.tensor(1.0), 3)
    mean.update(torch.tensor(torch.nan), 3)
    assert mean.compute().isnan()
