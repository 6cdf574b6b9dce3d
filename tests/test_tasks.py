import pytest
import torch
from torch import nn

from necklace.schedules import constant
from necklace.tasks import Classification, correctness


def task(model: nn.Module, **options) -> Classification:
    return Classification(model, 3, torch.optim.AdamW, constant, seed=0, **options)


def test_accuracy_is_micro_averaged() -> None:
    # 8 of class 0 all right, 2 of class 1 all wrong: top-1 is 0.8; the mean over classes would be 0.5.
    classification = task(nn.Identity())
    logits = torch.zeros(10, 3)
    logits[:, 0] = 1
    accuracy = classification.test_acc
    accuracy.update(logits, torch.tensor([0] * 8 + [1] * 2))
    assert accuracy.compute() == pytest.approx(0.8)


def test_weight_decay_spares_what_has_one_axis() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 3))
    classification = Classification(model, 3, lambda groups: torch.optim.AdamW(groups, weight_decay=0.1), constant, 0)

    class Trainer:
        estimated_stepping_batches, max_epochs = 20, 2

    classification._trainer = Trainer()  # pyright: ignore[reportAttributeAccessIssue]
    decayed, spared = classification.configure_optimizers()["optimizer"].param_groups
    assert decayed["weight_decay"] == 0.1
    assert spared["weight_decay"] == 0
    assert {p.ndim for p in decayed["params"]} == {2, 4}
    assert {p.ndim for p in spared["params"]} == {1}
    count = len(decayed["params"]) + len(spared["params"])
    assert count == len(list(model.parameters()))


def test_correctness_returns_to_the_splits_order() -> None:
    parts = [(torch.tensor([2, 0]), torch.tensor([True, False])), (torch.tensor([1]), torch.tensor([True]))]
    assert correctness(parts, 3).tolist() == [False, True, True]


@pytest.mark.parametrize("index", [[0, 1], [0, 1, 1], [0, 1, 3]])
def test_a_lost_or_doubled_image_is_an_error(index: list[int]) -> None:
    with pytest.raises(ValueError, match="3 test images"):
        correctness([(torch.tensor(index), torch.ones(len(index), dtype=torch.bool))], 3)


def test_label_smoothing_out_of_range() -> None:
    with pytest.raises(ValueError, match=r"task\.label_smoothing=1"):
        task(nn.Identity(), label_smoothing=1)
