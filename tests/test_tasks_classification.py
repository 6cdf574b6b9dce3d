import pytest
import torch
from torch import nn

from necklace.schedules import constant
from necklace.tasks import Classification


def task(model: nn.Module, **options) -> Classification:
    return Classification(model, "abc", torch.optim.AdamW, constant, seed=0, **options)


def test_accuracy_is_micro_averaged() -> None:
    # 8 of class 0 all right, 2 of class 1 all wrong: top-1 is 0.8; the mean over classes would be 0.5.
    classification = task(nn.Identity())
    logits = torch.zeros(10, 3)
    logits[:, 0] = 1
    accuracy = classification.test_acc
    accuracy.update(logits, torch.tensor([0] * 8 + [1] * 2))
    assert accuracy.compute() == pytest.approx(0.8)


def test_label_smoothing_out_of_range() -> None:
    with pytest.raises(ValueError, match=r"task\.label_smoothing=1"):
        task(nn.Identity(), label_smoothing=1)
