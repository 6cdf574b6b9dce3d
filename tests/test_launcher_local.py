"""Jobs side by side, without Hydra: real processes, forked from a real server."""

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import OmegaConf

from necklace.launcher import local
from necklace.launcher.hydra_jobs import error_of
from necklace.launcher.job import Job, pack_call
from necklace.launcher.local import LocalOptions, is_local, job_processes, run_jobs
from tests import launcher_calls

CORES = sorted(os.sched_getaffinity(0))


@pytest.fixture
def options(tmp_path: Path) -> LocalOptions:
    return LocalOptions(len(CORES), 1, "train.py", str(tmp_path / "locks"), str(tmp_path / "logs"))


def job(index: int, function: Callable[..., Any], *arguments: Any) -> Job:
    return Job(index, [f"number={index}"], ["train.py", f"number={index}"], 1, False, pack_call(function, *arguments))


def test_a_job_gives_what_its_function_gives(options: LocalOptions) -> None:
    results = run_jobs([job(index, launcher_calls.report, index) for index in (4, 2, 7)], options)
    assert sorted(results) == [2, 4, 7]
    for index, result in results.items():
        assert result.status == JobStatus.COMPLETED
        assert result.overrides == [f"number={index}"]
        assert result.return_value["number"] == index
        assert result.return_value["argv"] == ["train.py", f"number={index}"]
        assert result.return_value["spec"] is None  # so Lightning starts other ranks by the command line
        assert result.return_value["pid"] != os.getpid()
    assert "pytest" not in results[2].return_value["loaded"]


def test_a_job_that_fails_or_dies_says_so_and_the_others_continue(options: LocalOptions, tmp_path: Path) -> None:
    calls = [(launcher_calls.stumble, "this"), (launcher_calls.die,), (launcher_calls.report, 2)]
    seen: list[tuple[int, JobReturn]] = []
    results = run_jobs(
        [job(index, *call) for index, call in enumerate(calls)], options, lambda index, result: seen.append((index, result))
    )
    assert sorted(index for index, _ in seen) == [0, 1, 2]
    assert all(results[index] is result for index, result in seen)
    stumbled, killed = error_of(results[0]), error_of(results[1])
    assert type(stumbled) is ValueError
    assert "in stumble" in stumbled.__notes__[0]
    how = "was killed by SIGKILL, which is what the system does to a process when memory runs out"
    assert str(killed) == f"the process of the run [number=1] {how}"
    assert error_of(results[2]) is None
    assert sorted(path.name for path in (tmp_path / "logs").iterdir()) == ["0.log", "1.log", "2.log"]


def test_jobs_are_taken_as_slots_become_free(options: LocalOptions, tmp_path: Path) -> None:
    """The last one that is taken waits for a slot: that of a job that waits for what happens when another one ends."""
    taken: list[int] = []

    def jobs() -> Iterator[Job]:
        for index in range(2 * len(CORES) + 1):
            taken.append(index)
            yield job(index, launcher_calls.wait_for_file, tmp_path / "go") if index else job(0, launcher_calls.report, 0)

    def ended(index: int, result: JobReturn) -> None:
        if index == 0:
            assert taken == list(range(len(CORES) + 1))
            (tmp_path / "go").write_text("gone")

    results = run_jobs(jobs(), options, ended)
    assert [error_of(result) for result in results.values()] == [None] * (2 * len(CORES) + 1)


def test_a_job_that_only_the_result_of_another_makes_known(options: LocalOptions) -> None:
    seen: list[int] = []

    def jobs() -> Iterator[Job | None]:
        yield job(0, launcher_calls.report, 0)
        while not seen:
            yield None
        yield job(1, launcher_calls.report, 1)
        yield None  # nobody runs any more, so nothing will make one known

    assert sorted(run_jobs(jobs(), options, lambda index, result: seen.append(index))) == seen == [0, 1]


def test_no_job_starts_after_its_time(options: LocalOptions) -> None:
    calls = [job(index, launcher_calls.report, index) for index in range(3)]
    assert run_jobs(calls, options, until=time.monotonic() - 1) == {}

    def late() -> Iterator[Job]:
        yield calls[0]
        time.sleep(0.5)
        yield calls[1]

    assert list(run_jobs(late(), options, until=time.monotonic() + 0.4)) == [0]


@pytest.mark.slow
def test_after_a_server_that_died_the_next_launch_starts_another(options: LocalOptions) -> None:
    (result,) = run_jobs([job(0, launcher_calls.kill_server)], options).values()
    assert "the process of the run [number=0] " in str(error_of(result))
    for _ in range(50):
        try:
            results = run_jobs([job(1, launcher_calls.report, 1)], options)
            break
        except RuntimeError:  # for a moment its end does not show
            time.sleep(0.1)
    else:
        pytest.fail("there is no other server")
    assert results[1].return_value["number"] == 1


def test_no_jobs_give_no_results(options: LocalOptions) -> None:
    assert run_jobs([], options) == {}


def test_options_that_cannot_be_are_refused() -> None:
    for name in ("slots", "threads"):
        given: dict[str, Any] = {"slots": None, "threads": None, "script": "a", "lock_dir": "b", "log_dir": None, name: 0}
        with pytest.raises(ValueError, match=rf"hydra\.launcher\.{name}=0: must be at least 1, or null"):
            LocalOptions(**given)
    assert LocalOptions(None, None, "train.py", "locks", None).script == os.path.abspath("train.py")


@pytest.mark.parametrize(
    ("trainer", "gpus", "expected"),
    [
        ({}, 3, (1, True)),
        ({"accelerator": "cpu", "devices": 2}, 3, (2, False)),
        ({"accelerator": "gpu", "devices": "2"}, 3, (2, True)),
        ({"accelerator": "auto", "devices": [0, 2]}, 3, (2, True)),
        ({"accelerator": "cuda", "devices": -1}, 3, (3, True)),
        ({"accelerator": "auto", "devices": "auto"}, 0, (1, True)),
        ({"accelerator": "cpu", "devices": "auto"}, 3, (1, False)),
    ],
)
def test_processes_of_a_run(trainer: Any, gpus: int, expected: tuple[int, bool], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "visible_gpus", lambda: [str(index) for index in range(gpus)])
    assert job_processes(OmegaConf.create({"trainer": trainer})) == expected


def test_the_launcher_is_known_by_its_target() -> None:
    assert is_local(OmegaConf.create({"_target_": "hydra_plugins.necklace_local.LocalLauncher"}))
    assert not is_local(OmegaConf.create({"_target_": "hydra._internal.core_plugins.basic_launcher.BasicLauncher"}))
