import pytest
import torch
from torch import nn

from necklace.schedules import constant
from necklace.tasks import Classification, correctness


def test_weight_decay_spares_what_has_one_axis() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 3))
    classification = Classification(model, "abc", lambda groups: torch.optim.AdamW(groups, weight_decay=0.1), constant, 0)

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
