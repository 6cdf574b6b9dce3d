"""Several loggers at once, each read back with its own reader."""

import csv
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from necklace.record import Record
from necklace.run.history import History
from necklace.run.loggers import check_loggers
from necklace.run.runner import RunFailed
from tests import wandb_files
from tests.conftest import SMALL, spec_of
from tests.test_tracking_mlflow_logger import mlflow_points
from tests.test_tracking_tensorboard_logger import events_of, scalars_of
from tests.wandb_files import by_epoch, finished_files, read

isolated = wandb_files.isolated_wandb  # a fixture for each test here
Train = Callable[..., tuple[Record, Path]]
ALL = "logger=[wandb,csv,tensorboard,mlflow]"
GATE = "gates/neck/global/mass"


def csv_points(folder: Path) -> dict[str, list[tuple[int, float]]]:
    rows = list(csv.DictReader((folder / "csv" / "metrics.csv").read_text().splitlines()))
    names = [name for name in rows[0] if name not in ("step", "epoch")]
    return {name: [(int(row["step"]), float(row[name])) for row in rows if row[name]] for name in names}


def trained(points: Mapping[str, list[tuple[int, float]]]) -> dict[str, list[tuple[int, float]]]:
    """What was logged while training, without the record, which holds times."""
    return {name: sorted(values) for name, values in points.items() if not name.startswith("record/") and name != "epoch"}


def stopping(whole: Callable[..., None]) -> Callable[..., None]:
    """As a kill does it: val of the third epoch is logged, and the epoch's checkpoint is not written."""

    def on_train_epoch_end(self: History, trainer: Any, pl_module: Any) -> None:
        if trainer.current_epoch == 2:
            raise OSError("no space left on device")
        whole(self, trainer, pl_module)

    return on_train_epoch_end


def test_a_resumed_run_has_one_history_in_every_logger(
    train_run: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["neck=focal", "epochs=4", "callbacks.gates=1", ALL, "logger.wandb.mode=offline"]
    _, undisturbed = train_run(*arguments, outputs=tmp_path / "undisturbed")
    with monkeypatch.context() as context:
        context.setattr(History, "on_train_epoch_end", stopping(History.on_train_epoch_end))
        with pytest.raises(RunFailed, match="no space left"):
            train_run(*arguments)
    (failed,) = (tmp_path / "runs").glob("glyphs*")
    ((failed_run, _),) = mlflow_points(tmp_path / "mlruns", "runs")
    assert failed_run.info.status == "FAILED"
    assert len(scalars_of(failed)["val/acc"]) == 3  # that of the third epoch is there, and comes again
    record, folder = train_run(*arguments)
    assert folder == failed
    assert record.resumed == 1

    points = {"csv": csv_points(folder), "tensorboard": scalars_of(folder)}
    expected = {"csv": csv_points(undisturbed), "tensorboard": scalars_of(undisturbed)}
    ((run, points["mlflow"]),) = mlflow_points(tmp_path / "mlruns", "runs")
    assert run.info.run_id == failed_run.info.run_id
    assert run.info.status == "FINISHED"
    ((_, expected["mlflow"]),) = mlflow_points(tmp_path / "undisturbed" / "mlruns", "runs")
    for logger, found in points.items():
        assert trained(found) == trained(expected[logger]), logger
        assert [len(found[name]) for name in ("train/loss", "val/acc", GATE)] == [4, 4, 4], logger
    histograms = events_of(folder).Histograms("gates/neck/global/gate")
    assert [histogram.step for histogram in histograms] == [step for step, _ in points["tensorboard"][GATE]]
    # All show the same numbers.
    history = by_epoch(read(finished_files(folder)[-1])["rows"])
    for name in ("train/loss", "val/acc", GATE):
        for found in points.values():
            assert [value for _, value in found[name]] == pytest.approx([history[epoch][name] for epoch in range(1, 5)])


def test_trackers_that_break_down_do_not_end_the_run(
    train_run: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = spec_of([*SMALL, "logger=[tensorboard,mlflow]", f"outputs={tmp_path}"])
    folder = tmp_path / "runs" / spec.name
    folder.mkdir(parents=True)
    (folder / "tensorboard").write_text("no folder")
    (tmp_path / "mlruns").write_text("nor this")
    record, found = train_run("logger=[tensorboard,mlflow]")
    assert found == folder
    assert record.epochs == 2
    said = capsys.readouterr().out
    assert said.count("TensorBoard stopped working (") == 1
    assert said.count("MLflow does not start (") == 1


@pytest.mark.parametrize("extra", ["tensorboard", "mlflow"])
def test_a_missing_package_is_said_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, train_run: Train, extra: str
) -> None:
    monkeypatch.setitem(sys.modules, extra, None)
    with pytest.raises(ValueError, match=rf"logger\.{extra}: {extra} is not installed; pip install 'necklace\[{extra}\]'"):
        train_run(f"logger=[csv,{extra}]")
    assert not list(tmp_path.glob("runs/[!.]*"))


def test_loggers_stand_at_their_names_and_one_of_an_old_config_without() -> None:
    def keys(*overrides: str) -> list[str]:
        return list(spec_of([*SMALL[:-1], *overrides]).loggers)

    assert keys() == ["logger.wandb"]
    assert keys("logger=none") == []
    assert keys("logger=[csv,wandb]") == ["logger.csv", "logger.wandb"]
    spec = spec_of(SMALL)
    old = {"_target_": "necklace.loggers.wandb_logger", "project": "x", "mode": None}
    assert spec.adapted({"logger": old}, []).loggers == {"logger": old}
    assert spec.adapted({"logger": None}, []).loggers == {}
    adapted = spec_of([*SMALL[:-1], "logger=[csv,wandb]"]).adapted({"logger.wandb.row": "a"}, [])
    assert adapted.loggers["logger.wandb"]["row"] == "a"
    assert "row" not in adapted.loggers["logger.csv"]


def test_an_option_without_its_loggers_name_is_refused_and_the_new_one_named() -> None:
    spec = spec_of([*SMALL[:-1], "+logger.project=mine"])
    with pytest.raises(ValueError, match=r"logger\.project=mine: .* logger\.wandb\.project"):
        check_loggers(spec)


def test_pictures_go_to_each_logger_that_shows_them(train_run: Train, tmp_path: Path) -> None:
    arguments = ["neck=none", "epochs=1", "logger=[tensorboard,mlflow]"]
    folder = tmp_path / "runs" / spec_of([*SMALL, *arguments, f"outputs={tmp_path}"]).name
    (folder / "pictures").mkdir(parents=True)
    pixels = torch.randint(0, 256, (5, 7, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)).numpy()
    Image.fromarray(pixels).save(folder / "pictures" / "confusion.png")
    train_run(*arguments)
    (image,) = events_of(folder).Images("pictures/confusion")
    assert (image.height, image.width) == (5, 7)
    ((run, _),) = mlflow_points(tmp_path / "mlruns", "runs")
    kept = tmp_path / "mlruns" / run.info.experiment_id / run.info.run_id / "artifacts" / "pictures" / "confusion.png"
    assert kept.read_bytes() == (folder / "pictures" / "confusion.png").read_bytes()
