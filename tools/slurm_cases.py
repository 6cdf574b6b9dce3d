"""The cases of `tools/slurm_check.sh`, which starts the cluster that they run on: each against an undisturbed local twin."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parents[1]
SCRATCH = Path(os.environ["SLURM_CHECK"])
STUDY = """\
question: Does it end well?
baseline: none
seeds: [0]
overrides: {data.source.train: 400, data.source.test: 100, data.size: 24, backbone.width: 8, epochs: 60, logger: none}
rows: [{neck: [none, sppf]}]
"""
OVERRIDES = [text.strip().replace(": ", "=") for text in STUDY.splitlines()[3].partition("{")[2].rstrip("}").split(",")]
SLURM = ("hydra/launcher=slurm", "hydra.launcher.timeout_min=30")
PATIENCE_S = 240
# Runs that take longer than the shortest time that SLURM can limit, a minute.
LONG, LONG_PATIENCE_S = "epochs=400", 600


@dataclass
class Ended:
    """How a case ended.

    Attributes:
        calls: Exit codes of the calls, in their order.
        resumed: How often the runs were continued.
        equal: Whether all figures and weights are those of the twin.
        note: What else is worth saying.
    """

    calls: list[int]
    resumed: int
    equal: bool
    note: str = ""


class Study:
    """A study in a folder of its own."""

    def __init__(self, name: str) -> None:
        self.folder = SCRATCH / name
        self.runs = self.folder / "outputs" / "check"
        (self.folder / "experiments" / "check").mkdir(parents=True)
        (self.folder / "experiments" / "check" / "study.yaml").write_text(STUDY)
        self.calls: list[int] = []

    def start(self, *options: str) -> "subprocess.Popen[str]":
        """Start a call of `necklace ablate`."""
        command = [sys.executable, str(ROOT / "ablate.py"), "check", *options]
        log = (self.folder / f"call-{len(self.calls)}.log").open("w")
        return subprocess.Popen(command, cwd=self.folder, stdout=log, stderr=subprocess.STDOUT, text=True)

    def finish(self, process: "subprocess.Popen[str]", limit_s: float = 600) -> str:
        """Wait for a call's end; gives what it printed."""
        self.calls.append(process.wait(limit_s))
        return (self.folder / f"call-{len(self.calls) - 1}.log").read_text()

    def call(self, *options: str) -> str:
        """A call from start to end."""
        return self.finish(self.start(*options))

    def begun(self, neck: str = "none") -> bool:
        """Whether a run has written a checkpoint."""
        return any(self.runs.glob(f"*_{neck}_*/checkpoints/last.ckpt"))

    def outcome(self) -> dict[str, tuple[object, ...]]:
        """All that must not depend on what happened to a run."""
        records = [json.loads(path.read_text()) for path in self.runs.glob("*/record.json")]
        fields = ("weights_hash", "metrics", "test_correct", "steps", "best_epoch")
        return {record["hash"]: tuple(record[field] for field in fields) for record in records}

    def ended(self, twin: "Study", note: str = "") -> Ended:
        """The case's end."""
        resumed = sum(json.loads(path.read_text())["resumed"] for path in self.runs.glob("*/record.json"))
        clean = not list(self.runs.glob("*/FAILED")) and not list(self.runs.rglob("hpc_ckpt*"))
        table = (self.folder / "experiments" / "check" / "table.md").exists()
        return Ended(self.calls, resumed, clean and table and self.outcome() == twin.outcome(), note)


def until(true: Callable[[], object], what: str) -> None:
    """Wait until something is true."""
    deadline = time.monotonic() + PATIENCE_S
    while not true():
        if time.monotonic() > deadline:
            raise TimeoutError(f"in {PATIENCE_S} s: {what}")
        time.sleep(0.1)


def shell(*command: str) -> str:
    """What a command prints."""
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout


def queue() -> list[str]:
    """Ids of the jobs that run."""
    return shell("squeue", "--noheader", "--array", "--states=RUNNING", "--format=%i").split()


def at_once() -> None:
    """Jobs that SLURM would begin again after two minutes begin now."""
    for line in shell("squeue", "--noheader", "--array", "--states=PENDING", "--format=%i").split():
        subprocess.run(["scontrol", "update", f"JobId={line}", "StartTime=now"], capture_output=True)


def follow(study: Study, process: "subprocess.Popen[str]", patience_s: float = PATIENCE_S) -> str:
    """Wait for a call whose jobs are queued again."""
    deadline = time.monotonic() + patience_s
    while process.poll() is None and time.monotonic() < deadline:
        at_once()
        time.sleep(2)
    return study.finish(process)


def until_done(study: Study, count: int) -> None:
    """Wait for so many records of runs whose jobs are queued again."""
    deadline = time.monotonic() + PATIENCE_S
    while len(list(study.runs.glob("*/record.json"))) < count and time.monotonic() < deadline:
        at_once()
        time.sleep(2)


def undisturbed(study: Study, twin: Study) -> Ended:
    """Nothing happens."""
    study.call(*SLURM)
    return study.ended(twin)


def cancelled(study: Study, twin: Study) -> Ended:
    """A run that trains is cancelled by scancel."""
    process = study.start(*SLURM)
    until(study.begun, "a checkpoint")
    shell("scancel", sorted(queue())[0])
    said = study.finish(process)
    note = "named" if "left SLURM's queue without a result" in said else "NOT NAMED"
    study.call(*SLURM)
    return study.ended(twin, note)


def queued_again(study: Study, twin: Study) -> Ended:
    """`scontrol requeue` of a run that trains."""
    process = study.start(*SLURM)
    until(study.begun, "a checkpoint")
    shell("scontrol", "requeue", sorted(queue())[0])
    follow(study, process)
    return study.ended(twin)


def warned(study: Study, twin: Study, number: str = "USR1") -> Ended:
    """A run that trains is warned by a signal, as before the end of its time."""
    process = study.start(*SLURM)
    until(study.begun, "a checkpoint")
    shell("scancel", f"--signal={number}", sorted(queue())[0])
    follow(study, process)
    return study.ended(twin)


def preempted(study: Study, twin: Study) -> Ended:
    """A job of another partition takes the node."""
    process = study.start(*SLURM)
    until(study.begun, "a checkpoint")
    shell("sbatch", "--partition=high", "--exclusive", "--output=/dev/null", "--wrap=sleep 3")
    follow(study, process)
    return study.ended(twin)


def vanished(study: Study, twin: Study) -> Ended:
    """All processes of a job die at once, and the job leaves the queue without a word."""
    process = study.start(*SLURM)
    until(study.begun, "a checkpoint")
    job = sorted(queue())[0]
    raw = next(field.partition("=")[2] for field in shell("scontrol", "show", "job", job).split() if field.startswith("JobId="))
    pids = [int(line.split()[0]) for line in shell("scontrol", "listpids", raw).splitlines()[1:]]
    for pid in pids:
        if pid > 1:
            os.kill(pid, signal.SIGKILL)
    said = study.finish(process)
    note = "named" if "left SLURM's queue without a result" in said else "NOT NAMED"
    study.call(*SLURM)
    return study.ended(twin, note)


def left(study: Study, twin: Study) -> Ended:
    """Ctrl-C while jobs run: the plan shows them, the same command takes them up and queues none anew."""
    process = study.start(*SLURM)
    until(study.begun, "a checkpoint")
    process.send_signal(signal.SIGINT)
    study.finish(process)
    before = queue()
    plan = study.call(*SLURM, "--plan")
    said = study.call(*SLURM)
    queued = sum("	job " in line for line in said.splitlines())
    return study.ended(
        twin, f"{len(before)} ran on; plan {'shows' if 'in SLURM' in plan else 'HIDES'} them; {queued} queued anew"
    )


def batch(study: Study, twin: Study) -> Ended:
    """A batch job of `train.py` is warned by SIGUSR1, and a checkpoint such as Lightning would write lies in its folder."""
    script = study.folder / "job.sh"
    words = shlex.join([sys.executable, str(ROOT / "train.py"), *OVERRIDES, "study=check"])
    script.write_text(f"#!/bin/bash\nexport OMP_NUM_THREADS=1\nsrun --nodes=1 {words} neck=$1\n")
    output = study.folder / "batch.log"
    options = ("--requeue", "--open-mode=append", f"--output={output}", f"--chdir={study.folder}", "--parsable", "--ntasks=1")
    jobs = [shell("sbatch", *options, str(script), neck).strip() for neck in ("none", "sppf")]
    until(study.begun, "a checkpoint")
    folder = next(study.runs.glob("*_none_*"))
    (folder / "hpc_ckpt_1.ckpt").write_bytes((folder / "checkpoints" / "last.ckpt").read_bytes())
    shell("scancel", "--signal=USR1", jobs[0])
    until_done(study, 2)
    (folder / "hpc_ckpt_1.ckpt").unlink()
    said = "said" if f"job {jobs[0]} is queued again" in output.read_text() else "NOT SAID"
    study.call(*SLURM)
    return study.ended(twin, said)


@cache
def local(name: str, *options: str) -> Study:
    """A twin of other options than the others have, made once."""
    twin = Study(f"local-{name}")
    twin.call("hydra.launcher.threads=1", *options)
    return twin


def two_tasks(study: Study, twin: Study) -> Ended:
    """A run's two processes are two tasks of its job, which is warned once; the run equals a local one of two processes."""
    twin = local("ddp", "trainer=ddp")
    process = study.start(*SLURM, "hydra.launcher.tasks_per_node=2", "trainer=ddp")
    until(study.begun, "a checkpoint")
    shell("scancel", "--signal=USR1", sorted(queue())[0])
    follow(study, process)
    sizes = {json.loads(path.read_text())["world_size"] for path in study.runs.glob("*/record.json")}
    return study.ended(twin, f"world size {sizes}" if sizes == {2} else f"world size NOT 2: {sizes}")


def time_up(study: Study, twin: Study) -> Ended:
    """SLURM itself ends a run's time, twice or more: it warns, and the job goes on in the same call."""
    twin = local("long", LONG)
    options = ("hydra.launcher.timeout_min=1", "hydra.launcher.signal_delay_s=5", "hydra/launcher=slurm", LONG)
    follow(study, study.start(*options), LONG_PATIENCE_S)
    texts = [path.read_text(errors="replace") for path in (study.runs / ".submitit").rglob("*_log.*")]
    timed_out = sum("timed-out" in line for text in texts for line in text.splitlines())
    end = study.ended(twin, f"submitit says {timed_out} times that time is up")
    end.note += "" if end.resumed and timed_out else "; NOT interrupted"
    return end


def costs(study: Study, twin: Study) -> Ended:
    """The costs of the rows are measured in a job of their own, on the node."""
    study.call(*SLURM)
    jobs = study.runs / ".submitit" / "jobs.json"
    queued = len(json.loads(jobs.read_text()))
    rows = json.loads((study.folder / "experiments" / "check" / "records" / "costs.json").read_text())
    threads = {row["threads"] for row in rows.values()}
    study.call(*SLURM)
    again = len(json.loads(jobs.read_text()))
    note = f"{queued - 2} job, {len(rows)} rows, threads {threads}; {again - queued} more in the next call"
    note += "" if (queued, len(rows), threads, again) == (3, 2, {1}, 3) else "; NOT so"
    return study.ended(twin, note)


CASES: dict[str, Callable[[Study, Study], Ended]] = {
    "undisturbed": undisturbed,
    "scancel": cancelled,
    "requeue": queued_again,
    "SIGUSR1": warned,
    "SIGUSR2": lambda study, twin: warned(study, twin, "USR2"),
    "preempted": preempted,
    "vanished": vanished,
    "left": left,
    "train.py, SIGUSR1": batch,
    "costs": costs,
    "two tasks": two_tasks,
    "time up": time_up,
}


def main(names: list[str]) -> int:
    """Run cases, print their table; gives the exit code."""
    console = Console(width=120)
    twin = Study("local")
    began = time.monotonic()
    twin.call("hydra.launcher.threads=1")
    table = Table("case", "exit codes", "continued", "equal to local", "seconds", "")
    table.add_row("local", "0" if twin.calls == [0] else str(twin.calls), "0", "", f"{time.monotonic() - began:.0f}", "")
    good = len(twin.outcome()) == 2
    for name in names or CASES:
        began, study = time.monotonic(), Study(name.replace(" ", "").replace(",", "-"))
        try:
            end = CASES[name](study, twin)
            right = end.equal and end.calls[-1] == 0 and "NOT" not in end.note and "HIDES" not in end.note
            words = ("bitwise" if end.equal else "NO", end.note)
        except (TimeoutError, subprocess.SubprocessError, OSError) as error:
            end, right, words = Ended(study.calls, 0, False), False, ("NO", f"{type(error).__name__}: {error}")
        good &= right
        seconds = f"{time.monotonic() - began:.0f}"
        table.add_row(name, ", ".join(map(str, end.calls)), str(end.resumed), words[0], seconds, words[1])
        print(f"{name}: {'as it should be' if right else 'NOT as it should be'}, {seconds} s", flush=True)
        subprocess.run(["scancel", "--user=root"], capture_output=True)
    console.print(table)
    asked = (SCRATCH / "sacct.calls").read_text().count("\n") if (SCRATCH / "sacct.calls").exists() else 0
    console.print(f"{shell('sinfo', '--version').strip()}; without accounting; sacct was asked {asked} times")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
