"""Seconds of a study of short runs beside their training, and against a cold process for each run."""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

# About two seconds of training a run on two cores, of few images: drawing them takes 0.7 ms each and is no training.
SHORT = {
    "data": "context",
    "data.source.train": 200,
    "data.source.test": 50,
    "backbone.width": 32,
    "epochs": 3,
    "logger": "none",
}
NECKLACE = ("-m", "necklace.cli.main")


def studies(runs: int, cold: int, console: Console) -> None:
    """Compare a study of short runs, one slot, with their training time and with a cold `necklace train` for each.

    Args:
        runs: Runs of the study.
        cold: Cold processes to measure; their mean stands for all runs.
        console: Where to print the table.
    """
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "experiments" / "short"
        folder.mkdir(parents=True)
        study = {"question": "What does a run cost beside its training?", "baseline": "none", "seeds": list(range(runs))}
        study |= {"overrides": SHORT, "rows": [{"neck": "none"}]}
        (folder / "study.yaml").write_text(json.dumps(study))  # JSON is YAML

        def timed(*command: str) -> float:
            started = time.perf_counter()
            subprocess.run([sys.executable, *command], cwd=scratch, check=True, stdout=subprocess.DEVNULL)
            return time.perf_counter() - started

        start = timed("-c", "import necklace.run.runner")
        began = time.time()
        study_seconds = timed(*NECKLACE, "ablate", "short", "hydra.launcher.slots=1")
        paths = list(Path(scratch).glob("outputs/short/*/record.json"))
        runs_seconds = max(path.stat().st_mtime for path in paths) - began
        records = [json.loads(path.read_text()) for path in paths]
        fits = sum(record["fit_seconds"] for record in records)
        own = [f"{key}={value}" for key, value in SHORT.items()]
        alone = [timed(*NECKLACE, "train", *own, "study=cold", f"seed={seed}") for seed in range(cold)]
    cold_seconds = statistics.mean(alone) * runs
    table = Table("", "seconds", title=f"{runs} runs of {fits / runs:.1f} s of training, one slot")
    table.add_row("training, summed over the runs", f"{fits:.0f}")
    table.add_row("one cold start (imports)", f"{start:.1f}")
    table.add_row("necklace ablate, plan to the last run", f"{runs_seconds:.0f}")
    table.add_row("necklace ablate, plan to report, costs measured", f"{study_seconds:.0f}")
    table.add_row(f"cold necklace train for each ({cold} measured)", f"{cold_seconds:.0f}")
    table.add_section()
    table.add_row("(to the last run - cold start) / training", f"{(runs_seconds - start) / fits:.2f}")
    table.add_row("(to the report - cold start) / training", f"{(study_seconds - start) / fits:.2f}")
    table.add_row("study / cold processes", f"{study_seconds / cold_seconds:.2f}")
    console.print(table)
