from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from necklace.data.datamodule import Batch
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


def test_a_monitor_that_is_not_known_is_refused() -> None:
    assert task(nn.Identity()).monitor == "val/acc"
    assert task(nn.Identity(), monitor="val/balanced_acc").monitor == "val/balanced_acc"
    with pytest.raises(ValueError, match=r"task\.monitor=val/loss: must be null, val/acc or val/balanced_acc"):
        task(nn.Identity(), monitor="val/loss")


def test_a_weight_counts_an_image_so_many_times_in_training_only() -> None:
    generator = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(7, 3, generator=generator), torch.tensor([0, 1, 2, 2, 1, 0, 0])
    plain, weighted = (task(nn.Identity(), label_smoothing=0.1, class_weights=weights) for weights in (None, [1, 3, 0.5]))
    each = plain.losses(logits, labels, training=True)
    assert weighted.losses(logits, labels, training=True).tolist() == pytest.approx(
        (each * torch.tensor([1, 3, 0.5])[labels]).tolist()
    )
    assert torch.equal(weighted.losses(logits, labels, training=False), plain.losses(logits, labels, training=False))
    assert weighted.state_dict().keys() == plain.state_dict().keys()  # checkpoints of both are alike


@given(st.integers(0, 1000), st.integers(2, 4), st.integers(4, 11))
@settings(max_examples=30, deadline=None)
def test_ranks_of_unequal_shares_give_the_gradient_of_one(seed: int, world_size: int, count: int) -> None:
    """DDP averages gradients over ranks; with weights, that is still the gradient over all images of the step."""
    generator = torch.Generator().manual_seed(seed)
    images, labels = torch.randn(count, 4, generator=generator), torch.randint(3, (count,), generator=generator)
    start = torch.randn(3, 4, generator=generator)

    def gradient(rank: int, ranks: int) -> torch.Tensor:
        model = nn.Linear(4, 3, bias=False)
        model.weight.data.copy_(start)
        own = task(model, class_weights=[0.5, 2, 7])
        own._trainer = SimpleNamespace(world_size=ranks, global_step=0)  # pyright: ignore[reportAttributeAccessIssue]
        share = slice(rank, None, ranks)
        index = torch.arange(count)[share]
        own.training_step(Batch(images[share], labels[share], index, count, (0, 0, 0)), 0).backward()
        assert model.weight.grad is not None
        return model.weight.grad

    together = torch.stack([gradient(rank, world_size) for rank in range(world_size)]).mean(0)
    assert together.flatten().tolist() == pytest.approx(gradient(0, 1).flatten().tolist(), abs=1e-5)
    reference = torch.nn.functional.cross_entropy(
        images @ start.requires_grad_().T, labels, weight=torch.tensor([0.5, 2, 7]), reduction="sum"
    )
    (expected,) = torch.autograd.grad(reference / count, start)
    assert together.flatten().tolist() == pytest.approx(expected.flatten().tolist(), abs=1e-5)
