"""A study of four necks and three seeds against the same study as a plain Lightning and Hydra multirun."""

import shutil
import statistics
import sys
import tempfile
from pathlib import Path

from necklace.cli.bench_machine import CORES, Machine
from necklace.cli.bench_processes import NECKLACE, records_of, timed, write_study
from necklace.cli.bench_report import Report

NECKS = ("none", "spp", "sppf", "focal")
SCRIPT = Path(__file__).with_name("bench_peer_script.py")
COUNTS = {"train": 400, "val": 50, "test": 100}  # images of each class


def peer(report: Report, root: Path, epochs: int, seeds: int) -> None:
    """Time both, one after the other, each in processes of its own.

    Args:
        report: Where the table goes.
        root: Image folder with train/CLASS/*.jpg and test/CLASS/*.jpg, such as CIFAR-10's.
        epochs: Epochs of each run.
        seeds: Seeds of each neck.
    """
    machine = Machine(CORES)
    with tempfile.TemporaryDirectory() as scratch:
        images = Path(scratch) / "images"
        count = subset(root, images)
        own, own_accuracy = _necklace(Path(scratch), images, epochs, seeds)
        usual, usual_accuracy = _peer(Path(scratch), images, epochs, seeds)
    runs = len(NECKS) * seeds
    rows = [
        ["ablate.py, to the report", own, own / runs, own_accuracy, 1.0],
        ["Lightning and Hydra multirun", usual, usual / runs, usual_accuracy, usual / own],
    ]
    columns = {"": "", "wall-clock s": ".0f", "s a run": ".1f", "mean test accuracy": ".3f", "ratio": ".2f"}
    report.write(f"{runs} runs of {epochs} epochs, {count} images", columns, rows, machine)


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
    overrides = {"data": "folder", "data.root": str(images), "epochs": epochs, "logger": "csv"}
    write_study(scratch, "peer", seeds, {"neck": list(NECKS)}, overrides)
    seconds, _ = timed([*NECKLACE, "ablate", "peer"], scratch)
    return seconds, statistics.mean(record["metrics"]["test/acc"] for record in records_of(scratch, "peer"))


def _peer(scratch: Path, images: Path, epochs: int, seeds: int) -> tuple[float, float]:
    """Seconds of the multirun, and the mean accuracy on test."""
    options = [f"root={images}", f"epochs={epochs}", f"neck={','.join(NECKS)}", f"seed={','.join(map(str, range(seeds)))}"]
    seconds, _ = timed([sys.executable, str(SCRIPT), "-m", *options, f"hydra.sweep.dir={scratch}/multirun"], scratch)
    return seconds, statistics.mean(float(path.read_text()) for path in scratch.glob("multirun/*/test_acc.txt"))
