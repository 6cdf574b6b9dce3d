"""A smoke test: a few batches of train, val and test, without a record and without a folder."""

import tempfile
from pathlib import Path
from typing import Any

from necklace.build import datamodule_of
from necklace.guard.console import Console
from necklace.run.conditions import quiet_lightning, rank
from necklace.run.fit import task_of, trainer_of
from necklace.spec import RunSpec


def smoke_test(spec: RunSpec) -> None:
    """Take a few steps of a run, and evaluate what comes out on a few batches; `trainer.fast_dev_run` says how many.

    The schedule is that of the whole run, so that what is wrong with it shows.

    Args:
        spec: The run.

    Raises:
        ValueError: The run's parts do not go together.
    """
    options = spec.resolved["trainer"]
    data = datamodule_of(spec.resolved)
    task = task_of(spec, data)
    steps, make = len(data.train_dataloader()) // options.get("accumulate_grad_batches", 1), task.make_schedule
    task.make_schedule = lambda optimizer, *_: make(optimizer, max(1, steps) * spec.resolved["epochs"], max(1, steps))
    sizes: list[Any] = [None, *data.eval_sizes] if "test" in data.splits else []
    with tempfile.TemporaryDirectory(prefix="smoke-") as scratch, quiet_lightning():
        trainer = trainer_of(spec, Path(scratch), [], loggers=False)
        trainer.fit(task, data)
        trainer.validate(task, data, verbose=False)
        for size in sizes:
            data.test_size = size
            trainer.test(task, data, verbose=False)
    if rank(options) == 0:
        count = int(options["fast_dev_run"])
        parts = "train, val and test" if sizes else "train and val"
        Console(soft_wrap=True, highlight=False).print(
            f"smoke test: {count} batch{'es' * (count > 1)} each of {parts} went through; it leaves no record, no folder and "
            "no logged run behind"
        )
