from collections.abc import Callable
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from necklace.record import Record
from necklace.tracking.tensorboard_logger import TensorBoardRunLogger


def events_of(folder: Path) -> EventAccumulator:
    """The event files in a run's folder, by TensorBoard's own reader."""
    events = EventAccumulator(str(folder / "tensorboard"), {"scalars": 0, "histograms": 0, "images": 0, "tensors": 0})
    events.Reload()
    return events


def scalars_of(folder: Path) -> dict[str, list[tuple[int, float]]]:
    events = events_of(folder)
    return {name: [(event.step, event.value) for event in events.Scalars(name)] for name in events.Tags()["scalars"]}


def test_a_run_shows_its_curve_config_histograms_and_record(train_run: Callable[..., tuple[Record, Path]]) -> None:
    record, folder = train_run("neck=focal", "logger=tensorboard", "epochs=2", "callbacks.gates=1", "data.eval_sizes=[16]")
    found, events = scalars_of(folder), events_of(folder)
    assert record.gates is not None
    assert max(value for _, value in found["val/acc"]) == pytest.approx(record.metrics["val/acc"])
    assert [step for step, _ in found["val/acc"]] == [record.steps // 2 - 1, record.steps - 1]
    for name, value in record.metrics.items():
        assert found[f"record/{name}"] == [(record.steps, pytest.approx(value))]
    layer = record.gates["layers"]["neck"]
    for context, statistics in layer.items():
        logged = [value for _, value in found[f"gates/neck/{context}/mass"]]
        assert logged[record.best_epoch] == pytest.approx(statistics["mass"], rel=1e-4)
        histogram = events.Histograms(f"gates/neck/{context}/gate")[record.best_epoch].histogram_value
        assert (histogram.min, histogram.max) == pytest.approx((statistics["min"], statistics["max"]), rel=1e-4)
        assert sum(histogram.bucket) == pytest.approx(histogram.num)
        # Bins of some width: the mean lies near, not on it.
        width = (histogram.max - histogram.min) / len(histogram.bucket)
        assert histogram.sum / histogram.num == pytest.approx(statistics["mean"], abs=width)
    texts = {name: events.Tensors(f"{name}/text_summary")[0].tensor_proto.string_val[0].decode() for name in ("run", "config")}
    assert record.name in texts["run"]
    assert "neck: focal" in texts["run"]
    assert "focal_level: 2" in texts["config"]
    hyperparameters = events.summary_metadata["_hparams_/session_start_info"].plugin_data.content
    assert b"neck/focal_level" in hyperparameters


def test_a_run_that_starts_anew_shows_nothing_of_the_earlier_attempt(tmp_path: Path) -> None:
    for start, value in ((0, 1.0), (0, 2.0), (10, 3.0)):
        logger = TensorBoardRunLogger(tmp_path, {"seed": 0}, {})
        logger.begin(start)
        for step in range(start, 12):
            logger.log_metrics({"val/acc": value}, step)
        logger.experiment.close()
    assert scalars_of(tmp_path)["val/acc"] == [(step, 3.0 if step >= 10 else 2.0) for step in range(12)]


def test_there_is_no_writer_before_it_is_known_where_the_run_goes_on(tmp_path: Path) -> None:
    logger = TensorBoardRunLogger(tmp_path / "$HOME", {}, {})
    assert not hasattr(logger, "experiment")
    logger.save()
    assert not list(tmp_path.rglob("*"))
    assert logger.close(None, None, tmp_path) is None
    logger.begin(0)
    assert len(list((tmp_path / "$HOME" / "tensorboard").iterdir())) == 1
