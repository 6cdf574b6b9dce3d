import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image
from rich.console import Console

from necklace.results.figure_data import figure_data
from necklace.results.table import TableText
from necklace.results.verdicts import Verdict
from necklace.study.overrides import override
from necklace.study.plan import Plan, make_plan
from necklace.study.rules import Setting
from necklace.study.status import StatusReader
from necklace.study.study_file import read_study
from necklace.tracking import wandb_run
from necklace.tracking.wandb_run import UPLOADING, run_files, unsynced
from necklace.tracking.wandb_study import _differences, logger_settings, sync, table_id, write_table
from tests import wandb_files
from tests.conftest import SMALL, compose_train, the_composer
from tests.synthetic import example
from tests.wandb_files import UNREACHABLE, command, finished_files, read

isolated = wandb_files.isolated_wandb  # a fixture for each test here
STUDY = {
    "question": "Is it shown?",
    "baseline": "none",
    "seeds": [0, 1],
    "overrides": {text.partition("=")[0]: yaml.safe_load(text.partition("=")[2]) for text in SMALL}
    | {"epochs": 1, "logger": "wandb", "data.eval_sizes": [16]},
    "rows": [{"neck": ["none", "sppf"]}, {"neck": "focal", "neck.focal_level": 2}],
}


def plan_of(folder: Path, *extra: str) -> Plan:
    path = folder / "experiments" / "tiny" / "study.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(STUDY))
    return make_plan(read_study(path), [f"outputs={folder / 'outputs'}", *extra], composer=the_composer())


@pytest.mark.usefixtures("hydra_ready")
def test_row_and_axes_reach_those_of_several_loggers_that_have_them(tmp_path: Path) -> None:
    def settings(logger: str) -> dict[str, Any]:
        plan = plan_of(tmp_path, f"logger={logger}")
        return logger_settings(plan, Console())[plan.runs[-1].spec.hash]

    row, axes = "focal, focal_level=2", ["neck", "neck.focal_level"]
    assert settings("[csv,wandb,mlflow]") == {"logger.wandb.row": row, "logger.mlflow.row": row, "logger.wandb.axes": axes}
    assert settings("[mlflow,tensorboard]") == {"logger.mlflow.row": row}
    assert settings("csv") == settings("none") == {}


@pytest.mark.usefixtures("hydra_ready")
def test_a_study_gives_its_runs_their_row_and_asks_the_server_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = plan_of(tmp_path)
    settings = logger_settings(plan, Console())
    assert len(settings) == 6
    last, own = plan.runs[-1], settings[plan.runs[-1].spec.hash]
    # The same as overrides, which Lightning's other processes are given.
    config, _ = compose_train([*last.spec.overrides, *(override(key, value) for key, value in own.items())])
    adapted = last.spec.adapted(own, ())
    assert adapted.hash == last.spec.hash
    assert adapted.resolved["logger"]["wandb"]["row"] == config.logger.wandb.row == last.row == "focal, focal_level=2"
    assert adapted.resolved["logger"]["wandb"]["axes"] == list(config.logger.wandb.axes)
    assert list(config.logger.wandb.axes) == ["neck", "neck.focal_level"]
    assert config.logger.wandb.mode is None
    assert capsys.readouterr().out == ""
    asked = []
    monkeypatch.setattr(wandb_run, "_probe", lambda server: asked.append(server) or f"{server} has a day off")
    monkeypatch.setattr(wandb_run, "has_wandb_key", lambda: True)
    settings = logger_settings(plan, Console(soft_wrap=True))
    assert all(own["logger.wandb.mode"] == "offline" for own in settings.values())
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
        name_of_run = plan.runs[index].spec.name
        file = plan.root / name_of_run / "wandb" / name / f"run-{name.rpartition('_')[2].partition('-')[2]}.wandb"
        file.parent.mkdir(parents=True)
        file.write_bytes(bytes(size))
        (plan.root / name_of_run / "FAILED").write_text("it ended\n")
        return file

    monkeypatch.setattr("necklace.tracking.wandb_study._wandb_sync", upload)
    assert sync(plan, StatusReader(plan).all()) == (
        ["nothing to upload", "6 runs have not ended: their runs come with a later --wandb-sync"],
        True,
    )
    run_file(0, "offline-run-20260101_000000-abc")
    run_file(0, "run-20260101_000000-abc-2", 7)
    newest = run_file(0, "offline-run-20260101_000000-abc-10")
    run_file(1, "offline-run-20260101_000000-def").with_suffix(".wandb.synced").touch()
    run_file(2, "run-20260101_000000-fed")  # online, and all of it is there
    interrupted = run_file(3, "run-20260101_000000-bad")
    (interrupted.parent / UPLOADING).touch()
    lines, complete = sync(plan, StatusReader(plan).all())
    assert (lines, complete) == (
        ["2 runs are to be uploaded, but not now: no API key is configured: wandb login, or WANDB_API_KEY"],
        False,
    )
    assert commands == []
    monkeypatch.setattr(wandb_run, "has_wandb_key", lambda: True)
    monkeypatch.setattr(wandb_run, "_probe", lambda server: "nobody is there")
    assert "nobody is there" in sync(plan, StatusReader(plan).all())[0][0]
    monkeypatch.setattr(wandb_run, "_found", {})
    monkeypatch.setattr(wandb_run, "_probe", lambda server: None)
    lines, complete = sync(plan, StatusReader(plan).all())
    assert commands == [[newest, interrupted]]
    assert lines[0] == "1 of 2 runs uploaded"
    assert lines[-1] == "one is lost"
    assert not complete
    assert unsynced(newest.parents[2]) is None


@pytest.mark.usefixtures("hydra_ready")
def test_the_studys_table_is_a_run_of_its_own(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, "logger.wandb.project=necks")
    headers = ("row", "params", "of neck", "MACs", "of neck")
    table = TableText(headers, (("none", "5,214", "0", "1.5", ""), ("sppf", "5,902", "688", "2", "1e3")), (), "")
    results, figures = example(), tmp_path / "figures"
    figures.mkdir()
    Image.new("RGB", (4, 4)).save(figures / "controls.png")
    line = write_table(table, results, plan, figures, "offline")
    (file,) = finished_files(plan.root / ".table")
    assert str(file.parent.name) in (line or "")
    found = read(file)
    assert (found["run"]["job_type"], found["run"]["project"]) == ("table", "necks")
    assert (found["run"]["run_id"], found["run"]["display_name"]) == ("tiny", "tiny: table")
    assert (found["config"]["study"], found["program"]) == ("tiny", "necklace ablate")
    (written,) = file.parent.glob("files/media/table/table_*.json")
    content = json.loads(written.read_text())
    assert content["columns"] == ["row", "params", "params of neck", "MACs", "MACs of neck"]
    assert content["data"] == [["none", 5214, 0, 1.5, None], ["sppf", 5902, 688, 2, 1000]]
    differences = json.loads(next(file.parent.glob("files/media/table/differences_*.json")).read_text())
    assert [row[:4] for row in differences["data"]] == [
        [row["name"], "none", row["n"], row["mean"]] for row in figure_data(results)["differences"]["rows"]
    ]
    controls = json.loads(next(file.parent.glob("files/media/table/controls_*.json")).read_text())
    assert [row[:2] for row in controls["data"]] == [[name, "conv, match=params of sppf"] for name in ("spp", "sppf")]
    assert len(list(file.parent.glob("files/media/images/figures/controls_*.png"))) == 1
    assert differences["columns"][4:] == ["95 % t from", "95 % t to", "verdict"]
    assert write_table(table, results, plan, figures, "offline") is None  # it is there
    assert unsynced(plan.root / ".table") == file


def test_a_table_of_anytime_intervals_has_these() -> None:
    results = replace(example(), setting=Setting("anytime", 0.5, 0.05))
    rows = [
        replace(row, verdict=Verdict("better", 0.01, 0.02, 9)) if row.name == "sppf" else replace(row, verdict=None)
        for row in results.rows
    ]
    table = _differences(figure_data(replace(results, rows=tuple(rows)))["differences"])
    assert table.columns[4:] == ["95 % anytime from", "95 % anytime to", "verdict"]
    found = {row[0]: row[4:] for row in table.data}
    assert found.pop("sppf") == [0.01, 0.02, "better"]
    assert set(map(tuple, found.values())) == {(None, None, None)}


def test_a_table_has_an_id_that_wandb_takes_and_no_other_study_has() -> None:
    names = ["necks", "a b", "x/y:z", "\u732b", "w" * 90 + "1", "w" * 90 + "2"]
    ids = [table_id(name) for name in names]
    assert ids[0] == "necks"
    assert len(set(ids)) == len(names)
    assert all(0 < len(text) <= 64 and not set(text) & set(":;,#?/' ") for text in ids)


@pytest.mark.slow
def test_a_study_without_network_leaves_a_run_for_each_run_of_it(tmp_path: Path) -> None:
    path = tmp_path / "experiments" / "tiny" / "study.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(yaml.safe_dump(STUDY))
    result = command("ablate.py", "tiny", "hydra.launcher.slots=1", "hydra.launcher.threads=1", cwd=tmp_path, **UNREACHABLE)
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.count("W&B is left alone") == 1
    assert not any("W&B is left alone" in log.read_text() for log in tmp_path.glob("outputs/tiny/.logs/*.log"))
    files = [file for record in tmp_path.glob("outputs/tiny/*/record.json") for file in run_files(record.parent)]
    runs = [read(file) for file in files]
    assert len({run["run"]["run_id"] for run in runs}) == len(runs) == 6
    assert sorted((run["run"]["job_type"], run["config"]["seed"]) for run in runs) == [
        (row, seed) for row in ("focal, focal_level=2", "none", "sppf") for seed in (0, 1)
    ]
    assert len({run["run"]["run_group"] for run in runs}) == 3
    assert len(list(tmp_path.glob("outputs/tiny/.table/wandb/offline-run-*/run-tiny.wandb"))) == 1
    sent = command("ablate.py", "tiny", "--wandb-sync", cwd=tmp_path, **UNREACHABLE)
    assert sent.returncode == 1
    assert "7 runs are to be uploaded, but not now: http://127.0.0.1:9" in sent.stdout
    assert "Traceback" not in sent.stderr
