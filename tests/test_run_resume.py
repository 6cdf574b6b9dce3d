"""Runs whose files are damaged while they are interrupted: each ends as its undisturbed twin does."""

import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import pytorch_lightning as pl
import torch

from necklace.record import Record
from necklace.run.checkpoints import read_saved
from necklace.run.folder import RunFolder
from necklace.run.history import History
from necklace.run.resume import repair
from necklace.run.runner import RunFailed, run
from tests.conftest import SMALL, spec_of

OPTIONS = [*SMALL, "data.source.train=60", "neck=focal", "epochs=4", "callbacks.gates=1"]
# What depends on when and how a run came to its end, and not on what it found.
OF_THE_WAY = ("wall_seconds", "fit_seconds", "images_per_s", "resumed", "config")


def result(record: Record) -> dict[str, Any]:
    return {name: value for name, value in asdict(record).items() if name not in OF_THE_WAY}


def files(folder: Path) -> tuple[list[str], list[dict[str, Any]]]:
    curve = [line.rpartition(",")[0] for line in (folder / "history.csv").read_text().splitlines()]
    return curve, pq.read_table(folder / "gates.parquet").to_pylist()


def stop(options: list[str], outputs: Path) -> None:
    """Begin a run that stops in its third of four epochs, after the pass over val, before the checkpoint."""
    ended = History.on_train_epoch_end

    def stumble(self: History, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.current_epoch == 2:
            raise OSError("unplugged")
        ended(self, trainer, pl_module)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(History, "on_train_epoch_end", stumble)
        with pytest.raises(RunFailed, match="unplugged"):
            run(spec_of([*options, f"outputs={outputs}"]))


@pytest.fixture(scope="module")
def twins(tmp_path_factory: pytest.TempPathFactory) -> tuple[Record, Path, Path]:
    """An undisturbed run with its folder, and the outputs of one that stopped in its third of four epochs."""
    outputs, stopped = tmp_path_factory.mktemp("undisturbed"), tmp_path_factory.mktemp("stopped")
    record = run(spec_of([*OPTIONS, f"outputs={outputs}"]))
    stop(OPTIONS, stopped)
    return record, outputs / "runs" / record.name, stopped


def test_a_run_of_muon_with_sizes_that_grow_ends_as_its_twin(tmp_path: Path) -> None:
    sizes = "data/sizes=multiscale", "data.sizes.per=epoch", "data.sizes.sizes=[16,16,24,24]"
    options = [*OPTIONS, *sizes, "optimizer=muon", "task.bias_lr=16", "schedule=cosine", "callbacks.gates=0"]
    record = run(spec_of([*options, f"outputs={tmp_path / 'undisturbed'}"]))
    stop(options, tmp_path / "stopped")
    resumed = run(spec_of([*options, f"outputs={tmp_path / 'stopped'}"]))
    assert resumed.resumed
    assert result(resumed) == result(record)


def cut(path: Path, to: float) -> None:
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * to)])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    for place in range(len(content) // 2, len(content) // 2 + 512):  # more than the padding between two tensors
        content[place] ^= 0xFF
    path.write_bytes(bytes(content))


def best_is_lost(folder: RunFolder) -> None:
    """The best epoch is the first, whose file is cut; neither of the two last checkpoints is of it."""
    for path in (folder.last, folder.previous):
        content = torch.load(path, weights_only=True)
        for state in content["callbacks"].values():
            if state.get("best_epoch") is not None:
                state["best_epoch"] = 0
        content["epoch"] += 1 if path == folder.previous else 0
        torch.save(content, path)
    cut(folder.best, 0.5)


DAMAGE: dict[str, tuple[Callable[[RunFolder], Any], int, str]] = {
    "nothing": (lambda folder: None, 1, ""),
    "last.ckpt empty": (lambda folder: cut(folder.last, 0), 1, "last.ckpt: damaged (0 bytes); not used"),
    "last.ckpt cut": (lambda folder: cut(folder.last, 0.7), 1, "goes on after epoch 1, from the checkpoint before"),
    "last.ckpt with other bytes": (lambda folder: flip(folder.last), 1, "last.ckpt: damaged"),
    "last.ckpt gone": (lambda folder: folder.last.unlink(), 1, ""),
    "previous.ckpt cut": (lambda folder: cut(folder.previous, 0.7), 1, "previous.ckpt: damaged"),
    "both empty": (lambda folder: [cut(folder.last, 0), cut(folder.previous, 0)], 0, "starting from the first epoch"),
    "best.ckpt empty": (lambda folder: cut(folder.best, 0), 1, "best.ckpt: damaged"),
    "best.ckpt and last.ckpt cut": (lambda folder: [cut(folder.best, 0.5), cut(folder.last, 0.9)], 1, "best.ckpt: made again"),
    "best.ckpt cut, and its epoch gone": (best_is_lost, 0, "no checkpoint is left to go on from"),
    "gates.parquet empty": (lambda folder: cut(folder.gates_path, 0), 1, "gates.parquet: damaged; made again"),
    "gates.parquet cut": (lambda folder: cut(folder.gates_path, 0.6), 1, "gates.parquet: damaged; made again"),
    "gates.parquet gone": (lambda folder: folder.gates_path.unlink(), 1, ""),
    "history.csv and config.yaml empty": (lambda f: [cut(f.history_path, 0), cut(f.config_path, 0)], 1, ""),
    "code empty": (lambda folder: cut(folder.code_path, 0), 0, "written by other code; starting from the first epoch"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_run_with_a_damaged_file_ends_as_its_twin(
    name: str, twins: tuple[Record, Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    undisturbed, folder, stopped = twins
    shutil.copytree(stopped, tmp_path / "outputs", ignore=shutil.ignore_patterns("cache"))
    damage, resumed, words = DAMAGE[name]
    own = RunFolder(tmp_path / "outputs" / "runs" / undisturbed.name)
    damage(own)
    told: list[str] = []
    record = run(spec_of([*OPTIONS, f"outputs={tmp_path / 'outputs'}"]), told=told)
    assert result(record) == result(undisturbed)
    assert files(own.path) == files(folder)
    assert record.resumed == resumed
    assert words in capsys.readouterr().out.replace("\n", "")
    assert not own.failed_path.exists()
    assert [saved.epoch for saved in (read_saved(own.last, record.hash), read_saved(own.previous, record.hash)) if saved] == [
        3,
        2,
    ]


def test_a_foreign_file_is_named_and_left_alone(twins: tuple[Record, Path, Path], tmp_path: Path) -> None:
    record, _, stopped = twins
    shutil.copytree(stopped, tmp_path / "outputs", ignore=shutil.ignore_patterns("cache"))
    own = RunFolder(tmp_path / "outputs" / "runs" / record.name)
    torch.save({"state_dict": {}, "run": record.hash}, own.last)
    with pytest.raises(RunFailed, match=r"last\.ckpt: is no checkpoint of a run \(.*\); remove it$"):
        run(spec_of([*OPTIONS, f"outputs={tmp_path / 'outputs'}"]))
    assert own.last.exists()
    assert own.previous.exists()


@pytest.mark.parametrize("name", ["last.ckpt", "previous.ckpt", "best.ckpt"])
def test_another_runs_checkpoint_is_refused_and_nothing_is_changed(
    name: str, twins: tuple[Record, Path, Path], tmp_path: Path
) -> None:
    record, _, stopped = twins
    shutil.copytree(stopped, tmp_path / "outputs", ignore=shutil.ignore_patterns("cache"))
    own = RunFolder(tmp_path / "outputs" / "runs" / record.name)
    path = own.checkpoints / name
    torch.save(torch.load(path, weights_only=True) | {"run": "0123456789"}, path)
    before = {each.name: each.read_bytes() for each in own.checkpoints.iterdir()}
    with pytest.raises(
        RunFailed, match=rf"{name}: is no checkpoint of run {record.hash}: it carries the hash of run 0123456789"
    ):
        run(spec_of([*OPTIONS, f"outputs={tmp_path / 'outputs'}"]))
    assert {each.name: each.read_bytes() for each in own.checkpoints.iterdir()} == before
    assert not own.failed_path.exists()


def test_a_best_epoch_alone_is_nothing_to_go_on_from(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "none_s0_0123456789")
    folder.checkpoints.mkdir(parents=True)
    folder.best.write_bytes(b"")
    repair(folder, "0123456789", pytest.fail)
    assert not folder.checkpoints.exists()
    assert folder.latest is None
