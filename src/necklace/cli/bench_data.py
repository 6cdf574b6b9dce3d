"""Seconds until an image folder is ready to train on: in the first run, in later ones, and without the cache."""

import statistics
import sys
import tempfile
from pathlib import Path

from necklace.cli.bench_machine import Machine
from necklace.cli.bench_processes import timed
from necklace.cli.bench_report import Report

# Reads a folder and its digests, as a run does, which has imported Lightning (and so torchvision) by then; prints wall and CPU
# seconds, and the number of images.
CHILD = """
import json, sys, time
import torch
import necklace.data.datamodule, necklace.data.folder
from necklace.data.splits import splits_of
torch.set_num_threads(1)
source = {"_target_": "necklace.data.folder.Folder", "root": sys.argv[1], "cache": sys.argv[2] or None}
wall, cpu = time.perf_counter(), time.process_time()
splits = splits_of(json.dumps({"source": source}))
splits.digest
print(time.perf_counter() - wall, time.process_time() - cpu, sum(len(one) for one in splits.images.values()))
"""


def data(report: Report, root: Path, rounds: int) -> None:
    """Measure processes that read a folder, in turn.

    Args:
        report: Where the table goes.
        root: Image folder with train/CLASS/*.jpg.
        rounds: Processes of each kind; the table shows medians.
    """
    machine = Machine()
    found: dict[str, list[tuple[float, float]]] = {"first run": [], "later run": [], "data.cache=null": []}
    images = 0
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as cache:
            for name, place in zip(found, (cache, cache, ""), strict=True):
                _, output = timed([sys.executable, "-c", CHILD, str(root.absolute()), place], Path(cache))
                wall, cpu, count = output.split()
                found[name].append((float(wall), float(cpu)))
                images = int(count)
    rows = [[name, *(statistics.median(column) for column in zip(*times, strict=True))] for name, times in found.items()]
    columns = {"what": "", "wall s": ".2f", "CPU s": ".2f"}
    report.write(f"seconds until {images:,} images are ready, median of {rounds}", columns, rows, machine)
