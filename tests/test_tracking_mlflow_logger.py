import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from necklace.record import Record
from necklace.tracking.mlflow_logger import ENVIRONMENT, MlflowRunLogger, mlflow_logger
from tests.conftest import SMALL, spec_of


def mlflow_points(store: Path, experiment: str) -> list[tuple[Any, dict[str, list[tuple[int, float]]]]]:
    """The runs of an experiment with all points of their metrics, by MLflow's own client."""
    from mlflow import MlflowClient

    client = MlflowClient(store.as_uri())
    found = client.get_experiment_by_name(experiment)
    assert found is not None
    runs = client.search_runs([found.experiment_id])
    points = {
        run.info.run_id: {
            name: [(point.step, point.value) for point in client.get_metric_history(run.info.run_id, name)]
            for name in run.data.metrics
        }
        for run in runs
    }
    return [(run, points[run.info.run_id]) for run in runs]


def test_a_run_has_name_tags_params_and_the_record(train_run: Callable[..., tuple[Record, Path]], tmp_path: Path) -> None:
    record, _ = train_run("neck=sppf", "logger=mlflow", "epochs=2", "logger.mlflow.row=pooled", "data.eval_sizes=[16]")
    ((run, points),) = mlflow_points(tmp_path / "mlruns", "runs")
    assert (run.info.run_name, run.info.status) == (record.name, "FINISHED")
    tags = {"neck": "sppf", "data": "glyphs", "data.sizes": "fixed", "seed": "0", "hash": record.hash, "row": "pooled"}
    assert tags.items() <= run.data.tags.items()
    assert run.data.params["epochs"] == "2"
    assert run.data.params["optimizer/lr"] == str(record.config["optimizer"]["lr"])
    assert max(value for _, value in points["val/acc"]) == pytest.approx(record.metrics["val/acc"])
    for name, value in record.metrics.items():
        assert points[f"record/{name.replace('@', '_')}"] == [(record.steps, pytest.approx(value))]
    assert "test/acc@16" in record.metrics
    assert points["record/cost/params"] == [(record.steps, record.total("params"))]


def begun(tmp_path: Path, step: int, store: str = "mlruns") -> MlflowRunLogger:
    spec = spec_of([*SMALL, f"outputs={tmp_path}"])
    folder = tmp_path / "runs" / spec.name
    folder.mkdir(parents=True, exist_ok=True)
    about: Any = {"folder": folder, "config": spec.resolved, "choices": spec.choices, "overrides": []}
    logger = mlflow_logger("study", (tmp_path / store).as_uri(), **about)
    assert logger is not None
    logger.begin(step)
    return logger


def test_a_run_that_starts_anew_is_another_run_and_one_that_goes_on_is_not(tmp_path: Path) -> None:
    first = begun(tmp_path, 0)
    first.log_metrics({"val/acc": 1.0}, 5)
    second = begun(tmp_path, 0)
    second.log_metrics({"val/acc": 2.0, "odd@name": float("nan")}, 5)
    third = begun(tmp_path, 6)
    third.log_metrics({"val/acc": 2.0, "odd@name": float("nan")}, 5)  # known
    third.log_metrics({"val/acc": 3.0}, 6)
    assert third.version == second.version != first.version
    third.close(None, None, tmp_path)
    found = {run.info.run_id: (run.info.status, points) for run, points in mlflow_points(tmp_path / "mlruns", "study")}
    assert found[str(first.version)] == ("KILLED", {"val/acc": [(5, 1.0)]})
    status, points = found[str(third.version)]
    assert (status, points["val/acc"]) == ("FAILED", [(5, 2.0), (6, 3.0)])
    assert len(points["odd_name"]) == 1
    # Where the store is another, or has lost the run, there is nothing to go on from.
    elsewhere = begun(tmp_path, 6, "other")
    assert elsewhere.version not in found
    third.experiment.delete_run(third.version)
    assert begun(tmp_path, 6).version not in found


def test_lightning_starts_no_run_by_asking(tmp_path: Path) -> None:
    spec = spec_of([*SMALL, f"outputs={tmp_path}"])
    logger = MlflowRunLogger(tmp_path, spec.resolved, "study", (tmp_path / "mlruns").as_uri(), {})
    assert not hasattr(logger, "experiment")
    assert (logger.name, logger.version) == ("study", None)
    assert not list((tmp_path / "mlruns").glob("[1-9]*"))


def test_mlflow_reports_nothing_to_its_makers() -> None:
    from mlflow.telemetry.utils import is_telemetry_disabled

    assert ENVIRONMENT["MLFLOW_DISABLE_TELEMETRY"] == os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"
    assert is_telemetry_disabled()


def test_a_server_that_does_not_answer_is_said_and_left_alone(
    train_run: Callable[..., tuple[Record, Path]], capsys: pytest.CaptureFixture[str]
) -> None:
    record, _ = train_run("logger=mlflow", "epochs=1", "logger.mlflow.uri=http://127.0.0.1:9")
    assert record.epochs == 1
    assert capsys.readouterr().out.count("MLflow stopped working (") == 1
