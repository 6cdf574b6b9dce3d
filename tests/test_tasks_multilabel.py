from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from necklace.data.datamodule import Batch
from necklace.schedules import constant
from necklace.tasks import MultiLabel, eleven_point_precision


def precision_by_hand(scores: np.ndarray, target: np.ndarray) -> tuple[float, float]:
    """Area under the precision-recall steps, and VOC2007's 11 points, from the ranking itself."""
    order = np.argsort(-scores)
    hits = np.cumsum(target[order])
    precision, recall = hits / np.arange(1, len(order) + 1), hits / target.sum()
    area = float((np.diff(recall, prepend=0) * precision).sum())
    eleven = np.mean([precision[recall >= t / 10 - 1e-9].max() for t in range(11)])
    return area, float(eleven)


@given(st.integers(0, 10_000), st.integers(1, 40))
@settings(max_examples=40, deadline=None)
def test_eleven_point_precision_by_hand(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    scores, target = rng.permutation(count) / count, rng.random(count) < 0.4
    target[rng.integers(count)] = True
    expected = precision_by_hand(scores, target)[1]
    found = eleven_point_precision(torch.tensor(scores, dtype=torch.float32), torch.tensor(target).long())
    assert found.item() == pytest.approx(expected, abs=1e-5)


def test_labels_of_minus_one_are_ignored() -> None:
    rng = np.random.default_rng(0)
    logits, labels = rng.permutation(150).reshape(50, 3) / 40.0 - 2, rng.choice([-1, 0, 1], (50, 3), p=[0.2, 0.4, 0.4])
    labels[:, 2] = np.minimum(labels[:, 2], 0)  # no image shows the third class
    task = MultiLabel(nn.Identity(), "abc", torch.optim.AdamW, constant, seed=0)
    logged: dict[str, float] = {}

    def log(name: str, value: Any, **_: Any) -> None:
        logged[name] = float(value)

    task.log = log  # pyright: ignore[reportAttributeAccessIssue]
    for part in (slice(0, 17), slice(17, 50)):
        task.update_metrics("test", torch.tensor(logits[part]), torch.tensor(labels[part], dtype=torch.int8))
    task.on_test_epoch_end()
    expected = []
    for k in range(2):
        known = labels[:, k] >= 0
        expected.append(precision_by_hand(logits[known, k], labels[known, k]))
        assert logged[f"test/ap/{'abc'[k]}"] == pytest.approx(expected[k][0], abs=1e-5)
    assert "test/ap/c" not in logged
    assert logged["test/map_classes"] == 2
    assert logged["test/map"] == pytest.approx(np.mean([area for area, _ in expected]), abs=1e-5)
    assert logged["test/map07"] == pytest.approx(np.mean([eleven for _, eleven in expected]), abs=1e-5)
    losses = task.losses(torch.tensor(logits), torch.tensor(labels, dtype=torch.int8), training=True)
    each = np.log1p(np.exp(-logits * np.where(labels > 0, 1, -1))) * (labels >= 0)
    assert losses.numpy() == pytest.approx(each.sum(1) / np.maximum((labels >= 0).sum(1), 1), abs=1e-6)


def test_weights_count_where_a_class_is_present_in_training_only() -> None:
    rng = np.random.default_rng(1)
    logits, labels = rng.normal(size=(20, 3)), rng.choice([-1, 0, 1], (20, 3))
    task = MultiLabel(nn.Identity(), "abc", torch.optim.AdamW, constant, seed=0, class_weights=[1, 4, 0.5])
    each = np.log1p(np.exp(-logits * np.where(labels > 0, 1, -1))) * (labels >= 0)
    weighted = each * np.where(labels > 0, [1, 4, 0.5], 1)
    for training, expected in ((True, weighted), (False, each)):
        losses = task.losses(torch.tensor(logits), torch.tensor(labels, dtype=torch.int8), training=training)
        assert losses.numpy() == pytest.approx(expected.sum(1) / np.maximum((labels >= 0).sum(1), 1), abs=1e-6)
    with pytest.raises(ValueError, match=r"task\.class_weights=\[1\]: must be null, balanced, or 3"):
        MultiLabel(nn.Identity(), "abc", torch.optim.AdamW, constant, seed=0, class_weights=[1])


def test_a_mean_over_no_class_is_not_zero() -> None:
    task = MultiLabel(nn.Identity(), "ab", torch.optim.AdamW, constant, seed=0)
    logged: dict[str, float] = {}

    def log(name: str, value: Any, **_: Any) -> None:
        logged[name] = float(value)

    task.log = log  # pyright: ignore[reportAttributeAccessIssue]
    task.update_metrics("test", torch.zeros(4, 2), torch.zeros(4, 2, dtype=torch.int8))
    task.on_test_epoch_end()
    assert np.isnan(logged["test/map"])
    assert np.isnan(logged["test/map07"])
    assert logged["test/map_classes"] == 0


def test_a_test_leaves_the_scores_in_the_order_of_the_split() -> None:
    rng = np.random.default_rng(1)
    logits, labels = rng.normal(size=(20, 2)).astype(np.float32), rng.choice([-1, 0, 1], (20, 2))
    task = MultiLabel(nn.Identity(), "ab", torch.optim.AdamW, constant, seed=0)
    logged: dict[str, float] = {}

    def log(name: str, value: Any) -> None:
        logged[name] = float(value)

    task.log = log  # pyright: ignore[reportAttributeAccessIssue]
    for part in rng.permutation(20).reshape(4, 5):
        batch = Batch(torch.empty(5, 0), torch.tensor(labels[part], dtype=torch.int8), torch.tensor(part), 5, (0, 0, 0))
        task.keep("test", torch.tensor(logits[part]), batch)
        task.update_metrics("test", torch.tensor(logits[part]), batch.labels)
    task.on_test_epoch_end()
    assert np.array_equal(task.evidence.scores, logits)
    assert np.array_equal(task.evidence.labels, labels)
    derived = {f"test/{name}": value for name, value in task.evidence.metrics("ab").items()}
    assert derived == {name: pytest.approx(value, abs=1e-6) for name, value in logged.items()}
