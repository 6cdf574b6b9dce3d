import math

import pytest
import torch
from torch import nn

from necklace.schedules import constant, cosine, one_cycle


def rates(schedule, steps: int, **options: float) -> list[float]:
    optimizer = torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=0.4)
    scheduler = schedule(optimizer, steps, 10, **options)
    seen = []
    for _ in range(steps):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return seen


def test_constant() -> None:
    assert rates(constant, 5) == [0.4] * 5


def test_cosine_with_warmup_by_hand() -> None:
    seen = rates(cosine, 40, warmup_epochs=1)
    assert seen[:10] == pytest.approx([0.4 * (step + 1) / 11 for step in range(10)])
    assert seen[10:] == pytest.approx([0.2 * (1 + math.cos(math.pi * step / 30)) for step in range(30)])


def test_one_cycle_peaks_at_the_optimizers_lr() -> None:
    seen = rates(one_cycle, 100, warmup_share=0.3)
    assert seen[0] == pytest.approx(0.4 / 25)
    assert max(seen) == pytest.approx(0.4)
    assert seen.index(max(seen)) == 29
    assert seen[-1] < 1e-4


def test_a_warmup_as_long_as_training_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"schedule\.warmup_epochs=4: must be shorter than the training of 4 epochs"):
        rates(cosine, 40, warmup_epochs=4)
