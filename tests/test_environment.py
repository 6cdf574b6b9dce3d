"""What a shell, a cluster's job or a user's settings put into the environment changes neither a run nor a test."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from necklace.record import read_record
from tests.conftest import SMALL

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.slow


@pytest.fixture
def hostile(tmp_path: Path) -> dict[str, str]:
    """A shell inside an allocation of SLURM, with other people's settings, a home that cannot be written and no UTF-8."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("srun", "sbatch", "scontrol"):
        (programs / name).write_text("#!/bin/sh\nexit 1\n")
        (programs / name).chmod(0o755)
    (tmp_path / "home").write_text("a file where the home should be")
    slurm = {
        "JOB_ID": "7",
        "JOBID": "7",
        "NTASKS": "4",
        "NPROCS": "4",
        "PROCID": "3",
        "LOCALID": "3",
        "NODEID": "1",
        "NNODES": "2",
    }
    slurm |= {"JOB_NAME": "train", "STEP_ID": "0", "NTASKS_PER_NODE": "2", "JOB_NODELIST": "nowhere[1-2]", "CPUS_PER_TASK": "1"}
    return {
        **os.environ,
        **{f"SLURM_{name}": value for name, value in slurm.items()},
        "PATH": os.pathsep.join([str(programs), os.environ["PATH"]]),
        "HOME": str(tmp_path / "home"),
        "LANG": "C",
        "LC_ALL": "POSIX",
        "PYTHONCOERCECLOCALE": "0",
        "PYTHONUTF8": "0",
        "WANDB_PROJECT": "another",
        "WANDB_RUN_ID": "another",
        "WANDB_RUN_GROUP": "another",
        "WANDB_MODE": "offline",
        "WANDB_SERVICE": f"3-{os.getpid()}-unix-{tmp_path}/gone/socket",  # of a process that has ended
        "WANDB_DIR": "/nowhere",
        "HYDRA_FULL_ERROR": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "RANK": "2",
        "LOCAL_RANK": "2",
        "http_proxy": "http://127.0.0.1:9",
        "https_proxy": "http://127.0.0.1:9",
        "MPLBACKEND": "TkAgg",
    }


def command(script: str, *arguments: str, cwd: Path, env: dict[str, str]) -> str:
    """What a command prints; PYTHONPATH makes it this checkout's code."""
    cwd.mkdir(exist_ok=True)
    env = env | {"PYTHONPATH": os.environ.get("PYTHONPATH", str(ROOT / "src")), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(ROOT / script), *arguments], cwd=cwd, env=env, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stdout + done.stderr


def test_a_run_is_the_same_run(tmp_path: Path, hostile: dict[str, str]) -> None:
    small = [text for text in SMALL if text != "logger=none"]
    arguments = ["neck=focal", *small, "callbacks.pictures=true"]
    clean = command("train.py", *arguments, cwd=tmp_path / "clean", env=dict(os.environ))
    other = command("train.py", *arguments, cwd=tmp_path / "other", env=hostile)
    records = [read_record(next((tmp_path / name).glob("outputs/runs/*/record.json"))) for name in ("clean", "other")]
    for field in ("name", "hash", "metrics", "weights_hash", "test_correct", "steps", "world_size", "device"):
        assert getattr(records[0], field) == getattr(records[1], field), field
    assert records[1].world_size == 1
    for output in (clean, other):
        assert "srun" not in output
        assert "best epoch" in output
    (wandb,) = (tmp_path / "other").glob("outputs/runs/*/wandb/offline-run-*/run-*.wandb")
    assert records[1].hash in wandb.name


def test_a_study_is_the_same_study(tmp_path: Path, hostile: dict[str, str], train_run: Any) -> None:
    options = {name: yaml.safe_load(value) for name, value in (text.split("=") for text in SMALL)}
    study = {"question": "Säme?", "baseline": "none", "seeds": [0], "overrides": options, "rows": [{"neck": ["none", "spp"]}]}
    path = tmp_path / "experiments" / "tiny" / "study.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(yaml.safe_dump(study, allow_unicode=True), encoding="utf-8")
    assert "srun" not in command("ablate.py", "tiny", cwd=tmp_path, env=hostile)
    table = (path.parent / "table.md").read_text(encoding="utf-8")
    assert "±" in table or "| spp | 1 |" in table
    assert json.loads((path.parent / "records" / "study.json").read_text(encoding="utf-8"))["question"] == "Säme?"
    for neck in ("none", "spp"):
        clean, _ = train_run(f"neck={neck}", outputs=tmp_path / "clean")
        (other,) = map(read_record, (tmp_path / "outputs" / "tiny").glob(f"*_{clean.hash}/record.json"))
        assert (clean.weights_hash, clean.metrics) == (other.weights_hash, other.metrics)


def test_tests_pass_there_too(tmp_path: Path, hostile: dict[str, str]) -> None:
    tests = [
        "test_record.py",
        "test_results_table.py",
        "test_diagnostics_gate_callback.py::test_a_gate_that_is_no_number_is_named_counted_and_marked",
    ]
    existing = [text for text in tests if (ROOT / "tests" / text.partition("::")[0]).exists()]
    assert existing == tests
    for name in ("LC_ALL", "PYTHONCOERCECLOCALE", "PYTHONUTF8"):  # the tests' own files are UTF-8, which Python makes of LANG=C
        del hostile[name]
    env = hostile | {"PYTHONPATH": os.environ.get("PYTHONPATH", str(ROOT / "src")), "OMP_NUM_THREADS": "1"}
    chosen = [str(ROOT / "tests" / text) for text in existing]
    options = ["-q", "-p", "no:cacheprovider", "-p", "no:xdist", "--rootdir", str(ROOT), "-c", str(ROOT / "pyproject.toml")]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, f"--basetemp={tmp_path / 'base'}", *chosen],
        cwd=ROOT, env=env, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-5000:]
    shutil.rmtree(tmp_path / "base")
