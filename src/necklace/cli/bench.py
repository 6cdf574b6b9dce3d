"""Measure speed: necklace bench necks, start, train, data, studies, peer, records, gates or loader."""

import argparse
import shlex
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

from rich.console import Console

from necklace.cli.stopping import ENDED, at_once


def main(arguments: list[str] | None = None) -> None:
    """Parse the command and run the benchmark; the others are not imported."""
    parser = _parser()
    parsed = parser.parse_args(arguments)
    if any(count < 100 or count % 100 for count in getattr(parsed, "counts", ())):
        parser.error(f"--counts {' '.join(map(str, parsed.counts))}: must be hundreds, such as 1000")
    if parsed.benchmark == "necks":
        _necks(parser, parsed, sys.argv[1:] if arguments is None else arguments, Console())
        return
    try:
        _measure(parsed, Console())
    except RuntimeError as error:  # the machine is busy
        sys.exit(f"error: {error}")


def _measure(parsed: argparse.Namespace, console: Console) -> None:
    if parsed.benchmark == "loader":
        _imported("bench_loader").loader(parsed.root, parsed.size, parsed.batch_size, parsed.workers, parsed.rounds, console)
    elif parsed.benchmark == "studies":
        _imported("bench_studies").studies(parsed.runs, parsed.cold, console)
    elif parsed.benchmark == "start":
        _imported("bench_start").start(parsed.rounds, console)
    elif parsed.benchmark == "data":
        _imported("bench_data").data(parsed.root, parsed.rounds, console)
    elif parsed.benchmark == "train":
        _imported("bench_train").train(parsed.batch_size, parsed.rounds, parsed.chunk, console)
    elif parsed.benchmark == "records":
        _imported("bench_records").records(parsed.counts, console)
    elif parsed.benchmark == "peer":
        _imported("bench_peer").peer(parsed.root, parsed.epochs, parsed.seeds, console)
    else:
        _imported("bench_gates").gates(parsed.batch_size, parsed.every, parsed.rounds, console)


def _imported(name: str) -> Any:
    """A module of a benchmark. Some imports below it would swallow Ctrl-C, so it ends the process there and then."""
    with at_once(ENDED):
        return import_module(f"necklace.cli.{name}")


def _necks(parser: argparse.ArgumentParser, parsed: argparse.Namespace, arguments: list[str], console: Console) -> None:
    if parsed.rounds < 2:
        parser.error(f"--rounds {parsed.rounds}: must be at least 2, for quartiles")
    with at_once(ENDED):
        import torch

    if parsed.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: this machine has no CUDA device that torch can use")
    with at_once(ENDED):
        from necklace.cli.bench_necks import necks
        from necklace.cli.bench_timing import TooBusyError

    command = shlex.join(["necklace", "bench", *arguments[arguments.index("necks") :]])
    try:
        necks(parsed.sizes, parsed.dtypes, torch.device(parsed.device), parsed.rounds, parsed.out, command, console)
    except TooBusyError as error:
        sys.exit(str(error))


def _map_size(text: str) -> tuple[int, ...]:
    """A map's size such as 16x256x20x20."""
    parts = text.split("x")
    if len(parts) != 4 or not all(part.isascii() and part.isdigit() and int(part) >= 1 for part in parts) or int(parts[1]) < 2:
        raise argparse.ArgumentTypeError(f"{text}: must be images, channels (at least 2), height and width, as in 16x256x20x20")
    return tuple(map(int, parts))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="necklace bench", description="Measure speed; start, data and train write into experiments/benchmarks/."
    )
    benchmarks = parser.add_subparsers(dest="benchmark", required=True)
    loader = benchmarks.add_parser(
        "loader", help="batches in memory against ImageFolder with PIL and workers, over whole epochs"
    )
    loader.add_argument("--root", type=Path, required=True, help="image folder with train/CLASS/*.jpg")
    loader.add_argument("--size", type=int, default=32)
    loader.add_argument("--batch-size", type=int, default=128)
    loader.add_argument("--workers", type=int, default=2)
    loader.add_argument("--rounds", type=int, default=1, help="measured epochs of each kind, after one to warm up")
    necks = benchmarks.add_parser("necks", help="time and memory of the necks beside their plain forms and timm's")
    sizes = [(16, 256, 20, 20), (128, 256, 8, 8), (128, 64, 8, 8)]
    necks.add_argument("--sizes", type=_map_size, nargs="+", default=sizes, metavar="BxCxHxW", help="maps")
    necks.add_argument("--dtypes", nargs="+", default=["float32"], choices=["float32", "bfloat16"], help="bfloat16: autocast")
    necks.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    necks.add_argument("--rounds", type=int, default=15, help="measured rounds of all ways in turn")
    necks.add_argument(
        "--out", type=Path, default=Path("experiments/benchmarks/necks"), help="folder of table, CSV and picture"
    )
    studies = benchmarks.add_parser("studies", help="a study of short runs against their training time, and cold processes")
    studies.add_argument("--runs", type=int, default=30)
    studies.add_argument("--cold", type=int, default=5, help="cold processes to measure; the mean stands for all runs")
    records = benchmarks.add_parser("records", help="plan and table of finished studies, by their number of runs")
    records.add_argument("--counts", type=int, nargs="+", default=[1000, 2500, 5000], metavar="N", help="hundreds")
    gates = benchmarks.add_parser("gates", help="the cost of recording a focal neck's gates, against an epoch's time")
    gates.add_argument("--batch-size", type=int, default=64)
    gates.add_argument("--every", type=int, default=5, help="epochs from pass to pass, as callbacks.gates")
    gates.add_argument("--rounds", type=int, default=20)
    peer = benchmarks.add_parser("peer", help="a study of four necks against a plain Lightning and Hydra multirun, wall-clock")
    peer.add_argument("--root", type=Path, required=True, help="CIFAR-10 as an image folder")
    peer.add_argument("--epochs", type=int, default=6)
    peer.add_argument("--seeds", type=int, default=3)
    start = benchmarks.add_parser("start", help="CPU time of answers, of the first step, and of a process's end")
    start.add_argument("--rounds", type=int, default=5)
    data = benchmarks.add_parser("data", help="an image folder, until it is ready: in the first run and in later ones")
    data.add_argument("--root", type=Path, required=True, help="image folder with train/CLASS/*.jpg")
    data.add_argument("--rounds", type=int, default=3)
    train = benchmarks.add_parser("train", help="CPU time of a training step beside the model")
    train.add_argument("--batch-size", type=int, default=8)
    train.add_argument("--rounds", type=int, default=20, help="chunks of each kind; the table shows medians")
    train.add_argument("--chunk", type=int, default=50, help="steps of a chunk")
    return parser


if __name__ == "__main__":
    main()
