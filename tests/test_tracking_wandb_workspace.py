import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

from necklace.build import built
from necklace.run.runner import run
from necklace.tracking.wandb_study import logger_settings
from necklace.tracking.wandb_workspace import gate_metrics, workspace
from tests import wandb_files
from tests.test_tracking_wandb_study import STUDY, plan_of
from tests.wandb_files import UNREACHABLE, command, finished_files, read

isolated = wandb_files.isolated_wandb  # a fixture for each test here


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
def test_the_dashboard_names_what_a_run_logs(tmp_path: Path) -> None:
    plan = plan_of(tmp_path)
    planned = plan.runs[-1]
    gates = set(gate_metrics(built(planned.spec.resolved)[0]))
    contexts, figures = ("level1 k3", "level2 k5", "global"), ("mass", "contribution_share")
    assert gates == {f"gates/neck/{context}/{figure}" for context in contexts for figure in figures}

    settings = {**logger_settings(plan, Console())[planned.spec.hash], "logger.wandb.mode": "offline"}
    record = run(planned.spec.adapted(settings, ()))
    folder = plan.root / record.name
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
    assert found["run"]["job_type"] == planned.row
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
