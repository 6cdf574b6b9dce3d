"""Reading what W&B wrote, for the tests of tracking: in isolation from the user's own W&B."""

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import wandb
from wandb.util import get_core_path

from necklace.tracking import wandb_run
from necklace.tracking.wandb_run import run_files
from tests.warm import WarmProcess

ROOT = Path(__file__).parents[1]
UNREACHABLE = {"WANDB_API_KEY": "a" * 40, "WANDB_BASE_URL": "http://127.0.0.1:9"}


@pytest.fixture(autouse=True)
def isolated_wandb(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No key, no files in the user's folders, and no memory of what an earlier test printed or found."""
    for name in [name for name in os.environ if name.startswith("WANDB")]:
        monkeypatch.delenv(name)
    home = tmp_path_factory.mktemp("home")
    for name in ("WANDB_CACHE_DIR", "WANDB_DATA_DIR", "WANDB_CONFIG_DIR", "HOME"):
        monkeypatch.setenv(name, str(home))
    monkeypatch.setattr(wandb_run, "_found", {})
    wandb_run.print_once.cache_clear()
    yield
    assert wandb.run is None


def finished_files(folder: Path) -> list[Path]:
    """The files of the W&B runs in a folder once all of them are on the disk, as at the end of the process that wrote them."""
    wandb.teardown()  # W&B's own process may still be writing when a run has been finished
    return run_files(folder)


def inspected(file: Path, *options: str) -> str:
    """What `wandb leet inspect --json` prints of a run file, by the program that it starts after two seconds of imports."""
    command = [get_core_path(), "leet", "inspect", "--no-observability", "--json", *options]
    command += ["--run-file", str(file.resolve()), str(file.resolve().parents[1])]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def read(file: Path) -> dict[str, Any]:
    """A run file by W&B's own reader: its run, config, program, rows of history, summary, and metric definitions."""
    lines = inspected(file).splitlines()
    found: dict[str, Any] = {"rows": [], "summary": {}, "metrics": [], "artifacts": [], "exit": None, "program": None}
    for record in map(json.loads, lines):
        content = record.get(record["type"])
        match record["type"]:
            case "run":
                found["run"] = content
                found["config"] = {key: value for key, value in content["config"]["update"].items() if key != "_wandb"}
            case "environment":
                found["program"] = content.get("program", found["program"])
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


def command(script: str, *arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    env = os.environ | {"OMP_NUM_THREADS": "1", "HOME": str(cwd), "COLUMNS": "200"} | environment
    return WarmProcess(ROOT / script, *arguments, cwd=cwd, env=env).finish(500)
