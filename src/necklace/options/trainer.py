"""Options of Lightning's Trainer: those that a run sets itself, and those with which there could be no record.

A record holds what a run of `epochs` epochs gave: weights that val chose at the end of an epoch, and every test image once.
"""

from collections.abc import Mapping
from functools import cache
from typing import Any

from necklace.options.kinds import FLAG, NULL, TEXT, Kind, either, kind_of, list_of, number, one_of, shown, whole
from necklace.options.signatures import Argument, arguments

# What the run gives the Trainer itself, and which option decides it.
SET_BY_THE_RUN = {
    "max_epochs": "epochs= says how long a run trains",
    "logger": "logger= chooses it (wandb, csv, none)",
    "callbacks": "the run has its own; see callbacks.gates, callbacks.pictures and callbacks.knockout",
    "plugins": "the run has its own",
    "default_root_dir": "outputs= and study= say where a run's folder is",
    "num_sanity_val_steps": "a run has no sanity check; trainer.fast_dev_run=true tries a few batches",
    "enable_model_summary": "a run prints its own table of costs",
    "use_distributed_sampler": "the plan of batches knows the ranks",
}

# Options of `trainer` that the run reads itself.
OWN: dict[str, Kind] = {"timeout_s": number(above=0)}

_EPOCHS = "a run trains all its epochs: epochs= says how many"
_NEVER = "nothing reads it"
# Options of which only some values leave a record: what is allowed, and why.
ALLOWED: dict[str, tuple[Kind, str]] = {
    "limit_test_batches": (one_of(None, 1.0), "the record holds every test image; data.test_images=N tests fewer"),
    "limit_val_batches": (
        either(NULL, whole(1), number(above=0, high=1)),
        "val chooses the weights",
    ),
    "limit_train_batches": (either(NULL, whole(1), number(above=0, high=1)), "a run trains"),
    "limit_predict_batches": (NULL, "a run predicts nothing"),
    "overfit_batches": (one_of(0, 0.0), "val and test would be training images; data.train_images=N trains on fewer"),
    "val_check_interval": (one_of(None, 1.0), "val is looked at after whole epochs; see trainer.check_val_every_n_epoch"),
    "max_steps": (one_of(-1), _EPOCHS),
    "min_steps": (NULL, _EPOCHS),
    "min_epochs": (NULL, _EPOCHS),
    "max_time": (NULL, _EPOCHS),
    "enable_checkpointing": (one_of(None, True), "the weights that val chose are read from a checkpoint"),
    "barebones": (one_of(False), "it would leave out val's metrics and the checkpoints"),
    "precision": (
        one_of(None, 32, "32", "32-true", 16, "16", "16-mixed", "bf16", "bf16-mixed"),
        "weights, losses and metrics are of float32",
    ),
    "model_registry": (NULL, "the run keeps its checkpoints in its folder"),
    "reload_dataloaders_every_n_epochs": (one_of(0), "each epoch has its own plan of batches already"),
}

# What Lightning itself allows where its annotations do not tell.
_KINDS: dict[str, Kind] = {
    "accelerator": one_of("auto", "cpu", "gpu", "cuda", "mps", "tpu", "hpu"),
    "strategy": TEXT,
    "devices": either(one_of("auto", "-1", -1), whole(1), list_of(whole(0), least=1), TEXT),
    "num_nodes": whole(1),
    "fast_dev_run": either(FLAG, whole(0)),
    "accumulate_grad_batches": whole(1),
    "log_every_n_steps": either(NULL, whole(0)),
    "gradient_clip_val": either(NULL, number(low=0)),
    "gradient_clip_algorithm": one_of(None, "norm", "value"),
    "profiler": one_of(None, "simple", "advanced", "pytorch"),
}
_LOST = ("spawn", "fork", "notebook")


@cache
def trainer_kinds() -> dict[str, Kind | None]:
    """The options that `trainer` may have, with the kinds of their values."""
    given = [each for each in arguments("pytorch_lightning.Trainer") or () if each.name not in SET_BY_THE_RUN]
    return {**{each.name: _KINDS.get(each.name) or _annotated(each) for each in given}, **OWN}


def _annotated(argument: Argument) -> Kind | None:
    return None if argument.name in ALLOWED or argument.name == "check_val_every_n_epoch" else kind_of(argument.hint())


def trainer_problems(trainer: Mapping[str, Any], epochs: Any, optimizer: Any) -> list[str]:
    """A sentence for each of the Trainer's options with which a run could leave no record.

    Args:
        trainer: The resolved config's `trainer`.
        epochs: Its `epochs`.
        optimizer: Its `optimizer`.
    """
    problems = []
    for name, (kind, why) in ALLOWED.items():
        if name in trainer and not kind.accepts(trainer[name]):
            problems.append(f"trainer.{name}={shown(trainer[name])}: must be {kind.words}: {why}")
    every = trainer.get("check_val_every_n_epoch", 1)
    limit = epochs if whole(1).accepts(epochs) else None
    if not whole(1).accepts(every):
        problems.append(f"trainer.check_val_every_n_epoch={shown(every)}: must be a whole number from 1")
    elif limit is not None and every > limit and not trainer.get("fast_dev_run"):
        problems.append(
            f"trainer.check_val_every_n_epoch={every}: must be at most epochs={limit}, or val is never evaluated and no epoch "
            "can be chosen on it"
        )
    fused = isinstance(optimizer, Mapping) and optimizer.get("fused")
    if fused and trainer.get("gradient_clip_val") and str(trainer.get("precision")) in ("16", "16-mixed"):
        problems.append(
            f"trainer.gradient_clip_val={shown(trainer['gradient_clip_val'])}: with trainer.precision={trainer['precision']} "
            "gradients are scaled, and a fused optimizer takes them before they could be clipped; take optimizer.fused=null"
        )
    strategy = str(trainer.get("strategy", "auto"))
    if any(kind in strategy for kind in _LOST):
        problems.append(f"trainer.strategy={strategy}: what its ranks measure does not come back to the record; use ddp")
    return problems
