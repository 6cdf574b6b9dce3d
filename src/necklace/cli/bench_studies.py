"""Seconds of a study of short runs beside their training, and against a cold process for each run."""

import statistics
import sys
import tempfile
import time
from pathlib import Path

from necklace.cli.bench_machine import CORES, Machine
from necklace.cli.bench_processes import NECKLACE, records_of, timed, words_of, write_study
from necklace.cli.bench_report import Report

# About two seconds of training a run on two cores, of few images: drawing them takes 0.7 ms each and is no training.
SHORT = {
    "data": "context",
    "data.source.train": 200,
    "data.source.test": 50,
    "backbone.width": 32,
    "epochs": 3,
    "logger": "none",
}


def studies(report: Report, runs: int, cold: int) -> None:
    """Compare a study of short runs, one slot, with their training time and with a cold `necklace train` for each.

    Args:
        report: Where the table goes.
        runs: Runs of the study.
        cold: Cold processes to measure; their mean stands for all runs.
    """
    machine = Machine(CORES)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write_study(folder, "short", runs, {"neck": "none"}, SHORT)
        start, _ = timed([sys.executable, "-c", "import necklace.run.runner"], folder)
        began = time.time()
        to_report, _ = timed([*NECKLACE, "ablate", "short", "hydra.launcher.slots=1"], folder)
        records = records_of(folder, "short")
        to_last = max(record["written"] for record in records) - began
        fits = sum(record["fit_seconds"] for record in records)
        train = [*NECKLACE, "train", *words_of(SHORT), "study=cold"]
        alone = runs * statistics.mean(timed([*train, f"seed={seed}"], folder)[0] for seed in range(cold))
    rows = [
        ["training, summed over the runs", fits, 1.0, fits / alone],
        ["one cold start (imports)", start, None, None],
        ["necklace ablate, plan to the last run", to_last, (to_last - start) / fits, to_last / alone],
        ["necklace ablate, plan to report, costs measured", to_report, (to_report - start) / fits, to_report / alone],
        [f"a cold necklace train for each, {cold} measured", alone, (alone - runs * start) / fits, 1.0],
    ]
    columns = {"": "", "s": ".1f", "without cold starts / training": ".2f", "/ cold processes": ".2f"}
    report.write(f"{runs} runs of {fits / runs:.1f} s of training, one slot", columns, rows, machine)
