"""The MLflow logger of a run: a run in a folder of files or on a server, which a resumed run continues.

MLflow reports its use to its makers unless told otherwise: here it is told otherwise, before it is imported. It also waits
minutes for a server: here seconds. Environment variables that are set already stay as they are.
"""

import json
import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Unpack

from pytorch_lightning.loggers import MLFlowLogger

from necklace.atomic import write_whole
from necklace.code_version import git_state
from necklace.locks import locked
from necklace.record import Record
from necklace.tracking.tracker import AboutRun, Tracker, print_once, run_summary

ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ALLOW_FILE_STORE": "true",  # from 3.7 on MLflow wants a database, or this
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",
    "GIT_PYTHON_REFRESH": "quiet",
}
for _name, _value in ENVIRONMENT.items():
    os.environ.setdefault(_name, _value)


class MlflowRunLogger(Tracker, MLFlowLogger):
    """Lightning's MLflow logger; the id of its run is in the folder of the run that it shows, as `mlflow.json`.

    Args:
        folder: The run's folder.
        config: The resolved config.
        experiment: Name of the MLflow experiment.
        uri: Where MLflow's runs go.
        tags: Name to value.
    """

    service = "MLflow"

    def __init__(self, folder: Path, config: dict[str, Any], experiment: str, uri: str, tags: Mapping[str, str]) -> None:
        # Runs that start at once would make the store, or the experiment, twice.
        self._lock = Path(config["outputs"]) / ".mlflow.lock"
        with locked(self._lock):
            super().__init__(experiment, folder.name, uri, dict(tags))
        self._folder, self._config, self._uri = folder, config, uri
        self._written: dict[tuple[str, int], float] = {}

    @property
    def experiment(self) -> Any:
        """MLflow's client.

        Raises:
            AttributeError: Before `begin`: Lightning asks whether there is one before anybody knows which run it belongs to.
        """
        if not self._initialized:
            raise AttributeError("experiment: not before begin")
        return super().experiment

    @property
    def name(self) -> str:
        """The experiment's name; Lightning would ask the server for its id."""
        return self._experiment_name

    @property
    def version(self) -> str | None:
        """The id of the MLflow run, or None while there is none; Lightning would start one."""
        return self._run_id

    def begin(self, step: int) -> None:
        """Start an MLflow run, or continue that of an interrupted one; never raises.

        Args:
            step: Optimizer steps that the run has behind it; 0 where it starts anew.
        """
        self.attempt(lambda: self._begin(step))

    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Log numbers, except those that the MLflow run holds already; never raises."""
        self.remember(metrics)
        named = {_name_of(name): float(value) for name, value in metrics.items()}
        new = {name: value for name, value in named.items() if not _same(self._written.get((name, step or 0)), value)}
        if new:
            self.attempt(lambda: super(MlflowRunLogger, self).log_metrics(new, step))

    def finalize(self, status: str = "success") -> None:
        """Nothing: a run's metrics come after its training; `close` says how it ended."""

    def close(self, record: Record | None, checkpoint: Path | None, pictures: Path) -> str | None:
        """Log what the record holds, and the pictures, and end the MLflow run; never raises.

        Args:
            record: The run's record; None marks the MLflow run as failed.
            checkpoint: Not used here.
            pictures: A folder, the PNG files of which become artifacts, if there are any.

        Returns:
            One line that says where the MLflow run is; None where there is none.
        """
        if self._run_id is None or self._broken:
            return None

        def end(run_id: str) -> None:
            if record:
                self.log_metrics({f"record/{name}": value for name, value in run_summary(record).items()}, record.steps)
                for file in sorted(pictures.glob("*.png")):
                    self.experiment.log_artifact(run_id, str(file), "pictures")
            self.experiment.set_terminated(run_id, "FINISHED" if record else "FAILED")

        run_id = self._run_id
        self.attempt(lambda: end(run_id))
        return f"MLflow run: {self._experiment_name}/{self._folder.name} in {self._uri}"

    def _begin(self, step: int) -> None:
        from mlflow.tracking.context.registry import resolve_tags  # here, so that a message can be given where it is missing

        client = self._mlflow_client
        id_file = self._folder / "mlflow.json"
        earlier = self._earlier(id_file)
        if earlier and step == 0:
            client.set_terminated(earlier, "KILLED")  # what it holds is no part of a run that starts anew
        elif earlier:
            self._run_id, self._initialized = earlier, True
            client.update_run(earlier, "RUNNING")
            names = client.get_run(earlier).data.metrics
            history = [point for name in names for point in client.get_metric_history(earlier, name)]
            self._written = {(point.key, point.step): point.value for point in history}
            return
        with locked(self._lock):
            found = client.get_experiment_by_name(self._experiment_name)
            self._experiment_id = found.experiment_id if found else client.create_experiment(self._experiment_name)
        # Not by Lightning, which puts the store's address into the environment: the next run of this process would find it.
        run_id = client.create_run(self._experiment_id, tags=resolve_tags(self.tags), run_name=self._folder.name).info.run_id
        self._run_id, self._initialized = run_id, True
        write_whole(id_file, json.dumps({"uri": self._uri, "run_id": run_id}) + "\n")
        self.log_hyperparams(self._config)
        self.experiment.log_dict(run_id, self._config, "config.yaml")

    def _earlier(self, id_file: Path) -> str | None:
        """The id of the MLflow run that shows this run so far, if it is still there."""
        from mlflow.exceptions import MlflowException  # as above

        if not id_file.exists():
            return None
        known = json.loads(id_file.read_text(encoding="utf-8"))
        try:
            run = self._mlflow_client.get_run(known["run_id"]) if known["uri"] == self._uri else None
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return None
        return known["run_id"] if run and run.info.lifecycle_stage == "active" else None


def mlflow_logger(
    experiment: str, uri: str | None = None, row: str | None = None, **about: Unpack[AboutRun]
) -> MlflowRunLogger | None:
    """An MLflow run.

    Args:
        experiment: Name of the MLflow experiment.
        uri: Where MLflow's runs go. None: MLFLOW_TRACKING_URI, or where that is not set the folder `mlruns` of `outputs`.
        row: Name of all runs that differ from this one only in the seed; becomes a tag.
        **about: The run; its folder gives the MLflow run's name.

    Returns:
        The logger, or None where MLflow does not start, which is printed.
    """
    folder, config = about["folder"], about["config"]
    outputs = Path(config["outputs"]).resolve()
    uri = uri or os.environ.get("MLFLOW_TRACKING_URI") or (outputs / "mlruns").as_uri()
    git = git_state()
    tags = {group.replace("/", "."): choice for group, choice in about["choices"].items()}  # a slash makes a folder
    tags |= {"seed": str(config["seed"]), "study": config["study"], "hash": folder.name.rpartition("_")[2]}
    tags |= {"row": row} if row else {}
    tags |= {"mlflow.source.git.commit": git["sha"]} if git else {}
    try:
        return MlflowRunLogger(folder, config, experiment, uri, tags)
    except Exception as error:  # as in `Tracker.attempt`
        words = f"{error}".partition("\n")[0]
        print_once(f"MLflow does not start ({words}); the run continues without it")
        return None


def _name_of(metric: str) -> str:
    """A metric's name in characters that MLflow accepts."""
    return re.sub(r"[^\w/. -]", "_", metric, flags=re.ASCII)


def _same(known: float | None, value: float) -> bool:
    return known is not None and (known == value or (math.isnan(known) and math.isnan(value)))
