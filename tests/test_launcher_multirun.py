"""Multiruns through the launcher: real processes, forked from a real server, ended in every way that a process ends."""

import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.utils import JobReturn, JobStatus
from hydra.errors import HydraException

from necklace.launcher import local, server, slots
from necklace.launcher.hydra_jobs import error_of, hydra_launcher
from necklace.launcher.slots import lock_name
from necklace.record import Record, read_record
from tests.conftest import SMALL
from tests.warm import WarmProcess

ROOT = Path(__file__).parents[1]
CORES = sorted(os.sched_getaffinity(0))
CONFIG = """
defaults: [logger: wandb, _self_, override hydra/hydra_logging: none, override hydra/job_logging: none]
outputs: {outputs}
what: report
trainer: {{accelerator: cpu, devices: 1}}
number: 0
hydra: {{output_subdir: null, run: {{dir: .}}, sweep: {{dir: "${{outputs}}", subdir: .}}}}
"""
# What the runs do. A file of its own: a run's process should not import pytest.
TASKS = """
import gc, os, signal, subprocess, sys, time
LOADED = set(sys.modules)
import hydra, torch, pytorch_lightning, torchvision, torchmetrics, timm, wandb, necklace.run.runner
from hydra.core.hydra_config import HydraConfig


class Odd(Exception):
    def __init__(self, one, two):
        super().__init__(f"{one} and {two}")


@hydra.main(config_path="configs", config_name="tasks", version_base="1.3")
def main(config):
    def note(pid):
        with open(os.path.join(config.outputs, "pids"), "a") as file:
            file.write(f"{pid}\\n")

    if config.what == "raise":
        raise ValueError("the third wheel")
    if config.what == "odd":
        raise Odd("this", "that")
    if config.what == "exit":
        os._exit(7)
    if config.what == "sys_exit":
        sys.exit(3)
    if config.what == "kill":
        os.kill(os.getpid(), signal.SIGSEGV)
    if config.what == "unpicklable":
        return lambda: None
    if config.what == "print":
        print("hello from", config.number, flush=True)
        subprocess.run(["echo", "and its child"])
    if config.what in ("sleep", "stubborn"):
        if config.what == "stubborn":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        note(os.getpid())
        note(os.getppid())
        note(subprocess.Popen(["sleep", "300"]).pid)
        time.sleep(300)
    if config.what == "interval":
        started = time.time()
        time.sleep(0.3)
        with open(os.path.join(config.outputs, "intervals"), "a") as file:
            file.writelines(f"{core} {started} {time.time()}\\n" for core in os.sched_getaffinity(0))
        return None
    here = HydraConfig.get()
    server = f"/proc/{os.getppid()}/task"
    imported = [name for name in set(sys.modules) - LOADED if name != "tasks"]
    return {
        "argv": sys.argv, "number": config.number, "imported": imported, "spec": sys.modules["__main__"].__spec__,
        "cores": sorted(os.sched_getaffinity(0)), "threads": torch.get_num_threads(), "omp": os.environ["OMP_NUM_THREADS"],
        "gpus": os.environ.get("CUDA_VISIBLE_DEVICES"), "late": os.environ.get("LATE"), "path": os.environ.get("PYTHONPATH"),
        "job": (here.job.num, here.job.id, here.job.name, str(here.mode)), "started": time.time(),
        "cuda": torch.cuda.is_initialized(), "frozen": gc.get_freeze_count(),
        "server_threads": [open(f"{server}/{thread}/comm").read() for thread in os.listdir(server)],
    }


if __name__ == "__main__":
    main()
"""


@pytest.fixture(scope="module", autouse=True)
def own_server() -> None:
    """No server from other tests, which has imported what these asked for: the first launch here starts one."""
    server._asked_for.clear()
    forkserver._forkserver._stop()  # pyright: ignore[reportAttributeAccessIssue]


@pytest.fixture
def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A script with a config of its own, importable as `tasks`."""
    (tmp_path / "configs" / "logger").mkdir(parents=True)
    (tmp_path / "configs" / "logger" / "wandb.yaml").write_text("{}")
    (tmp_path / "configs" / "tasks.yaml").write_text(CONFIG.format(outputs=tmp_path / "out"))
    (tmp_path / "tasks.py").write_text(TASKS)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "tasks", raising=False)
    return tmp_path / "tasks.py"


@pytest.fixture
def launch(app: Path) -> Callable[..., Sequence[JobReturn]]:
    """Run jobs through the launcher as a program does that has no command line of Hydra's."""

    def run(*jobs: Sequence[str], task: Callable[..., Any] | None = None, **options: Any) -> Sequence[JobReturn]:
        chosen = [f"hydra.launcher.{name}={value}" for name, value in ({"script": app} | options).items()]
        with initialize_config_dir(str(app.parent / "configs"), version_base="1.3", job_name="tasks"):
            overrides = ["hydra/launcher=local", *chosen]
            function = task or __import__("tasks").main
            loader = GlobalHydra.instance().config_loader()
            launcher = hydra_launcher(loader, overrides, "tasks", str(app.parent), function, "tasks")
            return launcher.launch(jobs, 0)

    return run


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_for(condition: Callable[[], object], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def test_a_run_starts_warm_in_its_share_of_the_machine(launch: Any, app: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LATE", "before")
    launch(["number=0"])  # from here on the server runs
    monkeypatch.setenv("LATE", "after")
    before = len(os.listdir("/proc/self/fd"))
    results = launch(*([f"number={number}"] for number in range(5)), slots=2, threads=1)
    assert len(os.listdir("/proc/self/fd")) == before
    assert [result.status for result in results] == [JobStatus.COMPLETED] * 5
    values = [result.return_value for result in results]
    assert [value["number"] for value in values] == [0, 1, 2, 3, 4]
    configs = app.parent / "configs"
    flags = [f"--config-path={configs}", "--config-name=tasks", "hydra.mode=RUN"]
    for number, value in enumerate(values):
        assert value["argv"] == [str(app), *flags, f"number={number}"]
        assert value["job"] == (number, str(number), "tasks", "RunMode.RUN")
        assert value["imported"] == []
        assert value["spec"] is None
        assert value["threads"] == 1
        assert value["omp"] == "1"
        assert value["late"] == "after"
        assert value["path"] == os.environ.get("PYTHONPATH")
        assert len(value["server_threads"]) == 1, value["server_threads"]
        assert not value["cuda"]
        assert value["frozen"] > 100_000  # the server has imported all of its list, to the last module
    assert {tuple(value["cores"]) for value in values} == {(core,) for core in CORES[:2]}
    assert results[3].overrides == ["number=3"]
    assert results[3].cfg is not None
    assert results[3].cfg.number == 3


def test_cores_are_shared_out_evenly_where_threads_are_not_given(launch: Any) -> None:
    (result,) = launch(["number=0"], slots=1)
    assert result.return_value["cores"] == CORES
    assert result.return_value["threads"] == len(CORES)


def test_each_end_of_a_process_is_reported_and_the_others_continue(launch: Any) -> None:
    ways = ["raise", "odd", "exit", "sys_exit", "kill", "unpicklable", "report"]
    results = launch(*([f"what={way}"] for way in ways[:3]), ["nothing=1"], *([f"what={way}"] for way in ways[3:]))
    assert [result.status for result in results] == [JobStatus.FAILED] * 7 + [JobStatus.COMPLETED]
    raised, odd, exited, unknown, sys_exit, killed, unpicklable = [error_of(result) for result in results[:7]]
    assert type(raised) is ValueError
    assert str(raised) == "the third wheel"
    assert "in main" in raised.__notes__[0]  # the traceback of the run's own process
    assert type(odd) is RuntimeError  # an Odd cannot be made again from what pickle keeps of it
    assert "Odd: this and that" in str(odd)
    assert str(exited) == "the process of the run [what=exit] ended with exit code 7"
    assert isinstance(unknown, HydraException)
    assert "nothing" in str(unknown)
    assert "SystemExit: 3" in str(sys_exit)
    assert str(killed) == "the process of the run [what=kill] was killed by SIGSEGV"
    assert "cannot be sent" in str(unpicklable)
    with pytest.raises(ValueError, match="third wheel"):
        _ = results[0].return_value


def test_the_output_of_each_run_goes_to_a_file(launch: Any, tmp_path: Path) -> None:
    launch(["what=print", "number=3"], ["what=print", "number=4"], log_dir=tmp_path / "logs")
    texts = [(tmp_path / "logs" / f"{index}.log").read_text() for index in range(2)]
    assert texts == [f"hello from {number}\nand its child\n" for number in (3, 4)]


@pytest.mark.skipif(len(CORES) < 2, reason="one core cannot be held while another is used")
def test_a_core_that_another_launcher_holds_is_left_alone(launch: Any, tmp_path: Path) -> None:
    with FileLock(tmp_path / "locks" / lock_name("core", CORES[0])):
        results = launch(["number=0"], ["number=1"], ["number=2"], slots=2, threads=1, lock_dir=tmp_path / "locks")
    assert [result.return_value["cores"] for result in results] == [[CORES[1]]] * 3
    for core in CORES[:2]:  # both are free again
        FileLock(tmp_path / "locks" / lock_name("core", core)).acquire(blocking=False).lock.release()


def test_a_slot_owns_as_many_gpus_as_its_run_has_devices(launch: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Needs no GPU: the test reads what the launcher hands out."""
    for module in (slots, local):
        monkeypatch.setattr(module, "visible_gpus", lambda: ["2", "GPU-5f", "7"])
    auto = "trainer.accelerator=auto"
    one = launch(*[[auto, f"number={number}"] for number in range(6)])
    assert {result.return_value["gpus"] for result in one} <= {"2", "GPU-5f", "7"}
    two = launch([auto, "trainer.devices=2"], [auto, "trainer.devices=[0,1]"], [auto, "trainer.devices=-1"], [])
    assert [result.return_value["gpus"] for result in two[:3]] == ["2,GPU-5f", "2,GPU-5f", "2,GPU-5f,7"]
    assert two[3].return_value["gpus"] == os.environ.get("CUDA_VISIBLE_DEVICES")  # accelerator=cpu
    packed = launch(*[[auto, f"number={number}"] for number in range(4)], slots=6)  # two layers on three GPUs
    assert {result.return_value["gpus"] for result in packed} <= {"2", "GPU-5f", "7"}


def test_options_and_tasks_that_cannot_be_are_refused(launch: Any) -> None:
    with pytest.raises(HydraException, match=r"hydra\.launcher\.slots=0.*at least 1"):
        launch(["number=0"], slots=0)
    with pytest.raises(ValueError, match="function of a module"):
        launch(["number=0"], task=lambda config: None)


def start(app: Path, *overrides: str) -> WarmProcess:
    words = ["-m", "hydra/launcher=local", *overrides]
    return WarmProcess(app, *words, cwd=Path.cwd(), env=os.environ, joined=True)


def noted_pids(app: Path, count: int) -> list[int]:
    file = app.parent / "out" / "pids"
    wait_for(lambda: file.exists() and file.read_text().count("\n") == count)
    return [int(pid) for pid in file.read_text().split()]


@pytest.mark.slow
def test_nothing_outlives_a_launcher_that_is_killed(app: Path) -> None:
    launcher = start(app, "what=sleep", "number=0,1", "hydra.launcher.slots=2")
    pids = noted_pids(app, 6)  # of two runs, what they started, and twice the server
    assert all(is_alive(pid) for pid in pids)
    os.kill(launcher.pid, signal.SIGKILL)
    assert launcher.finish().returncode == -signal.SIGKILL
    wait_for(lambda: not any(is_alive(pid) for pid in pids), 10)


@pytest.mark.slow
def test_ctrl_c_stops_willing_and_stubborn_runs_and_starts_no_other(app: Path) -> None:
    launcher = start(app, "what=stubborn,sleep,report", "hydra.launcher.slots=2")
    pids = noted_pids(app, 6)
    os.killpg(launcher.pid, signal.SIGINT)  # as the terminal does it
    ended = launcher.finish(30)
    assert ended.returncode in (-signal.SIGINT, 130, 1)
    assert ended.stdout.count("KeyboardInterrupt") <= 1, ended.stdout  # the runs and the server print nothing
    wait_for(lambda: not any(is_alive(pid) for pid in pids), 10)


@pytest.mark.slow
def test_two_launchers_never_use_one_core_at_a_time(app: Path) -> None:
    both = [start(app, "what=interval", "number=range(6)", *options) for options in ([], ["hydra.launcher.slots=1"])]
    for launcher in both:
        ended = launcher.finish(120)
        assert ended.returncode == 0, ended.stdout
    lines = (app.parent / "out" / "intervals").read_text().splitlines()
    assert len(lines) == 6 + 6 * len(CORES)  # the second one's runs have all the cores
    everywhere = [[float(word) for word in line.split()] for line in lines]
    for core in CORES:
        times = sorted(times for each, *times in everywhere if each == core)
        assert all(end <= start for (_, end), (start, _) in pairwise(times))


def train(*arguments: str, cwd: Path) -> list[Record]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("WANDB")} | {"HOME": str(cwd)}
    result = WarmProcess(ROOT / "train.py", "-m", "hydra/launcher=local", *arguments, cwd=cwd, env=environment).finish(300)
    assert result.returncode == 0, result.stdout + result.stderr
    return [read_record(path) for path in sorted(cwd.glob("outputs/runs/*/record.json"))]


@pytest.mark.slow
def test_a_multirun_of_train_gives_what_runs_of_their_own_give(
    tmp_path: Path, train_run: Callable[..., tuple[Record, Path]]
) -> None:
    small = [text for text in SMALL if text != "logger=none"]
    records = train("neck=sppf,none", *small, cwd=tmp_path)
    assert len(records) == 2
    for record in records:
        single, _ = train_run(f"neck={record.choices['neck']}", outputs=tmp_path / "single")
        assert record.name == single.name
        assert record.weights_hash == single.weights_hash
        assert record.metrics == single.metrics
    assert len(list(tmp_path.glob("outputs/runs/*/wandb/offline-run-*/run-*.wandb"))) == 2


@pytest.mark.slow
def test_the_other_processes_of_a_run_train_the_same_run(tmp_path: Path) -> None:
    two = ["trainer.accelerator=cpu", "trainer.devices=2", "trainer.strategy=ddp"]
    records = train("seed=0,1", *SMALL, *two, cwd=tmp_path)
    assert [record.config["seed"] for record in records] == [0, 1]
    assert [record.world_size for record in records] == [2, 2]
    assert len(list(tmp_path.glob("outputs/**/*_s[01]_*/"))) == 2
