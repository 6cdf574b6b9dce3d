"""A checkpoint carries its run's hash, and a run takes no other's."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from necklace.model import state_hash
from necklace.record import Record
from necklace.run import fit
from necklace.run.runner import RunFailed, RunRefused
from necklace.run.stamp import KEY

Train = Callable[..., tuple[Record, Path]]


def left(folder: Path) -> dict[str, bytes]:
    """What is in a run's folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def interrupted(folder: Path) -> None:
    """The run as if it had been killed before it wrote its record."""
    (folder / "record.json").unlink()


def test_a_checkpoint_of_another_seed_is_refused_and_all_stays(train_run: Train) -> None:
    (zero, first), (one, second) = train_run("seed=0"), train_run("seed=1")
    for record, folder in ((zero, first), (one, second)):
        for name in ("best", "last"):
            assert torch.load(folder / "checkpoints" / f"{name}.ckpt", weights_only=True)[KEY] == record.hash
    own = (first / "checkpoints" / "last.ckpt").read_bytes()
    interrupted(first)
    shutil.copy(second / "checkpoints" / "last.ckpt", first / "checkpoints" / "last.ckpt")
    before = left(first)
    with pytest.raises(RunRefused) as refusal:
        train_run("seed=0")
    (said,) = str(refusal.value).splitlines()
    assert f"last.ckpt: is no checkpoint of run {zero.hash}: it carries the hash of run {one.hash}; " in said
    assert left(first) == before
    (first / "checkpoints" / "last.ckpt").write_bytes(own)
    again, _ = train_run("seed=0")
    assert (again.weights_hash, again.resumed) == (zero.weights_hash, 1)
    # The file that the figures come from likewise, and one that says nothing.
    interrupted(first)
    last = torch.load(first / "checkpoints" / "last.ckpt", weights_only=True)
    shutil.copy(second / "checkpoints" / "best.ckpt", first / "checkpoints" / "best.ckpt")
    with pytest.raises(RunRefused, match=rf"best\.ckpt: .* it carries the hash of run {one.hash}"):
        train_run("seed=0")
    torch.save({key: value for key, value in last.items() if key != KEY}, first / "checkpoints" / "last.ckpt")
    with pytest.raises(RunRefused, match=r"last\.ckpt: .* it carries no run's hash"):
        train_run("seed=0")
    shutil.rmtree(first / "checkpoints")
    again, _ = train_run("seed=0")
    assert (again.weights_hash, again.resumed) == (zero.weights_hash, 0)


def test_a_checkpoint_does_not_say_where_it_lay(train_run: Train, tmp_path: Path) -> None:
    _, folder = train_run("seed=0")
    for name in ("best", "last"):
        callbacks = torch.load(folder / "checkpoints" / f"{name}.ckpt", weights_only=True)["callbacks"]
        assert any("best_model_path" in state for state in callbacks.values())
        assert str(tmp_path) not in repr(callbacks)


def test_weights_that_are_not_the_chosen_ones_leave_no_record(train_run: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen, folder = train_run()
    best = torch.load(folder / "checkpoints" / "best.ckpt", weights_only=True)
    assert state_hash(best["state_dict"], "model.") == chosen.weights_hash
    evaluated = fit._evaluated

    def swapped(trainer, task, data, *rest):
        with torch.no_grad():
            next(task.model.parameters()).add_(1)
        return evaluated(trainer, task, data, *rest)

    monkeypatch.setattr(fit, "_evaluated", swapped)
    with pytest.raises(RunFailed, match=rf"than those of .*best\.ckpt \({chosen.weights_hash[:10]}\): no record is written"):
        train_run("rerun=true")
    assert not (folder / "record.json").exists()
    assert "judged other weights" in (folder / "FAILED").read_text()


def test_in_a_job_of_slurm_a_stray_checkpoint_changes_nothing(
    train_run: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, folder = train_run("epochs=3", outputs=tmp_path / "plain")
    stray = folder / "checkpoints" / "last.ckpt"
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "srun").write_text("#!/bin/sh\nexit 1\n")
    (programs / "srun").chmod(0o755)
    for name, value in {"NTASKS": "1", "JOB_ID": "7", "JOB_NAME": "train", "PROCID": "0"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    for place in ("", "lightning", "checkpoints"):
        there = tmp_path / "runs" / folder.name / place
        there.mkdir(parents=True, exist_ok=True)
        shutil.copy(stray, there / "hpc_ckpt_1.ckpt")
    again, _ = train_run("epochs=3")
    assert (again.weights_hash, again.metrics, again.resumed) == (plain.weights_hash, plain.metrics, 0)
