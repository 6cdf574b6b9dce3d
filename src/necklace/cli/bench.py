"""Measure speed: necklace bench necks, start, train, data, studies, slots, peer, records, gates or loader."""

import argparse
import shlex
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

from rich.console import Console

from necklace.cli.errors import EXPECTED
from necklace.cli.stopping import ENDED, at_once

# Where tables are kept, below the working directory.
RESULTS = Path("experiments") / "benchmarks"
DESCRIPTION = """Measure speed. Each benchmark prints a table and writes it into a folder; command, machine, versions,
allocator and load are at its head. Where other programs need the cores that it measures on, it writes nothing and ends with
exit code 1."""


def main(arguments: list[str] | None = None) -> None:
    """Parse the command and run the benchmark: the function of its name in its module; the others are not imported."""
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = _parser()
    given = vars(parser.parse_args(arguments))
    _check(parser, given)
    name, out = given.pop("benchmark"), given.pop("out")
    with at_once(ENDED):  # some of these would swallow Ctrl-C
        from necklace.cli.bench_report import Report

        measure = getattr(import_module(f"necklace.cli.bench_{name}"), name)
    report = Report(out or RESULTS / name, shlex.join(["necklace", "bench", *arguments]), Console())
    try:
        measure(report, **given)
    except EXPECTED as error:
        sys.exit(f"error: bench {name}: {error}")


def _check(parser: argparse.ArgumentParser, given: dict[str, Any]) -> None:
    """Refuse numbers that a benchmark cannot work with."""
    if any(count < 100 or count % 100 for count in given.get("counts", ())):
        parser.error(f"--counts {' '.join(map(str, given['counts']))}: must be hundreds, such as 1000")
    if given.get("workers", 0) < 0:
        parser.error(f"--workers {given['workers']}: must be at least 0")
    if given["benchmark"] == "necks" and given["rounds"] < 2:
        parser.error(f"--rounds {given['rounds']}: must be at least 2, for quartiles")
    if given["benchmark"] == "slots" and given["runs"] % 2:
        parser.error(f"--runs {given['runs']}: must be even, as two are trained at a time")


def _map_size(text: str) -> tuple[int, ...]:
    """A map's size such as 16x256x20x20."""
    parts = text.split("x")
    if len(parts) != 4 or not all(part.isascii() and part.isdigit() and int(part) >= 1 for part in parts) or int(parts[1]) < 2:
        raise argparse.ArgumentTypeError(f"{text}: must be images, channels (at least 2), height and width, as in 16x256x20x20")
    return tuple(map(int, parts))


def _count(text: str) -> int:
    """A whole number from 1."""
    if not (text.isascii() and text.isdigit() and int(text)):
        raise argparse.ArgumentTypeError(f"{text}: must be a whole number from 1")
    return int(text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="necklace bench", description=DESCRIPTION)
    benchmarks = parser.add_subparsers(dest="benchmark", required=True)
    loader = benchmarks.add_parser(
        "loader", help="batches in memory against ImageFolder with PIL and workers, over whole epochs"
    )
    loader.add_argument("--root", type=Path, required=True, help="image folder with train/CLASS/*.jpg")
    loader.add_argument("--size", type=_count, default=32)
    loader.add_argument("--batch-size", type=_count, default=128)
    loader.add_argument("--workers", type=int, default=2)
    loader.add_argument("--rounds", type=_count, default=1, help="measured epochs of each kind, after one to warm up")
    necks = benchmarks.add_parser("necks", help="time and memory of the necks beside their plain forms and timm's")
    sizes = [(16, 256, 20, 20), (128, 256, 8, 8), (128, 64, 8, 8)]
    necks.add_argument("--sizes", type=_map_size, nargs="+", default=sizes, metavar="BxCxHxW", help="maps")
    necks.add_argument("--dtypes", nargs="+", default=["float32"], choices=["float32", "bfloat16"], help="bfloat16: autocast")
    necks.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    necks.add_argument("--rounds", type=_count, default=15, help="measured rounds of all ways in turn")
    studies = benchmarks.add_parser("studies", help="a study of short runs against their training time, and cold processes")
    studies.add_argument("--runs", type=_count, default=30)
    studies.add_argument("--cold", type=_count, default=5, help="cold processes to measure; the mean stands for all runs")
    slots = benchmarks.add_parser("slots", help="a study in two slots against bare training processes, two at a time")
    slots.add_argument("--root", type=Path, required=True, help="CIFAR-10 as an image folder")
    slots.add_argument("--runs", type=_count, default=6, help="runs of a study, an even number")
    slots.add_argument("--rounds", type=_count, default=2, help="studies, and rounds of bare processes, in turn")
    records = benchmarks.add_parser("records", help="plan and table of finished studies, by their number of runs")
    records.add_argument("--counts", type=int, nargs="+", default=[1000, 2500, 5000], metavar="N", help="hundreds")
    gates = benchmarks.add_parser("gates", help="the cost of recording a focal neck's gates, against an epoch's time")
    gates.add_argument("--batch-size", type=_count, default=64)
    gates.add_argument("--every", type=_count, default=5, help="epochs from pass to pass, as callbacks.gates")
    gates.add_argument("--rounds", type=_count, default=20)
    peer = benchmarks.add_parser("peer", help="a study of four necks against a plain Lightning and Hydra multirun, wall-clock")
    peer.add_argument("--root", type=Path, required=True, help="CIFAR-10 as an image folder")
    peer.add_argument("--epochs", type=_count, default=6)
    peer.add_argument("--seeds", type=_count, default=3)
    start = benchmarks.add_parser("start", help="CPU time of answers, of the first step, and of a process's end")
    start.add_argument("--rounds", type=_count, default=5)
    data = benchmarks.add_parser("data", help="an image folder, until it is ready: in the first run and in later ones")
    data.add_argument("--root", type=Path, required=True, help="image folder with train/CLASS/*.jpg")
    data.add_argument("--rounds", type=_count, default=3)
    train = benchmarks.add_parser("train", help="CPU time of a training step beside the model")
    train.add_argument("--batch-size", type=_count, default=8)
    train.add_argument("--rounds", type=_count, default=20, help="chunks of each kind; the table shows medians")
    train.add_argument("--chunk", type=_count, default=50, help="steps of a chunk")
    for name, one in benchmarks.choices.items():
        one.add_argument("--out", type=Path, help=f"folder of table.md and table.csv; {RESULTS / name} if not given")
    return parser


if __name__ == "__main__":
    main()
