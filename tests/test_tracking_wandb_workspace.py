import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

from necklace.build import built
from necklace.run.runner import run
from necklace.tracking.wandb_study import logger_settings
from necklace.tracking.wandb_workspace import gate_metrics, picture_names, workspace
from tests import wandb_files
from tests.test_tracking_wandb_logger import Train
from tests.test_tracking_wandb_study import STUDY, plan_of
from tests.wandb_files import UNREACHABLE, command, finished_files, read

isolated = wandb_files.isolated_wandb  # a fixture for each test here


def metric_names(spec: dict[str, Any]) -> set[str]:
    """Every metric that a workspace's panels name."""
    names: set[str] = set()
    for section in spec["spec"]["section"]["panelBankConfig"]["sections"]:
        for panel in section["panels"]:
            config = panel["config"]
            names |= {*(config.get("metrics") or ()), *(config.get("mediaKeys") or ())}
            names |= {config[axis] for axis in ("xAxis", "yAxis") if config.get(axis)}
    return {name.removeprefix("summary:") for name in names}


@pytest.mark.usefixtures("hydra_ready")
def test_the_dashboard_names_what_a_run_logs(tmp_path: Path) -> None:
    plan = plan_of(tmp_path)
    planned = plan.runs[-1]
    gates = set(gate_metrics(built(planned.spec.resolved)[0]))
    contexts, figures = ("level1 k3", "level2 k5", "global"), ("mass", "contribution_share")
    assert gates == {f"gates/neck/{context}/{figure}" for context in contexts for figure in figures}

    assert picture_names(built(planned.spec.resolved)[0], planned.spec.resolved) == []
    settings = {**logger_settings(plan, Console())[planned.spec.hash], "logger.wandb.mode": "offline"}
    record = run(planned.spec.adapted(settings, ()))
    folder = plan.root / record.name
    (file,) = finished_files(folder)
    found = read(file)
    logged = {name for row in found["rows"] for name in row} | set(found["summary"])
    logged |= {name.removesuffix("._type") for name in logged}  # W&B's reader takes a histogram apart
    built_spec = json.loads(workspace(plan, "someone")._to_model().model_dump_json(by_alias=True))
    named = metric_names(built_spec)
    assert gates | {"epoch", "val/acc", "val/loss", "train/loss", "test/acc", "test/acc@16", "cost/params"} <= named
    assert {f"knockout/neck/{context}/silenced" for context in contexts} <= named
    media = {f"{name.removesuffix('mass')}gate" for name in gates if name.endswith("/mass")}
    assert media <= named
    # The others are the study's own run's, and those of another row's pools.
    pools = {f"knockout/neck/{pool}/silenced" for pool in ("no pool", "pool1 k5", "pool2 k9", "pool3 k13")}
    assert named - logged == {"figures/differences", "figures/controls"} | pools
    section = built_spec["spec"]["section"]
    panels = [panel["config"] for part in section["panelBankConfig"]["sections"] for panel in part["panels"]]
    bands = [panel for panel in panels if "metrics" in panel]
    assert {(panel["groupBy"], panel["groupAgg"], panel["groupArea"]) for panel in bands} == {("jobType", "mean", "stddev")}
    assert found["run"]["job_type"] == planned.row
    # The columns of the table of runs are in the run's config and summary, below those names.
    columns = section["runSets"][0]["runFeed"]["columnOrder"]
    assert columns[:5] == [
        "run:displayName",
        "config:neck.value",
        "config:options.value.neck.focal_level",
        "config:seed.value",
        "summary:test/acc",
    ]
    assert (found["config"]["neck"], found["config"]["options"]["neck"]["focal_level"]) == ("focal", 2)
    assert {name.removeprefix("summary:") for name in columns if name.startswith("summary:")} <= logged
    assert section["runSets"][0]["grouping"] == [{"section": "run", "name": "jobType"}]
    assert (built_spec["entity"], built_spec["project"]) == ("someone", "tiny")


@pytest.mark.slow
def test_the_dashboards_spec_needs_no_network(tmp_path: Path) -> None:
    path = tmp_path / "experiments" / "tiny" / "study.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(yaml.safe_dump(STUDY))
    result = command("src/necklace/cli/main.py", "dashboard", "tiny", "--dry-run", cwd=tmp_path, **UNREACHABLE)
    assert result.returncode == 0, result.stderr
    assert "test/acc@16" in metric_names(json.loads(result.stdout))
    result = command("src/necklace/cli/main.py", "dashboard", "tiny", cwd=tmp_path, **UNREACHABLE)
    assert result.returncode == 1
    assert "127.0.0.1:9" in result.stderr
    assert "Traceback" not in result.stderr


def test_the_pictures_of_a_dashboard_are_those_that_a_run_draws(train_run: Train) -> None:
    options = ("neck=focal", "data.eval_sizes=[16]", "callbacks.pictures=true")
    record, folder = train_run("epochs=1", "logger=none", *options)
    drawn = {f"pictures/{path.stem}" for path in (folder / "pictures").glob("*.png")}
    assert set(picture_names(built(record.config)[0], record.config)) == drawn
