"""Seconds until an image folder is ready to train on: in the first run, in later ones, and without the cache."""

import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console

from necklace.cli.bench_report import Benchmark

# Reads a folder and its digests, as a run does; prints wall and CPU seconds, and the number of images.
CHILD = """
import sys, time
import torch
from necklace.build import forget_data
from necklace.data.splits import splits_of
import json, necklace.data.folder
torch.set_num_threads(1)
source = {"_target_": "necklace.data.folder.Folder", "root": sys.argv[1], "cache": sys.argv[2] or None}
wall, cpu = time.perf_counter(), time.process_time()
splits = splits_of(json.dumps({"source": source}))
splits.digest
print(time.perf_counter() - wall, time.process_time() - cpu, sum(len(one) for one in splits.images.values()))
"""


def data(root: Path, rounds: int, console: Console) -> None:
    """Measure processes that read a folder, in turn.

    Args:
        root: Image folder with train/CLASS/*.jpg.
        rounds: Processes of each kind; the table shows medians.
        console: Where to print the table.
    """
    benchmark = Benchmark("data", console)
    found: dict[str, list[tuple[float, float]]] = {"first run": [], "later run": [], "data.cache=null": []}
    images = 0
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as cache:
            for name, place in zip(found, (cache, cache, ""), strict=True):
                command = [sys.executable, "-c", CHILD, str(root), place]
                wall, cpu, count = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
                found[name].append((float(wall), float(cpu)))
                images = int(count)
    rows = [
        [name, *(f"{statistics.median(column):.2f}" for column in zip(*times, strict=True))] for name, times in found.items()
    ]
    benchmark.write(f"seconds until {images:,} images are ready, median of {rounds}", ("what", "wall s", "CPU s"), rows)
