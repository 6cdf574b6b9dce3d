"""A study of four necks and three seeds against the same study as a plain Lightning and Hydra multirun."""

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console

from necklace.cli.bench_report import Benchmark

NECKS = ("none", "spp", "sppf", "focal")
SCRIPT = Path(__file__).with_name("bench_peer_script.py")
NECKLACE = ("-m", "necklace.cli.main")
COUNTS = {"train": 400, "val": 50, "test": 100}  # images of each class


def peer(root: Path, epochs: int, seeds: int, console: Console) -> None:
    """Time both, one after the other, each in processes of its own.

    Args:
        root: Image folder with train/CLASS/*.jpg and test/CLASS/*.jpg, such as CIFAR-10's.
        epochs: Epochs of each run.
        seeds: Seeds of each neck.
        console: Where to print the table.

    Raises:
        RuntimeError: The machine is busy.
    """
    cores = len(os.sched_getaffinity(0))
    benchmark = Benchmark("peer", console, f"{cores} of them used")
    with tempfile.TemporaryDirectory() as scratch:
        images = Path(scratch) / "images"
        count = subset(root, images)
        own, own_accuracy = _necklace(Path(scratch), images, epochs, seeds)
        usual, usual_accuracy = _peer(Path(scratch), images, epochs, seeds)
    runs = len(NECKS) * seeds
    rows = [
        ["ablate.py, to the report", f"{own:.0f}", f"{own / runs:.1f}", f"{own_accuracy:.3f}"],
        ["Lightning and Hydra multirun", f"{usual:.0f}", f"{usual / runs:.1f}", f"{usual_accuracy:.3f}"],
        ["ratio", f"{usual / own:.2f}", "", ""],
    ]
    title = f"{runs} runs of {epochs} epochs, {count} images"
    benchmark.write(title, ["", "wall-clock seconds", "a run", "mean test accuracy"], rows)


def subset(root: Path, target: Path) -> int:
    """Make a small folder of the first images of each class; val is taken from train, behind the training images.

    Returns:
        The number of training images.

    Raises:
        ValueError: A class has too few images.
    """
    for split, (source, first) in {"train": ("train", 0), "val": ("train", COUNTS["train"]), "test": ("test", 0)}.items():
        for folder in sorted(path for path in (root / source).iterdir() if path.is_dir()):
            files = sorted(folder.iterdir())[first : first + COUNTS[split]]
            if len(files) < COUNTS[split]:
                raise ValueError(f"--root {root}: {source}/{folder.name} has too few images for {first + COUNTS[split]}")
            place = target / split / folder.name
            place.mkdir(parents=True)
            for file in files:
                shutil.copy(file, place)
    return sum(1 for _ in (target / "train").glob("*/*"))


def _necklace(scratch: Path, images: Path, epochs: int, seeds: int) -> tuple[float, float]:
    """Seconds of the study, and the mean accuracy on test."""
    folder = scratch / "experiments" / "peer"
    folder.mkdir(parents=True)
    study = {"question": "Which neck?", "baseline": "none", "seeds": list(range(seeds)), "rows": [{"neck": list(NECKS)}]}
    study["overrides"] = {"data": "folder", "data.root": str(images), "epochs": epochs, "logger": "csv"}
    (folder / "study.yaml").write_text(json.dumps(study))  # JSON is YAML
    seconds = _timed([sys.executable, *NECKLACE, "ablate", "peer"], scratch)
    records = [json.loads(path.read_text()) for path in scratch.glob("outputs/peer/*/record.json")]
    return seconds, statistics.mean(record["metrics"]["test/acc"] for record in records)


def _peer(scratch: Path, images: Path, epochs: int, seeds: int) -> tuple[float, float]:
    """Seconds of the multirun, and the mean accuracy on test."""
    options = [f"root={images}", f"epochs={epochs}", f"neck={','.join(NECKS)}", f"seed={','.join(map(str, range(seeds)))}"]
    seconds = _timed([sys.executable, str(SCRIPT), "-m", *options, f"hydra.sweep.dir={scratch}/multirun"], scratch)
    return seconds, statistics.mean(float(path.read_text()) for path in scratch.glob("multirun/*/test_acc.txt"))


def _timed(command: list[str], folder: Path) -> float:
    started = time.perf_counter()
    ended = subprocess.run(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False)
    if ended.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with exit code {ended.returncode}:\n{ended.stderr[-2000:]}")
    return time.perf_counter() - started
