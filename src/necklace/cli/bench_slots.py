"""A study in two slots against bare training processes, two at a time, of the same runs."""

import statistics
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from necklace.cli.bench_machine import Machine
from necklace.cli.bench_processes import NECKLACE, records_of, timed, words_of, write_study
from necklace.cli.bench_report import Report

SLOTS = 2
ONE_THREAD = {"OMP_NUM_THREADS": "1"}
# Some seconds of training on one core, over all of the folder's test images.
RUN = {
    "+recipe": "cifar10_fast",
    "backbone.width": 16,
    "data.train_images": 4000,
    "epochs": 2,
    "schedule.warmup_epochs": 1,
    "trainer.precision": "32-true",
    "logger": "none",
}
TRAINING, RUNS, LAST, ALL, STARTS = (
    "training: sum of fit_seconds / 2",
    "runs, from the first one's start to the last one's record; bare: sum of wall_seconds / 2",
    "all, from the command to the last record",
    "all, from the command to its end",
    "of it, beside the runs; bare: imports, config, data and end of each process, sum / 2",
)


def slots(report: Report, root: Path, runs: int, rounds: int) -> None:
    """Time both in turn, after a run that decodes the images for all.

    Args:
        report: Where the table goes.
        root: Image folder with train/CLASS/*.jpg and test/CLASS/*.jpg, such as CIFAR-10's.
        runs: Runs of a study, an even number.
        rounds: Studies, and as many rounds of bare processes; the table shows medians.
    """
    machine = Machine(SLOTS)
    config = RUN | {"data.root": str(root.absolute())}
    studies, bare = [], []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        timed([*NECKLACE, "train", *words_of(config), "study=first"], folder, ONE_THREAD)
        for number in range(rounds):
            for way in (studies, bare) if number % 2 == 0 else (bare, studies):
                measure = _study if way is studies else _bare
                way.append(measure(folder, f"{measure.__name__[1:]}{number}", runs, config))
    rows = []
    for what in (TRAINING, RUNS, LAST, ALL, STARTS):
        own, other = ([one[what] for one in way] for way in (studies, bare))
        loss = statistics.median(100 * (1 - b / a) for a, b in zip(own, other, strict=True))
        rows.append([what, statistics.median(own), statistics.median(other), None if what == STARTS else loss])
    columns = {
        "wall-clock s": "",
        f"ablate.py, {SLOTS} slots": ".1f",
        f"{SLOTS} bare processes": ".1f",
        "loss of throughput %": ".1f",
    }
    notes = [f"runs: {' '.join(words_of(RUN))}, one thread each"]
    report.write(f"{runs} runs in two slots, median of {rounds} rounds in turn", columns, rows, machine, notes)


def _study(folder: Path, name: str, runs: int, config: dict[str, Any]) -> dict[str, float]:
    """Seconds of a study in two slots."""
    write_study(folder, name, runs, {"neck": "none"}, config)
    command = [*NECKLACE, "ablate", name, f"hydra.launcher.slots={SLOTS}", "hydra.launcher.threads=1"]
    began = time.time()
    whole, _ = timed(command, folder, ONE_THREAD)
    records = records_of(folder, name)
    first = min(record["written"] - record["wall_seconds"] for record in records)
    last = max(record["written"] for record in records)
    return {TRAINING: _training(records), RUNS: last - first, LAST: last - began, ALL: whole, STARTS: whole - (last - first)}


def _bare(folder: Path, name: str, runs: int, config: dict[str, Any]) -> dict[str, float]:
    """Seconds of the same runs as processes of their own, as `xargs -P 2` starts them."""
    command = [*NECKLACE, "train", *words_of(config), f"study={name}"]
    began, began_wall = time.time(), time.perf_counter()
    with ThreadPoolExecutor(SLOTS) as pool:
        processes = list(pool.map(lambda seed: timed([*command, f"seed={seed}"], folder, ONE_THREAD)[0], range(runs)))
    whole = time.perf_counter() - began_wall
    records = records_of(folder, name)
    alone = sum(record["wall_seconds"] for record in records) / SLOTS
    last = max(record["written"] for record in records) - began
    return {TRAINING: _training(records), RUNS: alone, LAST: last, ALL: whole, STARTS: sum(processes) / SLOTS - alone}


def _training(records: Sequence[dict[str, Any]]) -> float:
    return sum(record["fit_seconds"] for record in records) / SLOTS
