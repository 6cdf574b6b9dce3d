import inspect

import pytest
import pytorch_lightning as pl

from necklace.options.trainer import ALLOWED, OWN, SET_BY_THE_RUN, trainer_kinds, trainer_problems


def test_every_argument_of_the_trainer_has_its_place() -> None:
    """With a new version of Lightning, a new argument has to be thought of."""
    known = set(inspect.signature(pl.Trainer.__init__).parameters) - {"self"}
    assert set(SET_BY_THE_RUN) | set(trainer_kinds()) == known | set(OWN)
    assert set(ALLOWED) <= set(trainer_kinds())
    untold = {name for name, kind in trainer_kinds().items() if kind is None}
    assert untold <= ALLOWED.keys() | {"check_val_every_n_epoch"}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("limit_test_batches", 3),
        ("limit_test_batches", 0.5),
        ("limit_test_batches", 1),  # one batch; 1.0 is all
        ("limit_val_batches", 0),
        ("limit_val_batches", 0.0),
        ("limit_train_batches", 0),
        ("overfit_batches", 1),
        ("overfit_batches", 0.1),
        ("val_check_interval", 0.25),
        ("val_check_interval", 10),
        ("check_val_every_n_epoch", 3),
        ("check_val_every_n_epoch", None),
        ("check_val_every_n_epoch", 0),
        ("max_steps", 10),
        ("max_time", "00:01:00:00"),
        ("min_epochs", 3),
        ("min_steps", 3),
        ("enable_checkpointing", False),
        ("barebones", True),
        ("strategy", "ddp_spawn"),
        ("strategy", "ddp_notebook"),
        ("precision", "64-true"),
        ("precision", "bf16-true"),
    ],
)
def test_what_leaves_no_record_is_named(name: str, value: object) -> None:
    (problem,) = trainer_problems({name: value}, 2, {})
    assert problem.startswith(f"trainer.{name}=")
    assert len(problem) > len(f"trainer.{name}=") + 20


def test_what_leaves_a_record_is_not() -> None:
    fine = {"limit_test_batches": 1.0, "limit_val_batches": 2, "val_check_interval": None, "check_val_every_n_epoch": 2}
    assert trainer_problems(fine | {"max_steps": -1, "strategy": "ddp", "overfit_batches": 0}, 2, {}) == []
    assert trainer_problems({"check_val_every_n_epoch": 9, "fast_dev_run": True}, 2, {}) == []


def test_clipping_of_scaled_gradients_needs_an_optimizer_that_is_not_fused() -> None:
    clipped = {"precision": "16-mixed", "gradient_clip_val": 1.0}
    (problem,) = trainer_problems(clipped, 2, {"fused": True})
    assert problem.startswith("trainer.gradient_clip_val=1.0: ")
    assert problem.endswith("optimizer.fused=null")
    assert trainer_problems(clipped, 2, {"fused": None}) == []
    assert trainer_problems(clipped | {"precision": "bf16-mixed"}, 2, {"fused": True}) == []
    assert trainer_problems({"precision": "16-mixed"}, 2, {"fused": True}) == []
