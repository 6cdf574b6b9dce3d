"""Runs of a study through other launchers than this project's: each job's end is told, and other code is refused."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher

from necklace.launcher.hydra_jobs import JobLost, error_of
from necklace.run.folder import RunBusy, RunFolder
from necklace.run.runner import RunRefused
from necklace.study.elsewhere import TrainComposed, check_code, launch
from necklace.study.execute import train_planned
from necklace.study.status import StatusReader
from tests.conftest import SMALL, compose_train, initialised, spec_of
from tests.test_cli_study import ROOT, USER, ablate, environment, new_study
from tests.test_study_plan import plan_of
from tests.test_study_status import finished
from tests.warm import WarmProcess


class Failing(Launcher):
    """A launcher that does something, and then raises or gives what it is told."""

    def __init__(self, does: Callable[[], Any]) -> None:
        self.does = does

    def setup(self, **options: Any) -> None:
        pass

    def launch(self, job_overrides: Any, initial_job_idx: int) -> Any:
        return self.does()


def begin(plan: Any, index: int) -> RunFolder:
    folder = RunFolder(plan.root / plan.runs[index].spec.name)
    folder.path.mkdir(parents=True)
    folder.code_path.write_text("{}")
    return folder


@pytest.mark.usefixtures("hydra_ready")
def test_when_a_launcher_raises_the_runs_folders_tell_what_became_of_each(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, rows=[{"neck": ["none", "spp", "sppf"]}])
    specs = [run.spec for run in plan.runs]

    def crash() -> None:
        finished(plan, 0)
        begin(plan, 1).mark_failed("Traceback\nValueError: no\n")
        begin(plan, 2)  # its worker has died
        begin(plan, 4)  # and so has this one's, which nobody has looked at
        raise ConnectionError("the worker died")

    returns = launch(Failing(crash), specs, plan.runs, StatusReader(plan))
    errors = [error_of(returned) for returned in returns]
    assert [returned.status == JobStatus.COMPLETED for returned in returns] == [True, *[False] * 5]
    assert [type(error) for error in errors[1:3]] == [RuntimeError, ConnectionError]
    assert str(errors[1]) == "ValueError: no"
    assert all(isinstance(error, RunBusy) for error in errors[3:])  # to be launched again


@pytest.mark.usefixtures("hydra_ready")
def test_a_launcher_that_does_not_work_fails_no_run(tmp_path: Path) -> None:
    plan = plan_of(tmp_path)
    specs = [run.spec for run in plan.runs]

    def refuse() -> None:
        raise OSError("no such cluster")

    returns = launch(Failing(refuse), specs, plan.runs, StatusReader(plan))
    assert {type(error_of(returned)) for returned in returns} == {JobLost}
    assert "Failing could not launch it: OSError: no such cluster" in str(error_of(returns[0]))
    # One that says all is well, and that loses jobs.
    finished(plan, 0)
    well = JobReturn(status=JobStatus.COMPLETED)
    errors = [error_of(each) for each in launch(Failing(lambda: [well, well, None]), specs, plan.runs, StatusReader(plan))]
    assert errors[0] is None
    assert {type(error) for error in errors[1:]} == {JobLost}
    assert len(errors) == len(specs)
    assert "left no record in" in str(errors[1])


def test_other_code_than_planned_is_refused_and_named(tmp_path: Path) -> None:
    check_code({"a": "1", "b": "2"}, {"a": "1", "b": "2"})
    with pytest.raises(RunRefused, match=r"the code is not what the run was planned with: b, c, d; nothing was trained"):
        check_code({"a": "1", "b": "2", "c": "3"}, {"a": "1", "b": "3", "d": "4"})
    overrides = [*SMALL, f"outputs={tmp_path}"]
    spec = spec_of(overrides)
    other = spec.code | {"necklace.necks.control": "edited"}
    with pytest.raises(RunRefused, match=r"planned with: necklace\.necks\.control; "):
        train_planned(replace(spec, code=other))
    with initialised():
        config, _ = compose_train(overrides)
        with pytest.raises(RunRefused, match=r"planned with: necklace\.necks\.control; "):
            TrainComposed({spec.hash: other})(config)
        with pytest.raises(RunRefused, match="is no run that was planned"):
            TrainComposed({"0123456789": spec.code})(config)
    assert not list(tmp_path.glob("runs/*/checkpoints"))


@pytest.mark.slow
def test_code_that_is_edited_while_runs_wait_is_refused(tmp_path: Path) -> None:
    """The first run edits the module of its neck, as a person would who goes on working."""
    user = tmp_path / "user"
    (user / "neck").mkdir(parents=True)
    (user / "neck" / "edited.yaml").write_text("_target_: edited.Edited\nwidth: 8\n")
    (user / "edited.py").write_text(
        "from pathlib import Path\n\nfrom necklace.necks import ConvNeck\n\n\nclass Edited(ConvNeck):\n"
        "    def forward(self, x):\n        text = Path(__file__).read_text()\n"
        "        if self.training and not text.endswith('= 1\\n'):\n"
        "            Path(__file__).write_text(text + 'ADDED = 1\\n')\n        return super().forward(x)\n"
    )
    folder = new_study(tmp_path, rows=[{"neck": "edited", "neck.width": [8, 12]}], baseline="edited, width=8", seeds=[0])
    ended = ablate(folder, "hydra.launcher.slots=1", user=user).finish()
    assert ended.returncode == 1
    assert "edited, width=12, seed 0: refused: the code is not what the run was planned with: edited; " in ended.stdout
    assert "Traceback" not in ended.stdout
    assert not list(folder.glob("outputs/tiny/*/FAILED"))
    assert len(list(folder.glob("outputs/tiny/*/record.json"))) == 1


@pytest.mark.slow
def test_hydras_own_launcher_trains_what_was_planned(tmp_path: Path) -> None:
    rows = [{"neck": "deadly", "neck.width": 8}, {"neck": "deadly", "neck.width": 16, "neck.raises": True}]
    folder = new_study(tmp_path, rows=rows, seeds=[0])
    words = ["tiny", "hydra/launcher=basic", "--config-dir", str(USER)]
    ended = WarmProcess(ROOT / "ablate.py", *words, cwd=folder, env=environment(USER), joined=True).finish()
    assert ended.returncode == 1
    assert "FAILED: ValueError: this neck raises" in ended.stdout
    assert len(list(folder.glob("outputs/tiny/*/record.json"))) == 1
    assert "| 0/1 | failed |" in (folder / "experiments" / "tiny" / "table.md").read_text()
