"""What W&B is given, read back from its own files; and what becomes of a run when W&B fails."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from socket import create_server
from typing import Any

import pytest
import wandb
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.console import Console
from wandb.errors import AuthenticationError

from necklace import wandb_runs
from necklace.cell import git_state
from necklace.history import History
from necklace.loggers import finish_wandb, project_name, run_tags
from necklace.record import Record
from necklace.run import RunFailed
from necklace.study.dashboard import gate_metrics, workspace
from necklace.study.mirror import sync, unsynced, wandb_overrides, write_table
from necklace.study.plan import Plan, make_plan, read_study
from necklace.study.states import states
from necklace.study.table import Layout
from necklace.study.untrained import built
from necklace.tasks import Task
from necklace.wandb_runs import UPLOADING, run_files, run_number, wandb_mode
from tests.conftest import SMALL, compose_train

ROOT = Path(__file__).parents[1]
Train = Callable[..., tuple[Record, Path]]
OFFLINE = ("logger=wandb", "logger.mode=offline")


@pytest.fixture(autouse=True)
def _alone(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No key, no files in the user's folders, and no memory of what an earlier test was told or found."""
    for name in [name for name in os.environ if name.startswith("WANDB")]:
        monkeypatch.delenv(name)
    home = tmp_path_factory.mktemp("home")
    for name in ("WANDB_CACHE_DIR", "WANDB_DATA_DIR", "WANDB_CONFIG_DIR", "HOME"):
        monkeypatch.setenv(name, str(home))
    monkeypatch.setattr(wandb_runs, "_found", {})
    wandb_runs.tell.cache_clear()
    yield
    assert wandb.run is None


def finished_files(folder: Path) -> list[Path]:
    """The files of the W&B runs in a folder once all of them are on the disk, as at the end of the process that wrote them."""
    wandb.teardown()  # W&B's own process may still be writing when a run has been finished
    return run_files(folder)


def read(file: Path) -> dict[str, Any]:
    """A run file by W&B's own reader: its run, config, rows of history, summary, and metric definitions."""
    command = [str(Path(sys.executable).with_name("wandb")), "leet", "inspect", "--json", str(file)]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    found: dict[str, Any] = {"rows": [], "summary": {}, "metrics": [], "artifacts": [], "exit": None}
    for record in map(json.loads, lines):
        content = record.get(record["type"])
        match record["type"]:
            case "run":
                found["run"] = content
                found["config"] = {key: value for key, value in content["config"]["update"].items() if key != "_wandb"}
            case "history":
                found["rows"].append({key: value for key, value in content["item"].items() if not key.startswith("_")})
            case "summary":
                found["summary"] |= content["update"]
            case "metric":
                found["metrics"].append(content)
            case "artifact":
                found["artifacts"].append(content)
            case "exit":
                found["exit"] = content.get("exit_code", 0)
    return found


def by_epoch(rows: list[dict[str, Any]]) -> dict[int, dict[str, float]]:
    merged: dict[int, dict[str, float]] = {}
    for row in rows:
        merged.setdefault(row["epoch"], {}).update(row)
    return merged


def test_each_cell_is_a_run_with_its_own_id_config_and_figures(train_cell: Train) -> None:
    ids, records = [], []
    for neck in ("none", "sppf", "focal"):
        for seed in (0, 1):
            options = ["neck.focal_level=1"] if neck == "focal" else []
            record, folder = train_cell(f"neck={neck}", *options, f"seed={seed}", "epochs=1", *OFFLINE)
            (file,) = finished_files(folder)
            found = read(file)
            run = found["run"]
            assert run["run_id"] == record.cell_hash
            assert (run["display_name"], run["project"], run["run_group"]) == (record.cell, "runs", "runs")
            assert run["job_type"] == record.cell.partition(f"_s{seed}_")[0]
            assert {f"neck={neck}", f"seed={seed}", "data=glyphs", *(["focal_level=1"] if options else [])} <= set(run["tags"])
            state = git_state()
            assert state is None or run["git"]["commit"] == state["sha"]
            assert found["config"] == json.loads(json.dumps(record.config))
            for name, value in record.figures.items():
                assert found["summary"][name] == pytest.approx(value)
            assert found["summary"]["cost/params"] == record.total("params")
            assert found["exit"] == 0
            assert any(m.get("glob_name") == "*" and m["step_metric"] == "epoch" for m in found["metrics"])
            ids.append(run["run_id"])
            records.append(record)
    assert len(set(ids)) == 6


def stumble(monkeypatch: pytest.MonkeyPatch, epoch: int) -> None:
    def fall(self: History, trainer, pl_module, batch, batch_idx) -> None:
        if trainer.current_epoch == epoch and batch_idx == 2:
            raise OSError("no space left on device")

    monkeypatch.setattr(History, "on_train_batch_start", fall)


def beside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Log another number with each validation, as the gates' callback does."""

    def log(self: Task) -> None:
        if not self.trainer.testing and self.trainer.loggers:
            epoch = self.trainer.current_epoch
            self.trainer.loggers[0].log_metrics(
                {"epoch": epoch, "gates/neck/global/mass": epoch / 8}, self.trainer.global_step - 1
            )

    monkeypatch.setattr(Task, "on_validation_end", log)


def test_a_resumed_cell_has_one_history_without_a_step_back(
    train_cell: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    beside(monkeypatch)
    _, folder = train_cell("epochs=4", *OFFLINE, outputs=tmp_path / "undisturbed")
    (file,) = finished_files(folder)
    undisturbed = read(file)
    with monkeypatch.context() as context:
        stumble(context, 2)
        with pytest.raises(RunFailed, match="no space left"):
            train_cell("epochs=4", *OFFLINE)
    # A second interruption, as a kill leaves it: W&B's file holds its first seven bytes.
    with monkeypatch.context() as context:
        stumble(context, 3)
        with pytest.raises(RunFailed, match="no space left"):
            train_cell("epochs=4", *OFFLINE)
    (failed,) = (tmp_path / "runs").glob("[!.]*")
    first, second = finished_files(failed)
    assert read(first)["exit"] == 1
    os.truncate(second, 7)
    assert unsynced(failed) == first  # better a part than nothing
    record, folder = train_cell("epochs=4", *OFFLINE)
    assert folder == failed
    files = finished_files(folder)
    assert [run_number(file) for file in files] == [1, 2, 3]
    assert unsynced(folder) == files[2]
    resumed = read(files[2])
    assert resumed["run"]["run_id"] == f"{record.cell_hash}-3"
    epochs = [row["epoch"] for row in resumed["rows"]]
    assert epochs == sorted(epochs)
    history = by_epoch(resumed["rows"])
    steps = [row["trainer/global_step"] for row in history.values()]
    assert steps == sorted(set(steps))
    assert list(history) == [0, 1, 2, 3]
    expected = by_epoch(undisturbed["rows"])
    assert expected[2]["gates/neck/global/mass"] == 0.25
    for epoch, row in expected.items():
        assert history[epoch] == pytest.approx(row)
    assert resumed["exit"] == 0


def test_a_cell_trained_again_in_one_process_is_a_run_of_its_own(train_cell: Train) -> None:
    train_cell("epochs=1", *OFFLINE)
    record, folder = train_cell("epochs=1", "rerun=true", *OFFLINE)
    (file,) = finished_files(folder)
    found = read(file)
    assert found["run"]["run_id"] == record.cell_hash
    assert len(by_epoch(found["rows"])) == 1


def test_the_best_checkpoint_is_an_artifact_where_it_is_asked_for(train_cell: Train) -> None:
    record, folder = train_cell("epochs=1", "logger.artifact=true", *OFFLINE)
    (file,) = finished_files(folder)
    (artifact,) = read(file)["artifacts"]
    assert (artifact["name"], artifact["type"]) == (f"best-{record.cell_hash}", "model")
    assert "best" in artifact["aliases"]
    (content,) = artifact["manifest"]["contents"]
    assert content["local_path"] == str(folder / "checkpoints" / "best.ckpt")
    assert int(content["size"]) == (folder / "checkpoints" / "best.ckpt").stat().st_size


def test_pictures_and_gates_are_shown_with_the_run(train_cell: Train) -> None:
    record, folder = train_cell("neck=focal", "epochs=2", "callbacks.pictures=true", "callbacks.gates=1", *OFFLINE)
    (file,) = finished_files(folder)
    found = read(file)
    for name in ("confusion", "gates", "receptive_field"):
        media = {
            key.rpartition(".")[2]: value for key, value in found["summary"].items() if key.startswith(f"pictures/{name}.")
        }
        assert media["_type"] == "image-file"
        assert (file.parent / "files" / media["path"]).read_bytes() == (folder / "pictures" / f"{name}.png").read_bytes()
    epochs = [row["epoch"] for row in found["rows"]]
    assert epochs == sorted(epochs)
    assert record.gates is not None
    for context, figures in record.gates["layers"]["neck"].items():
        logged = [row for row in found["rows"] if f"gates/neck/{context}/mass" in row]
        assert len(logged) == 2
        assert {row[f"gates/neck/{context}/gate._type"] for row in logged} == {"histogram"}
        assert found["summary"][f"gates/neck/{context}/mass"] == pytest.approx(figures["mass"])
    assert found["summary"]["gates/table._type"] == "table-file"


def test_a_wandb_that_breaks_down_does_not_stop_the_run(
    train_cell: Train, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    log, calls = wandb.Run.log, []

    def gone(self: wandb.Run, *arguments: Any, **options: Any) -> None:
        calls.append(arguments)
        if len(calls) > 1:
            raise ConnectionResetError("Connection lost")  # what it raises when its own process was killed
        log(self, *arguments, **options)

    monkeypatch.setattr(wandb.Run, "log", gone)
    record, _ = train_cell("epochs=3", *OFFLINE)
    assert record.epochs == 3
    assert len(calls) == 2
    assert capsys.readouterr().out.count("W&B stopped working (ConnectionResetError: Connection lost)") == 1


def test_a_wandb_that_does_not_start_is_left_out(
    train_cell: Train, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(**options: Any) -> None:
        raise wandb.errors.WandbCoreNotAvailableError("no room for it")  # pyright: ignore[reportAttributeAccessIssue]

    monkeypatch.setattr(wandb, "init", fails)
    record, folder = train_cell("epochs=1", *OFFLINE)
    assert record.figures
    assert not finished_files(folder)
    assert "W&B does not start (no room for it)" in capsys.readouterr().out


@pytest.mark.parametrize("in_time", [True, False])
def test_an_online_run_that_was_not_taken_whole_is_marked_for_the_sync(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_time: bool
) -> None:
    class Online:
        """A run whose server has gone; W&B raises TimeoutError when `finish_timeout` is over."""

        offline, url, dir = False, "https://there/run", str(tmp_path / "wandb" / "run-20260101_000000-abc" / "files")

        def finish(self, exit_code: int) -> None:
            if not in_time:
                raise TimeoutError("Timed out finishing run.")

    folder = Path(Online.dir).parent
    Path(Online.dir).mkdir(parents=True)
    (folder / UPLOADING).touch()
    file = folder / "run-abc.wandb"
    file.write_bytes(bytes(100))
    with monkeypatch.context() as context:
        context.setattr(wandb, "run", Online())
        line = finish_wandb(None, None, tmp_path)
    assert "https://there/run" in (line or "")
    assert ("wandb sync --include-online" in (line or "")) is not in_time
    assert unsynced(tmp_path) == (None if in_time else file)


def test_a_server_that_is_silent_gone_or_broken_is_found_out_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wandb_runs, "PROBE_S", 0.5)
    asked = []

    def probe(server: str) -> str | None:
        asked.append(server)
        return real(server)

    real = wandb_runs._probe
    monkeypatch.setattr(wandb_runs, "_probe", probe)
    with create_server(("127.0.0.1", 0)) as silent:
        silent_url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        monkeypatch.setattr(wandb_runs, "_server", lambda: silent_url)
        for _ in range(3):
            mode, why = wandb_mode("online")
            assert mode == "offline"
            assert silent_url in (why or "")
    monkeypatch.setattr(wandb_runs, "_server", lambda: "http://127.0.0.1:9")
    mode, why = wandb_mode("online")
    assert mode == "offline"
    assert "refused" in (why or "")
    assert asked == [silent_url, "http://127.0.0.1:9"]


def test_the_mode_follows_the_option_then_the_environment_then_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wandb_runs, "_probe", lambda server: None)
    monkeypatch.setattr(wandb_runs, "has_wandb_key", lambda: True)
    assert wandb_mode(None) == ("online", None)
    assert wandb_mode("offline") == ("offline", None)
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert wandb_mode(None) == ("offline", None)
    assert wandb_mode("online") == ("online", None)
    monkeypatch.setenv("WANDB_MODE", "dryrun")  # W&B's older names
    assert wandb_mode(None) == ("offline", None)
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert wandb_mode(None) == ("disabled", None)
    monkeypatch.setenv("WANDB_MODE", "shared")
    with pytest.raises(ValueError, match="WANDB_MODE=shared: must be online, offline or disabled"):
        wandb_mode(None)
    monkeypatch.setenv("WANDB_MODE", "")
    assert wandb_mode(None) == ("online", None)
    assert "WANDB_MODE" not in os.environ
    monkeypatch.setattr(wandb_runs, "has_wandb_key", lambda: False)
    assert wandb_mode(None) == ("offline", None)

    def refused() -> bool:
        raise AuthenticationError("API key must have 40+ characters, has 3.")

    monkeypatch.setattr(wandb_runs, "has_wandb_key", refused)
    assert wandb_mode(None) == ("offline", "API key must have 40+ characters, has 3.")
    with pytest.raises(ValueError, match=r"logger\.mode=disabled: must be online, offline or null"):
        wandb_mode("disabled")


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"WANDB_MODE": "disabled"}, None),
        ({"WANDB_MODE": ""}, "W&B run (offline)"),
        ({"WANDB_BASE_URL": "nowhere", "WANDB_API_KEY": "a" * 40}, "W&B is left alone"),
        ({"WANDB_BASE_URL": "http://127.0.0.1:9", "WANDB_API_KEY": "a" * 40}, "W&B is left alone"),
    ],
)
def test_no_setting_of_wandbs_stops_a_run(tmp_path: Path, environment: dict[str, str], said: str | None) -> None:
    command = [sys.executable, str(ROOT / "train.py"), *SMALL, "logger=wandb", "epochs=1", f"outputs={tmp_path}"]
    clean = {name: value for name, value in os.environ.items() if not name.startswith("WANDB")}
    done = subprocess.run(command, env=clean | environment, capture_output=True, text=True, timeout=120, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(list(tmp_path.glob("runs/*/record.json"))) == 1
    assert (said or "W&B run") not in done.stdout if said is None else said in done.stdout


def test_the_key_is_looked_up_without_asking_the_server() -> None:
    with create_server(("127.0.0.1", 0)) as silent:  # accepts, and never answers
        environment = {"WANDB_BASE_URL": f"http://127.0.0.1:{silent.getsockname()[1]}", "WANDB_API_KEY": "a" * 40}
        code = "from necklace.wandb_runs import has_wandb_key; print(has_wandb_key())"
        done = subprocess.run(
            [sys.executable, "-c", code], env=os.environ | environment, capture_output=True, text=True, timeout=120
        )
        assert done.stdout.split() == ["True"], done.stderr
        silent.setblocking(False)
        with pytest.raises(BlockingIOError):
            silent.accept()


@settings(deadline=None, max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(min_size=1, max_size=300), st.text(max_size=300), st.integers(0, 10**9))
def test_tags_and_projects_are_such_as_wandb_takes(name: str, value: str, seed: int) -> None:
    choices = {"data": name, "backbone": "resnet18", "neck": name, "head": "gap", "optimizer": "sgd"}
    tags = run_tags(
        choices, ["neck=x", f"neck.a={value}", "~neck.b", "+neck.c=3", "optimizer.lr=1"], ("neck", "optimizer.lr"), seed
    )
    assert all(1 <= len(tag) <= 64 for tag in tags)
    assert wandb.Settings(run_tags=tuple(tags)).run_tags == tuple(tags)
    assert tags[0] == f"neck={name}"[:64]
    assert set(tags[1:]) == {"optimizer.lr=1", f"a={value}"[:64], "c=3", f"seed={seed}"}
    assert not set(project_name(name)) & set("/\\#?%:")


STUDY = {
    "question": "Is it mirrored?",
    "baseline": "none",
    "seeds": [0, 1],
    "overrides": {text.partition("=")[0]: yaml.safe_load(text.partition("=")[2]) for text in SMALL}
    | {"epochs": 1, "logger": "wandb", "data.eval_sizes": [16]},
    "cells": [{"neck": ["none", "sppf"]}, {"neck": "focal", "neck.focal_level": 2}],
}


def plan_of(folder: Path) -> Plan:
    path = folder / "experiments" / "tiny" / "study.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(STUDY))
    return make_plan(read_study(path), [f"outputs={folder / 'outputs'}"])


@pytest.mark.usefixtures("hydra_ready")
def test_a_study_tells_its_cells_their_row_and_asks_the_server_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = plan_of(tmp_path)
    told = wandb_overrides(plan, Console())
    assert len(told) == 6
    config, _ = compose_train([*plan.cells[-1].overrides, *told[plan.cells[-1].cell_hash]])
    assert config.logger.row == plan.cells[-1].row == "focal, focal_level=2"
    assert list(config.logger.axes) == ["neck", "neck.focal_level"]
    assert config.logger.mode is None
    assert capsys.readouterr().out == ""
    asked = []
    monkeypatch.setattr(wandb_runs, "_probe", lambda server: asked.append(server) or f"{server} has a day off")
    monkeypatch.setattr(wandb_runs, "has_wandb_key", lambda: True)
    told = wandb_overrides(plan, Console(soft_wrap=True))
    assert all("logger.mode=offline" in texts for texts in told.values())
    assert len(asked) == 1
    assert capsys.readouterr().out.count("has a day off") == 1


@pytest.mark.usefixtures("hydra_ready")
def test_what_is_offline_is_uploaded_newest_file_first_and_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_of(tmp_path)
    commands = []

    def upload(files: list[Path]) -> list[str]:
        commands.append(files)
        for file in files[:-1]:
            file.with_suffix(".wandb.synced").touch()
        return ["one is lost"]

    def run_file(index: int, name: str, size: int = 100) -> Path:
        cell = plan.cells[index]
        file = plan.root / cell.label / "wandb" / name / f"run-{name.rpartition('_')[2].partition('-')[2]}.wandb"
        file.parent.mkdir(parents=True)
        file.write_bytes(bytes(size))
        (plan.root / cell.label / "FAILED").write_text("it ended\n")
        return file

    monkeypatch.setattr("necklace.study.mirror._wandb_sync", upload)
    assert sync(plan, states(plan)) == (
        ["nothing to upload", "6 cells have not ended: their runs come with a later --wandb-sync"],
        True,
    )
    run_file(0, "offline-run-20260101_000000-abc")
    run_file(0, "run-20260101_000000-abc-2", 7)
    newest = run_file(0, "offline-run-20260101_000000-abc-10")
    run_file(1, "offline-run-20260101_000000-def").with_suffix(".wandb.synced").touch()
    run_file(2, "run-20260101_000000-fed")  # online, and all of it is there
    interrupted = run_file(3, "run-20260101_000000-bad")
    (interrupted.parent / UPLOADING).touch()
    lines, complete = sync(plan, states(plan))
    assert (lines, complete) == (
        ["2 runs are to be uploaded, but not now: no API key is configured: wandb login, or WANDB_API_KEY"],
        False,
    )
    assert commands == []
    monkeypatch.setattr(wandb_runs, "has_wandb_key", lambda: True)
    monkeypatch.setattr(wandb_runs, "_probe", lambda server: "nobody is there")
    assert "nobody is there" in sync(plan, states(plan))[0][0]
    monkeypatch.setattr(wandb_runs, "_found", {})
    monkeypatch.setattr(wandb_runs, "_probe", lambda server: None)
    lines, complete = sync(plan, states(plan))
    assert commands == [[newest, interrupted]]
    assert lines[0] == "1 of 2 runs uploaded"
    assert lines[-1] == "one is lost"
    assert not complete
    assert unsynced(newest.parents[2]) is None


@pytest.mark.usefixtures("hydra_ready")
def test_the_studys_table_is_a_run_of_its_own(tmp_path: Path) -> None:
    plan = plan_of(tmp_path)
    headers = ("row", "params", "of neck", "MACs", "of neck")
    table = Layout(headers, (("none", "5,214", "0", "1.5", ""), ("sppf", "5,902", "688", "2", "1e3")), (), "")
    line = write_table(table, plan, "offline")
    (file,) = finished_files(plan.root / ".table")
    assert str(file.parent.name) in (line or "")
    found = read(file)
    assert (found["run"]["job_type"], found["run"]["project"]) == ("table", "tiny")
    (written,) = file.parent.glob("files/media/table/*.json")
    content = json.loads(written.read_text())
    assert content["columns"] == ["row", "params", "params of neck", "MACs", "MACs of neck"]
    assert content["data"] == [["none", 5214, 0, 1.5, None], ["sppf", 5902, 688, 2, 1000]]
    assert write_table(table, plan, "offline") is None  # it is there
    assert unsynced(plan.root / ".table") == file


def metric_names(spec: dict[str, Any]) -> set[str]:
    """Every metric that a workspace's panels name."""
    names: set[str] = set()
    for section in spec["spec"]["section"]["panelBankConfig"]["sections"]:
        for panel in section["panels"]:
            config = panel["config"]
            names |= set(config.get("metrics") or ())
            names |= {config[axis] for axis in ("xAxis", "yAxis") if config.get(axis)}
    return {name.removeprefix("summary:") for name in names}


@pytest.mark.usefixtures("hydra_ready")
def test_the_dashboard_names_what_a_run_logs(tmp_path: Path, train_cell: Train) -> None:
    plan = plan_of(tmp_path)
    cell = plan.cells[-1]
    config, _ = compose_train(list(cell.overrides))
    gates = set(gate_metrics(built(config)[0]))
    contexts, figures = ("level1 k3", "level2 k5", "global"), ("mass", "contribution_share")
    assert gates == {f"gates/neck/{context}/{figure}" for context in contexts for figure in figures}

    _, folder = train_cell(
        *cell.overrides, *wandb_overrides(plan, Console())[cell.cell_hash], f"outputs={tmp_path}", "study=runs", *OFFLINE
    )
    (file,) = finished_files(folder)
    found = read(file)
    logged = {name for row in found["rows"] for name in row} | set(found["summary"])
    built_spec = json.loads(workspace(plan, "someone")._to_model().model_dump_json(by_alias=True))
    named = metric_names(built_spec)
    assert gates | {"epoch", "val/acc", "val/loss", "train/loss", "test/acc", "test/acc@16", "cost/params"} <= named
    assert named <= logged
    section = built_spec["spec"]["section"]
    panels = [panel["config"] for part in section["panelBankConfig"]["sections"] for panel in part["panels"]]
    bands = [panel for panel in panels if "metrics" in panel]
    assert {(panel["groupBy"], panel["groupAgg"], panel["groupArea"]) for panel in bands} == {("jobType", "mean", "stddev")}
    assert found["run"]["job_type"] == cell.row
    assert section["runSets"][0]["grouping"] == [{"section": "run", "name": "jobType"}]
    assert (built_spec["entity"], built_spec["project"]) == ("someone", "tiny")


def command(script: str, *arguments: str, cwd: Path, **environment: str) -> tuple[subprocess.CompletedProcess[str], float]:
    started = time.monotonic()
    result = subprocess.run(
        [sys.executable, str(ROOT / script), *arguments],
        cwd=cwd,
        env=os.environ | {"OMP_NUM_THREADS": "1", "HOME": str(cwd), "COLUMNS": "200"} | environment,
        capture_output=True,
        text=True,
        timeout=500,
    )
    return result, time.monotonic() - started


UNREACHABLE = {"WANDB_API_KEY": "a" * 40, "WANDB_BASE_URL": "http://127.0.0.1:9"}


@pytest.mark.slow
def test_an_unreachable_server_is_told_once_and_the_runs_stay(tmp_path: Path) -> None:
    small = [text for text in SMALL if text != "logger=none"]
    result, _ = command(
        "train.py", "-m", "neck=none,sppf", *small, "epochs=1", "logger.mode=online", cwd=tmp_path, **UNREACHABLE
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("W&B is left alone") == 1
    assert "http://127.0.0.1:9" in result.stdout
    assert "Traceback" not in result.stderr
    files = sorted(tmp_path.glob("outputs/runs/*/wandb/offline-run-*/run-*.wandb"))
    assert len(files) == 2
    assert [read(file)["exit"] for file in files] == [0, 0]


@pytest.mark.slow
def test_a_killed_cell_has_one_history_once_it_is_resumed(tmp_path: Path) -> None:
    small = [text for text in SMALL if not text.startswith(("logger", "epochs"))]
    arguments = ["neck=focal", *small, "epochs=40", "callbacks.gates=1", *OFFLINE]
    killed = subprocess.Popen(
        [sys.executable, str(ROOT / "train.py"), *arguments],
        cwd=tmp_path,
        env=os.environ | {"OMP_NUM_THREADS": "1", "HOME": str(tmp_path)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    history = None
    while history is None or len(history.read_text().splitlines()) < 4:  # its header and three epochs
        assert killed.poll() is None
        history = next(tmp_path.glob("outputs/runs/*/history.csv"), None)
        time.sleep(0.01)
    os.killpg(killed.pid, signal.SIGKILL)  # with W&B's own process
    killed.wait()
    folder = history.parent
    (first,) = finished_files(folder)
    result, _ = command("train.py", *arguments, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert json.loads((folder / "record.json").read_text())["resumed"] == 1
    assert unsynced(folder) == run_files(folder)[1] != first
    found = read(run_files(folder)[1])
    epochs = [row["epoch"] for row in found["rows"]]
    assert epochs == sorted(epochs)
    assert list(by_epoch(found["rows"])) == list(range(40))
    for row in by_epoch(found["rows"]).values():
        assert {"train/loss", "val/acc", "gates/neck/global/mass"} <= row.keys()
    assert found["exit"] == 0


@pytest.mark.slow
def test_a_study_without_network_leaves_a_run_for_each_cell(tmp_path: Path) -> None:
    path = tmp_path / "experiments" / "tiny" / "study.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(yaml.safe_dump(STUDY))
    result, _ = command("ablate.py", "tiny", "hydra.launcher.slots=1", cwd=tmp_path, **UNREACHABLE)
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.count("W&B is left alone") == 1
    assert not any("W&B is left alone" in log.read_text() for log in tmp_path.glob("outputs/tiny/.logs/*.log"))
    files = [file for record in tmp_path.glob("outputs/tiny/*/record.json") for file in run_files(record.parent)]
    runs = [read(file) for file in files]
    assert len({run["run"]["run_id"] for run in runs}) == len(runs) == 6
    assert sorted((run["run"]["job_type"], run["config"]["seed"]) for run in runs) == [
        (row, seed) for row in ("focal, focal_level=2", "none", "sppf") for seed in (0, 1)
    ]
    assert {run["run"]["run_group"] for run in runs} == {"tiny"}
    assert len(list(tmp_path.glob("outputs/tiny/.table/wandb/offline-run-*/run-table.wandb"))) == 1
    sent, _ = command("ablate.py", "tiny", "--wandb-sync", cwd=tmp_path, **UNREACHABLE)
    assert sent.returncode == 1
    assert "7 runs are to be uploaded, but not now: http://127.0.0.1:9" in sent.stdout
    assert "Traceback" not in sent.stderr


@pytest.mark.slow
def test_the_dashboards_spec_needs_no_network(tmp_path: Path) -> None:
    path = tmp_path / "experiments" / "tiny" / "study.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(yaml.safe_dump(STUDY))
    result, _ = command("dashboard.py", "tiny", "--dry-run", cwd=tmp_path, **UNREACHABLE)
    assert result.returncode == 0, result.stderr
    assert "test/acc@16" in metric_names(json.loads(result.stdout))
    result, _ = command("dashboard.py", "tiny", cwd=tmp_path, **UNREACHABLE)
    assert result.returncode == 1
    assert "127.0.0.1:9" in result.stderr
    assert "Traceback" not in result.stderr
