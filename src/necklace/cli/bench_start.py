"""CPU seconds of what a user waits for beside training: an answer, the first step, the end of the process."""

import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from necklace.cli.bench_machine import Machine
from necklace.cli.bench_report import Report

# What is asked, with the command line after `necklace`.
ANSWERS: dict[str, tuple[str, ...]] = {
    "train --help": ("train", "--help"),
    "ablate --help": ("ablate", "--help"),
    "a misspelt option": ("train", "nekc=focal"),
    "a choice that is not there": ("train", "neck=focl"),
    "a config that lacks a value": ("train", "data=folder"),
    "a value of the wrong kind": ("train", "epochs=ten"),
    "a study that is not there": ("ablate", "no_such_study"),
}
STUDY = "eight"
STUDY_FILE = """
question: How long does the plan of a finished study take?
baseline: none
seeds: [0, 1]
overrides: {data: context, epochs: 1, +trainer.limit_train_batches: 2, logger: none}
rows:
  - {neck: [none, sppf, focal]}
  - {neck: conv, match: params, to: sppf}
"""
# Runs a command as train.py and ablate.py do; says how much CPU time it has taken at an optimizer's first step, and at its end.
CHILD = """
import sys, time

def say(what):
    print(f"{what} {time.process_time()}", file=sys.stderr, flush=True)

class Watch:
    def find_spec(self, name, path=None, target=None):
        if name == "pytorch_lightning.trainer":
            sys.meta_path.remove(self)
            from torch.optim.optimizer import register_optimizer_step_post_hook
            def first(*_):
                handle.remove()
                say("FIRST")
            handle = register_optimizer_step_post_hook(first)

sys.meta_path.insert(0, Watch())
from necklace.cli.stopping import stop_at_once
stop_at_once()
from necklace.cli.main import main
try:
    main()
finally:
    say("END")
"""


def start(report: Report, rounds: int) -> None:
    """Measure cold processes, in turn.

    The default run draws its images where no run before it has drawn them: that is a row of its own. The finished study is
    one of eight runs, trained here.

    Args:
        report: Where the table goes.
        rounds: Processes of each kind; the table shows medians.
    """
    machine = Machine()
    seconds: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        study = Path(scratch, "experiments", STUDY)
        study.mkdir(parents=True)
        (study / "study.yaml").write_text(STUDY_FILE)
        _process(("ablate", STUDY), scratch)
        for number in range(rounds):
            for name, command in ANSWERS.items():
                seconds.setdefault(name, []).append(_process(command, scratch)["ALL"])
            seconds.setdefault("plan of a finished study", []).append(_process(("ablate", STUDY, "--plan"), scratch)["ALL"])
            for name in ("default run, images not drawn yet", "default run"):
                new = [f"outputs=new{number}"] if "not drawn" in name else []
                at = _process(("train", "epochs=1", f"seed={number}", "+trainer.limit_train_batches=2", *new), scratch)
                seconds.setdefault(f"first step of the {name}", []).append(at["FIRST"])
            seconds.setdefault("end of its process", []).append(at["ALL"] - at["END"])
    rows = [[name, statistics.median(some), min(some)] for name, some in seconds.items()]
    columns = {"what": "", "median s": ".2f", "least s": ".2f"}
    report.write(f"CPU seconds of a cold process, of {rounds} each", columns, rows, machine)


def _process(command: Sequence[str], folder: str) -> dict[str, float]:
    """CPU seconds of a process at its first step and at its end, where it has them, and of all of it."""
    environment = os.environ | {"WANDB_MODE": "offline", "OMP_NUM_THREADS": "1"}
    with (Path(folder) / "errors").open("w+") as errors:
        process = subprocess.Popen(
            [sys.executable, "-c", CHILD, *command], cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=errors
        )
        _, _, used = os.wait4(process.pid, 0)
        process.returncode = 0  # it is waited for already
        errors.seek(0)
        said = [line.split() for line in errors if line.startswith(("FIRST ", "END "))]
    return {what: float(at) for what, at in said} | {"ALL": used.ru_utime + used.ru_stime}
