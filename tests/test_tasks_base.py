import csv
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from pytorch_lightning.callbacks import Callback
from rich.console import Console
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from necklace.build import datamodule_of
from necklace.run.conditions import quiet_lightning
from necklace.run.fit import task_of, trainer_of
from necklace.run.history import History
from necklace.schedules import constant, one_cycle
from necklace.tasks import Classification, correctness
from tests.conftest import CONFIGS, SMALL, spec_of


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


@pytest.mark.parametrize("schedule", [constant, one_cycle])
def test_biases_may_learn_faster(schedule) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 3))
    task = Classification(model, "abc", lambda groups: torch.optim.SGD(groups, lr=0.1), schedule, 0, bias_lr=16)

    class Trainer:
        estimated_stepping_batches, max_epochs = 20, 2

    task._trainer = Trainer()  # pyright: ignore[reportAttributeAccessIssue]
    made: Any = task.configure_optimizers()
    weights, norms, biases = groups = made["optimizer"].param_groups
    assert [len(group["params"]) for group in groups] == [2, 1, 3]
    assert norms["params"][0] is model[1].weight
    assert all(any(p is module.bias for module in (model[0], model[1], model[3])) for p in biases["params"])
    assert norms["lr"] == weights["lr"]
    assert biases["lr"] == pytest.approx(16 * weights["lr"])
    with pytest.raises(ValueError, match=r"task\.bias_lr=0: must be above 0"):
        Classification(model, "abc", lambda groups: torch.optim.SGD(groups, lr=0.1), schedule, 0, bias_lr=0)


def test_muon_makes_steps_of_matrices_orthogonal_and_nadamw_takes_the_rest() -> None:
    config = OmegaConf.load(CONFIGS / "optimizer" / "muon.yaml")
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 32, 3), nn.Conv2d(32, 32, 3, groups=32), nn.Flatten(), nn.Linear(32 * 4, 10))
    task = Classification(model, "abc", instantiate(config, weight_decay=0.0), constant, 0, bias_lr=16)

    class Trainer:
        estimated_stepping_batches, max_epochs = 20, 2

    task._trainer = Trainer()  # pyright: ignore[reportAttributeAccessIssue]
    made: Any = task.configure_optimizers()
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    model(torch.randn(16, 3, 6, 6)).square().mean().backward()
    made["optimizer"].step()
    steps = {name: (value.detach() - before[name]).flatten(1) if value.ndim > 1 else value.detach() - before[name]
             for name, value in model.named_parameters()}  # fmt: skip
    for name in ("0.weight", "3.weight"):
        sizes = torch.linalg.svdvals(steps[name]) / (0.2 * max(steps[name].shape) ** 0.5 * config.lr)
        assert 0.6 < sizes.min() <= sizes.max() < 1.4, name
    rate = 1.9 * config.lr * config.fallback_lr_scale  # NAdamW's first step is 1 + beta1 rates, whatever the gradient
    torch.testing.assert_close(steps["1.weight"].abs(), torch.full_like(steps["1.weight"], rate), rtol=0.05, atol=0)
    for name in ("0.bias", "1.bias", "3.bias"):
        torch.testing.assert_close(steps[name].abs(), torch.full_like(steps[name], 16 * rate), rtol=0.05, atol=0)


def test_correctness_returns_to_the_splits_order() -> None:
    parts = [(torch.tensor([2, 0]), torch.tensor([True, False])), (torch.tensor([1]), torch.tensor([True]))]
    assert correctness(parts, 3).tolist() == [False, True, True]


@pytest.mark.parametrize("index", [[0, 1], [0, 1, 1], [0, 1, 3]])
def test_a_lost_or_doubled_image_is_an_error(index: list[int]) -> None:
    with pytest.raises(ValueError, match="3 test images"):
        correctness([(torch.tensor(index), torch.ones(len(index), dtype=torch.bool))], 3)


# What a GPU has to be waited for to answer: a value on the host, or a shape that depends on values.
WAITING = {"_local_scalar_dense", "nonzero", "is_nonzero", "item", "equal", "masked_select", "unique", "_unique2", "bincount"}


class Asked(TorchDispatchMode):
    """Counts the operations that would wait for a GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        self.names += [name] if name in WAITING else []
        return func(*args, **(kwargs or {}))


class Between(Callback):
    """Watches the steps from one to another, with all that Lightning and the callbacks do between them."""

    def __init__(self, first: int, last: int) -> None:
        self.first, self.last, self.asked = first, last, Asked()

    def on_train_batch_start(self, trainer: pl.Trainer, *args: Any, **kwargs: Any) -> None:
        if trainer.global_step == self.first:
            self.asked.__enter__()

    def on_train_batch_end(self, trainer: pl.Trainer, *args: Any, **kwargs: Any) -> None:
        if trainer.global_step == self.last:
            self.asked.__exit__(None, None, None)


def watched(tmp_path: Path, first: int, last: int, *overrides: str) -> list[str]:
    """Names of the waiting operations of a run's steps [first, last)."""
    spec = spec_of([*SMALL, "data.source.train=240", "batch_size=4", f"outputs={tmp_path}", "epochs=1", *overrides])
    data, between = datamodule_of(spec.resolved), Between(first, last)
    with quiet_lightning():
        history = History(tmp_path / "history.csv", Console(quiet=True))
        trainer = trainer_of(spec, tmp_path, [between, history], False)
        trainer.fit(task_of(spec, data), data)
    assert trainer.global_step > last
    return between.asked.names


AUGMENTED = "data.augment={flip: true, crop_padding: 2, cutout: 3, photometric: 0.2, crop_scale: 0.6}"


@pytest.mark.parametrize("overrides", [(), (AUGMENTED, "neck=focal", "trainer.gradient_clip_val=1.0")], ids=["plain", "all"])
def test_no_step_waits_for_the_device(overrides: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert watched(tmp_path, 1, 51, *overrides) == []
    monkeypatch.setattr(Classification, "losses", waiting_losses)
    assert len(watched(tmp_path, 1, 11, *overrides)) == 10  # each step that asks is seen


def waiting_losses(self: Classification, logits: torch.Tensor, labels: torch.Tensor, training: bool) -> torch.Tensor:
    losses = nn.functional.cross_entropy(logits, labels, reduction="none")
    return losses if bool(losses.detach().isfinite().all()) else losses * 0


@pytest.mark.parametrize("bad", [0, 7, 52])
def test_the_first_bad_step_is_named(bad: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """52 of 54 steps: after the look at step 50, so the epoch's end finds it, before val is evaluated."""
    steps: list[int] = []
    validated: list[int] = []

    def losses(self: Classification, logits: torch.Tensor, labels: torch.Tensor, training: bool) -> torch.Tensor:
        (steps if training else validated).append(1)
        values = nn.functional.cross_entropy(logits, labels, reduction="none")
        return values * torch.inf if training and len(steps) == bad + 1 else values

    monkeypatch.setattr(Classification, "losses", losses)
    with pytest.raises(FloatingPointError, match=rf"the training loss is (inf|nan) at step {bad} \(epoch 1\); a lower"):
        watched(tmp_path, -1, -1)
    assert not validated


def test_the_mean_loss_is_that_of_all_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[torch.Tensor] = []
    own = Classification.losses

    def losses(self: Classification, logits: torch.Tensor, labels: torch.Tensor, training: bool) -> torch.Tensor:
        values = own(self, logits, labels, training)
        seen.extend([values.detach()] if training else [])
        return values

    monkeypatch.setattr(Classification, "losses", losses)
    watched(tmp_path, -1, -1, "batch_size=7")
    (row,) = csv.DictReader((tmp_path / "history.csv").read_text().splitlines())
    assert float(row["train/loss"]) == pytest.approx(float(torch.cat(seen).mean()), rel=1e-5)
    assert int(row["images"]) == sum(map(len, seen))
