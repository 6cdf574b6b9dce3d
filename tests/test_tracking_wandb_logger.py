"""The content that W&B is given, read back from its own files; and the outcome of a run when W&B fails."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import wandb
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from necklace.code_version import git_state
from necklace.diagnostics.gate_callback import COLUMNS, _drawable, log
from necklace.record import Record
from necklace.run.history import History
from necklace.run.runner import RunFailed
from necklace.tasks import Task
from necklace.tracking.wandb_logger import WandbRunLogger, project_name, run_tags, wandb_logger
from necklace.tracking.wandb_run import UPLOADING, run_files, run_number, unsynced
from tests import wandb_files
from tests.conftest import SMALL, synthetic_record
from tests.test_diagnostics_gate_stats import CLASSES, LAYERS, batches, network, watched
from tests.wandb_files import ROOT, UNREACHABLE, by_epoch, command, finished_files, read
from tests.warm import WarmProcess

isolated = wandb_files.isolated_wandb  # a fixture for each test here
Train = Callable[..., tuple[Record, Path]]
OFFLINE = ("logger=wandb", "logger.wandb.mode=offline")


def test_each_run_has_an_id_config_and_metrics_of_its_own(train_run: Train) -> None:
    ids, records, groups = [], [], []
    for neck in ("none", "sppf", "focal"):
        for seed in (0, 1):
            options = ["neck.focal_level=1"] if neck == "focal" else []
            record, folder = train_run(f"neck={neck}", *options, f"seed={seed}", "epochs=1", *OFFLINE)
            (file,) = finished_files(folder)
            found = read(file)
            run = found["run"]
            assert run["run_id"] == record.hash
            assert (run["display_name"], run["project"]) == (record.name, "runs")
            assert run["run_group"].startswith(f"glyphs, cifar_resnet, {neck}, {', '.join(['focal_level=1'] * len(options))}")
            assert run["job_type"].startswith(f"glyphs, cifar_resnet, {neck}")
            assert {f"neck={neck}", f"seed={seed}", "data=glyphs", *(["focal_level=1"] if options else [])} <= set(run["tags"])
            state = git_state()
            assert state is None or run["git"]["commit"] == state["sha"]
            config = json.loads(json.dumps(record.config))
            named = {group: name for group, name in record.choices.items() if group in config}
            assert {key: found["config"][key] for key in config} == config | named
            assert found["config"]["neck"] == neck  # by which people group
            assert found["config"]["options"] == {group: config[group] for group in named}
            assert found["program"] == "necklace train"
            for name, value in record.metrics.items():
                assert found["summary"][name] == pytest.approx(value)
            assert found["summary"]["cost/params"] == record.total("params")
            assert found["exit"] == 0
            assert any(m.get("glob_name") == "*" and m["step_metric"] == "epoch" for m in found["metrics"])
            ids.append(run["run_id"])
            groups.append((run["run_group"], run["job_type"]))
            records.append(record)
    assert len(set(ids)) == 6
    assert groups[::2] == groups[1::2]  # the seeds of one row
    assert len(set(groups)) == 3


def test_runs_that_differ_have_groups_job_types_and_tags_that_differ(train_run: Train) -> None:
    long = [f"data.augment.{name}" for name in ("flip=true", "cutout=4", "crop_padding=3", "photometric=0.3")]
    kinds = ([], ["optimizer.lr=0.01"], ["backbone.depth=14"], long, [*long, "head=pyramid", "task.label_smoothing=0.1"])
    runs = []
    for options in kinds:
        _, folder = train_run(*options, "epochs=1", "+trainer.limit_train_batches=1", *OFFLINE)
        (file,) = finished_files(folder)
        runs.append(read(file)["run"])
    for name in ("run_group", "job_type"):
        assert len({run[name] for run in runs}) == len(kinds), name
    assert len({tuple(run["tags"]) for run in runs}) == len(kinds)
    assert "optimizer.lr=0.01" in runs[1]["tags"]
    assert "lr=0.01" in runs[1]["run_group"]


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
                {"epoch": epoch + 1, "gates/neck/global/mass": epoch / 8}, self.trainer.global_step - 1
            )

    monkeypatch.setattr(Task, "on_validation_end", log)


def test_a_resumed_run_has_one_history_without_a_step_back(
    train_run: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    beside(monkeypatch)
    _, folder = train_run("epochs=4", *OFFLINE, outputs=tmp_path / "undisturbed")
    (file,) = finished_files(folder)
    undisturbed = read(file)
    with monkeypatch.context() as context:
        stumble(context, 2)
        with pytest.raises(RunFailed, match="no space left"):
            train_run("epochs=4", *OFFLINE)
    # A second interruption, as a kill leaves it: W&B's file holds its first seven bytes.
    with monkeypatch.context() as context:
        stumble(context, 3)
        with pytest.raises(RunFailed, match="no space left"):
            train_run("epochs=4", *OFFLINE)
    (failed,) = (tmp_path / "runs").glob("glyphs*")
    first, second = finished_files(failed)
    assert read(first)["exit"] == 1
    os.truncate(second, 7)
    assert unsynced(failed) == first  # better a part than nothing
    record, folder = train_run("epochs=4", *OFFLINE)
    assert folder == failed
    files = finished_files(folder)
    assert [run_number(file) for file in files] == [1, 2, 3]
    # What `wandb leet outputs/STUDY` shows: the newest of each run.
    (link,) = [path for path in folder.parent.iterdir() if path.is_symlink()]
    assert link.resolve() == files[2].parent.resolve()
    assert not Path(os.readlink(link)).is_absolute()
    assert read(link / files[2].name)["run"]["run_id"] == f"{record.hash}-3"
    assert unsynced(folder) == files[2]
    resumed = read(files[2])
    assert resumed["run"]["run_id"] == f"{record.hash}-3"
    epochs = [row["epoch"] for row in resumed["rows"]]
    assert epochs == sorted(epochs)
    history = by_epoch(resumed["rows"])
    steps = [row["trainer/global_step"] for row in history.values()]
    assert steps == sorted(set(steps))
    assert list(history) == [1, 2, 3, 4]
    expected = by_epoch(undisturbed["rows"])
    assert expected[3]["gates/neck/global/mass"] == 0.25
    for epoch, row in expected.items():
        assert history[epoch] == pytest.approx(row)
    assert resumed["exit"] == 0


def test_a_run_trained_again_in_one_process_is_a_wandb_run_of_its_own(train_run: Train) -> None:
    train_run("epochs=1", *OFFLINE)
    record, folder = train_run("epochs=1", "rerun=true", *OFFLINE)
    (file,) = finished_files(folder)
    found = read(file)
    assert found["run"]["run_id"] == record.hash
    assert len(by_epoch(found["rows"])) == 1


def test_the_best_checkpoint_is_an_artifact_where_it_is_asked_for(train_run: Train) -> None:
    record, folder = train_run("epochs=1", "logger.wandb.artifact=true", *OFFLINE)
    (file,) = finished_files(folder)
    (artifact,) = read(file)["artifacts"]
    assert (artifact["name"], artifact["type"]) == (f"best-{record.hash}", "model")
    assert "best" in artifact["aliases"]
    (content,) = artifact["manifest"]["contents"]
    assert content["local_path"] == str(folder / "checkpoints" / "best.ckpt")
    assert int(content["size"]) == (folder / "checkpoints" / "best.ckpt").stat().st_size


def test_pictures_and_gates_are_shown_with_the_run(train_run: Train) -> None:
    record, folder = train_run("neck=focal", "epochs=2", "callbacks.pictures=true", "callbacks.gates=1", *OFFLINE)
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
    for context, statistics in record.gates["layers"]["neck"].items():
        logged = [row for row in by_epoch(found["rows"]).values() if f"gates/neck/{context}/mass" in row]
        assert len(logged) == 2
        assert {row[f"gates/neck/{context}/gate._type"] for row in logged} == {"histogram"}
        assert found["summary"][f"gates/neck/{context}/mass"] == pytest.approx(statistics["mass"])
    assert found["summary"]["gates/table._type"] == "table-file"


class Fake:
    """A W&B run that takes no more than the definition of its metrics."""

    def define_metric(self, name: str, **options: Any) -> None:
        pass


def test_wandb_gets_scalars_histograms_and_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layers = watched(network(LAYERS["default"]), batches())
    rows = [{"weights": "epoch", "epoch": 4, "step": 7, "layer": "1"} | row for row in layers["1"].rows(CLASSES)]
    sent: list[tuple[dict[str, Any], int | None]] = []
    monkeypatch.setattr(WandbRunLogger, "log_metrics", lambda self, metrics, step=None: sent.append((dict(metrics), step)))
    logger = WandbRunLogger(Fake(), tmp_path)  # pyright: ignore[reportArgumentType]
    log(logger, rows, _drawable(layers, rows), 4, 7)
    assert [(part["epoch"], step) for part, step in sent] == [(4, 6)] * 3
    logged = {name: value for part, _ in sent for name, value in part.items()}
    assert sum(logged[f"gates/1/{name}/mass"] for name in layers["1"].contexts) == pytest.approx(1)
    assert logged["gates/1/entropy"] == rows[0]["entropy"]
    histogram = logged["gates/1/global/gate"]
    assert sum(histogram.histogram) == pytest.approx(rows[0]["count"], rel=1e-9)
    assert logged["gates/table"].columns == COLUMNS.names
    assert logged["gates/table"].data == [[row[name] for name in COLUMNS.names] for row in rows]
    assert sum(isinstance(value, float) for value in logged.values()) == 7


def test_a_wandb_that_breaks_down_does_not_stop_the_run(
    train_run: Train, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    log, calls = wandb.Run.log, []

    def gone(self: wandb.Run, *arguments: Any, **options: Any) -> None:
        calls.append(arguments)
        if len(calls) > 1:
            raise ConnectionResetError("Connection lost")  # what it raises when its own process was killed
        log(self, *arguments, **options)

    monkeypatch.setattr(wandb.Run, "log", gone)
    record, _ = train_run("epochs=3", *OFFLINE)
    assert record.epochs == 3
    assert len(calls) == 2
    assert capsys.readouterr().out.count("W&B stopped working (ConnectionResetError: Connection lost)") == 1


def test_a_wandb_that_breaks_down_when_it_starts_does_not_stop_the_run(
    train_run: Train, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def gone(self: wandb.Run, *arguments: Any, **options: Any) -> None:
        raise ConnectionResetError("Connection lost")

    monkeypatch.setattr(wandb.Run, "define_metric", gone)
    record, _ = train_run("epochs=1", *OFFLINE)
    assert record.epochs == 1
    assert wandb.run is None
    assert capsys.readouterr().out.count("W&B stopped working (ConnectionResetError: Connection lost)") == 1


def test_close_without_an_active_run_says_nothing(tmp_path: Path) -> None:
    logger = WandbRunLogger(Fake(), tmp_path)  # pyright: ignore[reportArgumentType]
    assert logger.close(None, None, tmp_path) is None


def test_boxes_are_overlays_that_wandb_draws(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pictures = tmp_path / "pictures"
    (pictures / "images").mkdir(parents=True)
    images = []
    for number, (width, height) in enumerate([(40, 30), (20, 50)]):
        Image.new("RGB", (width, height), "grey").save(pictures / "images" / f"{number}.png")
        true = [[1.5, 2, 10, 12, 0, 0], [3, 4, 9, 9, 1, 1]]
        boxes = {"true": true, "found": [[1, 2, 11.25, 12, 1, 0.75]] if number else []}
        images.append({"name": f"{number}\udcff.png", "file": f"images/{number}.png"} | boxes)
    content = {"boxes": {"classes": ["cat", "dog"], "images": images}}
    (pictures / "pictures.json").write_text(json.dumps(content))
    record = synthetic_record(["neck=none"], 0, np.ones(5, bool))
    folder = tmp_path / "x_s0_0123abcdef"
    logger = wandb_logger(
        "boxes", "offline", folder=folder, config=record.config, choices=record.choices, overrides=["neck=none"]
    )
    assert logger is not None
    said = logger.close(record, None, pictures)
    assert "W&B run (offline)" in (said or "")
    (file,) = finished_files(folder)
    summary = read(file)["summary"]
    for number, each in enumerate(images):
        assert summary[f"pictures/boxes_{number}._type"] == "image-file"
        found = {}
        for layer in ("ground_truth", "predictions"):
            if f"pictures/boxes_{number}.boxes.{layer}.path" in summary:
                path = file.parent / "files" / summary[f"pictures/boxes_{number}.boxes.{layer}.path"]
                found[layer] = json.loads(path.read_text())
                assert found[layer]["class_labels"] == {"0": "cat", "1": "dog"}
        first, second = found["ground_truth"]["box_data"]
        assert first["position"] == {"minX": 1.5, "minY": 2, "maxX": 10, "maxY": 12}
        assert (first["class_id"], first["box_caption"], first["domain"]) == (0, "cat", "pixel")
        assert second["box_caption"] == "dog (does not count)"
        predicted = found["predictions"]["box_data"]
        assert len(predicted) == len(each["found"])
        for box in predicted:
            assert box["scores"] == {"score": 0.75}
            assert box["box_caption"] == "dog 0.75"
    assert "do not match" not in capsys.readouterr().err


def test_a_run_that_is_not_in_wandb_does_not_import_it(tmp_path: Path) -> None:
    """First one without a logger, which would not see what the other one's loggers import."""
    code = "import sys; from tests.conftest import run, spec_of\n"
    code += "for number, logger in enumerate(['none', '[csv,tensorboard,mlflow]']):\n"
    code += "    run(spec_of([*sys.argv[1:], f'logger={logger}', f'seed={number}']))\n"
    code += "    print('imported:', 'wandb' in sys.modules)"
    chosen = ["neck=focal", *SMALL[:-1], "epochs=1", f"outputs={tmp_path}"]
    command = [sys.executable, "-W", "ignore", "-c", code, *chosen]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert [line for line in done.stdout.splitlines() if line.startswith("imported")] == ["imported: False"] * 2
    assert [bool(list(tmp_path.glob(f"runs/*_s{number}_*/csv/metrics.csv"))) for number in (0, 1)] == [False, True]


def test_a_wandb_that_does_not_start_is_left_out(
    train_run: Train, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(**options: Any) -> None:
        raise wandb.errors.WandbCoreNotAvailableError("no room for it")  # pyright: ignore[reportAttributeAccessIssue]

    monkeypatch.setattr(wandb, "init", fails)
    record, folder = train_run("epochs=1", *OFFLINE)
    assert record.metrics
    assert not finished_files(folder)
    assert "W&B does not start (no room for it)" in capsys.readouterr().out


@pytest.mark.parametrize("in_time", [True, False])
def test_an_online_run_that_was_not_taken_whole_is_marked_for_the_sync(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_time: bool
) -> None:
    class Online(Fake):
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
        logger = WandbRunLogger(Online(), tmp_path)  # pyright: ignore[reportArgumentType]
        line = logger.close(None, None, tmp_path)
    assert "https://there/run" in (line or "")
    assert ("wandb sync --include-online" in (line or "")) is not in_time
    assert unsynced(tmp_path) == (None if in_time else file)


@pytest.mark.parametrize(
    ("environment", "said", "cold"),
    [
        ({"WANDB_MODE": "disabled"}, None, False),
        ({"WANDB_MODE": ""}, "W&B run (offline)", False),
        # Such that W&B might stumble over it while it is imported.
        ({"WANDB_BASE_URL": "nowhere", "WANDB_API_KEY": "a" * 40}, "W&B is left alone", True),
        ({"WANDB_BASE_URL": "http://127.0.0.1:9", "WANDB_API_KEY": "a" * 40}, "W&B is left alone", False),
    ],
)
def test_no_setting_of_wandbs_stops_a_run(tmp_path: Path, environment: dict[str, str], said: str | None, cold: bool) -> None:
    words = [str(ROOT / "train.py"), *SMALL, "logger=wandb", "epochs=1", f"outputs={tmp_path}"]
    env = {name: value for name, value in os.environ.items() if not name.startswith("WANDB")} | environment
    if cold:
        done = subprocess.run([sys.executable, *words], env=env, capture_output=True, text=True, timeout=120, cwd=tmp_path)
    else:
        done = WarmProcess(*words, cwd=tmp_path, env=env).finish()
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(list(tmp_path.glob("runs/*/record.json"))) == 1
    assert (said or "W&B run") not in done.stdout if said is None else said in done.stdout


@settings(deadline=None, max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(min_size=1, max_size=300), st.text(max_size=300), st.integers(0, 10**9))
def test_tags_and_projects_are_such_as_wandb_takes(name: str, value: str, seed: int) -> None:
    choices = {"data": name, "backbone": "resnet18", "neck": name, "head": "gap", "optimizer": "sgd"}
    tags = run_tags(
        choices, ["neck=x", f"neck.a={value}", "~neck.b", "+neck.c=3", "optimizer.lr=1"], ("neck", "optimizer.lr"), seed
    )
    assert all(1 <= len(tag) <= 64 for tag in tags)
    assert wandb.Settings(run_tags=tuple(tags)).run_tags == tuple(tags)
    assert tags[0] == "neck=x"
    assert {"optimizer.lr=1", "c=3", f"seed={seed}", "~neck.b"} <= set(tags)
    assert any(tag.startswith(f"a={value}"[:50]) for tag in tags)
    assert not set(project_name(name)) & set("/\\#?%:")


@pytest.mark.slow
def test_an_unreachable_server_is_mentioned_once_and_the_runs_stay(tmp_path: Path) -> None:
    small = [text for text in SMALL if text != "logger=none"]
    result = command(
        "train.py", "-m", "neck=none,sppf", *small, "epochs=1", "logger.wandb.mode=online", cwd=tmp_path, **UNREACHABLE
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("W&B is left alone") == 1
    assert "http://127.0.0.1:9" in result.stdout
    assert "Traceback" not in result.stderr
    files = sorted(tmp_path.glob("outputs/runs/*/wandb/offline-run-*/run-*.wandb"))
    assert len(files) == 2
    assert [read(file)["exit"] for file in files] == [0, 0]


@pytest.mark.slow
def test_a_killed_run_has_one_history_once_it_is_resumed(tmp_path: Path) -> None:
    small = [text for text in SMALL if not text.startswith(("logger", "epochs"))]
    arguments = ["neck=focal", *small, "epochs=40", "callbacks.gates=1", *OFFLINE]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HOME": str(tmp_path)}
    killed = WarmProcess(ROOT / "train.py", *arguments, cwd=tmp_path, env=environment)
    history = None
    while history is None or len(history.read_text().splitlines()) < 4:  # its header and three epochs
        assert killed.is_alive()
        history = next(tmp_path.glob("outputs/runs/*/history.csv"), None)
        time.sleep(0.01)
    os.killpg(killed.pid, signal.SIGKILL)  # with W&B's own process
    assert killed.finish().returncode == -signal.SIGKILL
    folder = history.parent
    (first,) = finished_files(folder)
    result = command("train.py", *arguments, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert json.loads((folder / "record.json").read_text())["resumed"] == 1
    assert unsynced(folder) == run_files(folder)[1] != first
    found = read(run_files(folder)[1])
    epochs = [row["epoch"] for row in found["rows"]]
    assert epochs == sorted(epochs)
    assert list(by_epoch(found["rows"])) == list(range(1, 41))
    for row in by_epoch(found["rows"]).values():
        assert {"train/loss", "val/acc", "gates/neck/global/mass"} <= row.keys()
    assert found["exit"] == 0
