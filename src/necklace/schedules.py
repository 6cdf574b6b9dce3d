"""Learning-rate schedules, built from (optimizer, total_steps, steps_per_epoch) and stepped after every batch."""

import math

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR


def one_cycle(optimizer: Optimizer, total_steps: int, steps_per_epoch: int, warmup_share: float = 0.3) -> LRScheduler:
    """Rise from lr/25 to the optimizer's lr during the first `warmup_share` of all steps, then fall to about 0 (Smith 2017).

    The momentum (Adam's first beta) falls from 0.95 to 0.85 meanwhile and rises again, whatever the optimizer had.
    """
    peak = [group["lr"] for group in optimizer.param_groups]
    return OneCycleLR(optimizer, peak, total_steps=total_steps, pct_start=warmup_share)


def cosine(optimizer: Optimizer, total_steps: int, steps_per_epoch: int, warmup_epochs: float = 0.0) -> LRScheduler:
    """Rise linearly for `warmup_epochs`, then fall along half a cosine to 0 (Loshchilov and Hutter 2017).

    Raises:
        ValueError: `warmup_epochs` is negative, or not shorter than the whole training.
    """
    warmup_steps = round(warmup_epochs * steps_per_epoch)
    if not 0 <= warmup_steps < total_steps:
        raise ValueError(
            f"schedule.warmup_epochs={warmup_epochs}: must be shorter than the training of "
            f"{total_steps / steps_per_epoch:g} epochs"
        )

    def factor(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / (warmup_steps + 1)
        return 0.5 * (1 + math.cos(math.pi * (step - warmup_steps) / (total_steps - warmup_steps)))

    return LambdaLR(optimizer, factor)


def constant(optimizer: Optimizer, total_steps: int, steps_per_epoch: int) -> LRScheduler:
    """Keep the optimizer's lr constant."""
    return LambdaLR(optimizer, lambda step: 1.0)
