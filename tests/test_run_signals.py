"""While a run trains, signals are answered by those who did so before, whatever Lightning sets."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lightning_fabric.plugins.environments.slurm import SLURMEnvironment

from necklace.record import Record
from necklace.run.fit import trainer_of
from necklace.run.history import History
from tests.conftest import SMALL, spec_of

Train = Callable[..., tuple[Record, Path]]


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment of two tasks of a job."""
    (tmp_path / "srun").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "srun").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    values = {"NTASKS": "2", "NTASKS_PER_NODE": "2", "JOB_ID": "7", "JOB_NAME": "train", "PROCID": "0", "LOCALID": "0"}
    step = {"STEP_ID": "0", "STEP_NUM_TASKS": "2", "NODELIST": "127.0.0.1"}
    for name, value in (values | step | {"NNODES": "1", "NODEID": "0"}).items():
        monkeypatch.setenv(f"SLURM_{name}", value)


def test_handlers_are_those_from_before(train_run: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[Any]] = []
    numbers = signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2

    def look(*_: Any) -> None:
        seen.append([signal.getsignal(number) for number in numbers])

    def own(number: int, frame: Any) -> None:
        raise AssertionError

    monkeypatch.setattr(History, "on_train_batch_start", look, raising=False)
    monkeypatch.setattr(History, "on_test_batch_start", look, raising=False)
    before = [signal.signal(number, own) for number in numbers]
    try:
        train_run("epochs=1")
        assert len(seen) > 3
        assert all(handlers == [own] * 3 for handlers in seen)
        assert [signal.getsignal(number) for number in numbers] == [own] * 3
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def test_sigterm_that_nobody_answers_is_an_interrupt(train_run: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def ended(self: History, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if trainer.current_epoch == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(History, "on_train_batch_start", ended)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    with pytest.raises(KeyboardInterrupt):
        train_run()
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    assert not list(tmp_path.rglob("FAILED"))
    monkeypatch.undo()
    assert train_run()[0].resumed == 1


@pytest.mark.usefixtures("slurm")
def test_lightning_queues_no_job_again(tmp_path: Path) -> None:
    options = ["trainer.devices=2", "trainer.strategy=ddp", "trainer.accelerator=cpu"]
    trainer = trainer_of(spec_of([*SMALL, *options]), tmp_path, [], loggers=False)
    environment = trainer._accelerator_connector.cluster_environment
    assert isinstance(environment, SLURMEnvironment)
    assert not environment.auto_requeue
