import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchmetrics.functional.classification import multiclass_accuracy

from necklace.tasks.class_counts import ClassCounts, balanced_accuracy, class_accuracies


@given(seed=st.integers(0, 10_000), count=st.integers(8, 60), classes=st.integers(2, 6), batches=st.integers(1, 4))
@settings(max_examples=60, deadline=None)
def test_by_class_and_macro_as_torchmetrics_has_them(seed: int, count: int, classes: int, batches: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.cat([torch.arange(classes), torch.randint(classes, (count,), generator=generator)])
    predicted = torch.randint(classes, (len(labels),), generator=generator)
    metric = ClassCounts(classes)
    for part in torch.arange(len(labels)).chunk(batches):
        metric.update(predicted[part], labels[part])
    counts = metric.compute()
    assert counts.tolist()[:2] == [labels.bincount(minlength=classes).tolist(), predicted.bincount(minlength=classes).tolist()]
    by_class = multiclass_accuracy(predicted, labels, classes, average="none")
    assert class_accuracies(counts) == pytest.approx(by_class.tolist(), abs=1e-6)
    macro = multiclass_accuracy(predicted, labels, classes, average="macro")
    assert balanced_accuracy(counts) == pytest.approx(macro.item(), abs=1e-6)


def test_a_class_that_no_image_shows_does_not_count() -> None:
    metric = ClassCounts(4)
    metric.update(torch.tensor([0, 3, 1, 1]), torch.tensor([0, 0, 1, 1]))  # 2: not there at all; 3: taken for, but not there
    counts = metric.compute()
    assert class_accuracies(counts) == [0.5, 1.0, None, None]
    assert balanced_accuracy(counts) == 0.75
    # torchmetrics takes class 3 for one with accuracy 0.
    assert multiclass_accuracy(torch.tensor([0, 3, 1, 1]), torch.tensor([0, 0, 1, 1]), 4).item() == pytest.approx(0.5)
    metric.reset()
    metric.update(torch.tensor([2]), torch.tensor([2]))
    assert metric.compute().tolist() == [[0, 0, 1, 0]] * 3


def test_counts_of_ranks_add_up() -> None:
    whole, parts = ClassCounts(3), [ClassCounts(3), ClassCounts(3)]
    labels, predicted = torch.tensor([0, 1, 2, 2, 1, 0, 0]), torch.tensor([0, 2, 2, 2, 1, 1, 0])
    whole.update(predicted, labels)
    for rank, part in enumerate(parts):
        part.update(predicted[rank::2], labels[rank::2])
    assert ClassCounts(3)._reductions["counts"](torch.stack([part.counts for part in parts])).equal(whole.compute())  # pyright: ignore[reportOptionalCall, reportCallIssue]
