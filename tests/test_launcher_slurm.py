"""Jobs of SLURM without SLURM: its programs are scripts here. What real ones do: `tools/slurm_check.sh`."""

import os
import sys
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from hydra.core.global_hydra import GlobalHydra
from hydra.core.utils import JobReturn

import necklace.launcher.slurm as slurm
from necklace.launcher.hydra_jobs import JobLost, error_of, hydra_launcher
from necklace.study import elsewhere
from necklace.study.plan import make_plan
from necklace.study.profile import row_costs
from necklace.study.store import StudyRun
from necklace.study.study_file import read_study
from tests.conftest import SMALL
from tests.synthetic import lossy_study

ROOT = Path(__file__).parents[1]
USER = Path(__file__).parent / "user"
# What sbatch is given it also runs, as a job of one task or as an array, if the file `live` is there.
PROGRAMS = {
    "sbatch": """echo "$@" >>HERE/submitted
echo "Submitted batch job 7"
[ -e HERE/live ] || exit 0
count=$(sed -n 's/^#SBATCH --array=0-\\([0-9]*\\)%.*/\\1/p' "$1")
[ -n "$count" ] || { SLURM_JOB_ID=7 bash "$1" >HERE/log 2>&1 & exit 0; }
for index in $(seq 0 $count); do
  SLURM_JOB_ID=$((7 + index)) SLURM_ARRAY_JOB_ID=7 SLURM_ARRAY_TASK_ID=$index bash "$1" >HERE/log 2>&1 &
done
""",
    "srun": """while [ "${1#-}" != "$1" ]; do [ "$1" = --unbuffered ] && shift || shift 2; done
exec "$@"
""",
    "squeue": 'echo "$@" >>HERE/asked; [ -e HERE/queue ] && cat HERE/queue || exit 1\n',
}


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, text in PROGRAMS.items():
        (programs / name).write_text(f"#!/bin/bash\n{text.replace('HERE', str(tmp_path))}")
        (programs / name).chmod(0o755)
    (tmp_path / "queue").touch()
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.syspath_prepend(USER)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(USER), str(ROOT / "src")]))
    for name, seconds in {"RESULT_S": 0.05, "QUEUE_S": 0.1, "SHOWN_S": 0.3}.items():
        monkeypatch.setattr(slurm, name, seconds)
    return tmp_path


def launched(folder: Path, *numbers: int) -> list[JobReturn]:
    double = import_module("doubling").double  # which a job's process finds by its name
    options = ["hydra/launcher=slurm", "hydra.launcher.cpus_per_task=1", f"outputs={folder}", *SMALL]
    launcher = hydra_launcher(GlobalHydra.instance().config_loader(), options, "job", str(folder), double)
    return list(launcher.launch([[f"outputs={folder}", *SMALL, f"seed={number}"] for number in numbers], 0))


@pytest.mark.slow
@pytest.mark.usefixtures("hydra_ready")
def test_jobs_come_back_and_one_that_raises_is_a_failure(cluster: Path) -> None:
    (cluster / "live").touch()
    (cluster / "queue").write_text("7_0 RUNNING\n7_1 RUNNING\n")
    good, bad = launched(cluster, 3, 13)
    assert (good.return_value, (good.overrides or [])[-1:]) == (6, ["seed=3"])
    error: Any = error_of(bad)
    assert isinstance(error, ValueError)
    assert "13 brings no luck" in str(error)
    script = next(cluster.rglob("*submission.sh")).read_text()
    for line in ("--requeue", "--signal=USR2@120", "--time=240", "--cpus-per-task=1"):
        assert f"#SBATCH {line}" in script
    assert "export OMP_NUM_THREADS=$SLURM_CPUS_PER_TASK" in script


@pytest.mark.usefixtures("hydra_ready")
def test_a_job_that_has_left_the_queue_is_lost_and_one_that_is_in_it_is_taken_up(cluster: Path) -> None:
    (lost,) = launched(cluster, 3)
    assert isinstance(error_of(lost), JobLost)
    assert "job 7 left SLURM's queue without a result: cancelled, killed or vanished" in str(error_of(lost))
    assert slurm.queue_line(cluster / "runs") is None
    # It is still there: nothing is queued anew, and what comes of it is this launch's.
    (cluster / "queue").write_text("7 PENDING\n99 RUNNING\n")
    assert slurm.queue_line(cluster / "runs") == "in SLURM's queue: 7 pending"
    assert (cluster / "submitted").read_text().count("\n") == 1
    (submitted,) = (cluster / "runs" / ".submitit").rglob("*_submitted.pkl")
    code = f"from submitit.core.submission import process_job; process_job({str(submitted.parent)!r})"
    job = os.environ | {"SUBMITIT_EXECUTOR": "slurm", "SLURM_JOB_ID": "7"}
    assert os.spawnve(os.P_WAIT, sys.executable, [sys.executable, "-c", code], job) == 0
    (found,) = launched(cluster, 3)
    assert found.return_value == 6
    assert (cluster / "submitted").read_text().count("\n") == 1
    (cluster / "queue").write_text("99 RUNNING\n")
    launched(cluster, 4)  # another run is another job
    assert (cluster / "submitted").read_text().count("\n") == 2


def test_a_queue_that_does_not_answer_says_nothing(cluster: Path) -> None:
    (cluster / "queue").write_text("7_0 RUNNING\n8 PENDING\n\n")
    assert slurm.queued() == {"7_0": "RUNNING", "8": "PENDING"}
    assert f"--user={os.getuid()}" in (cluster / "asked").read_text()
    (cluster / "queue").unlink()
    assert slurm.queued() is None


@pytest.mark.usefixtures("hydra_ready")
def test_without_the_extra_the_launcher_says_what_to_install(cluster: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(ModuleNotFoundError, match=r"hydra/launcher=slurm: .* pip install 'necklace\[slurm\]'"):
        launched(cluster, 1)


@pytest.mark.usefixtures("hydra_ready")
def test_a_job_that_was_to_measure_costs_and_is_lost_costs_no_table(cluster: Path) -> None:
    options = ["hydra/launcher=slurm", f"hydra.launcher.submitit_folder={cluster}/jobs/%j"]
    path = cluster / "tiny" / "study.yaml"
    path.parent.mkdir()
    path.write_text("{question: x, baseline: none, seeds: [0], rows: [{neck: none}]}")
    plan = make_plan(read_study(path), [*SMALL, f"outputs={cluster / 'outputs'}"], hydra_overrides=options)
    assert elsewhere.is_slurm(plan)
    record = replace(lossy_study().runs[0].record, hash=plan.runs[0].spec.hash)  # pyright: ignore[reportArgumentType]
    done = [StudyRun("none", 0, {}, record.name, "done", None, record)]
    notes: list[str] = []
    assert row_costs(plan, done, cluster / "tiny", True, notes.append) == {}
    measuring, lost = notes
    assert measuring == "measuring latency, training speed and memory of 1 row"
    assert lost.startswith("costs were not measured: ")
    assert "job 7 left SLURM's queue without a result" in lost
    script = next(cluster.rglob("*submission.sh")).read_text()
    assert "#SBATCH --ntasks-per-node=1" in script
    # The next call tries again.
    row_costs(plan, done, cluster / "tiny", True, notes.append)
    assert (cluster / "submitted").read_text().count("\n") == 2
