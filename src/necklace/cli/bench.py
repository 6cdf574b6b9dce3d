"""Measure speed, as ratios taken in one process: necklace bench loader --root DIR, or studies, records or gates."""

import argparse
from pathlib import Path

from rich.console import Console


def main(arguments: list[str] | None = None) -> None:
    """Parse the command and run the benchmark; the others are not imported."""
    parser = _parser()
    parsed = parser.parse_args(arguments)
    console = Console()
    if parsed.benchmark == "loader":
        from necklace.cli.bench_loader import loader

        loader(parsed.root, parsed.size, parsed.batch_size, parsed.workers, parsed.rounds, console)
    elif parsed.benchmark == "studies":
        from necklace.cli.bench_studies import studies

        studies(parsed.runs, parsed.cold, console)
    elif parsed.benchmark == "records":
        if any(count < 100 or count % 100 for count in parsed.counts):
            parser.error(f"--counts {' '.join(map(str, parsed.counts))}: must be hundreds, such as 1000")
        from necklace.cli.bench_records import records

        records(parsed.counts, console)
    elif parsed.benchmark == "peer":
        from necklace.cli.bench_peer import peer

        peer(parsed.root, parsed.epochs, parsed.seeds, console)
    else:
        from necklace.cli.bench_gates import gates

        gates(parsed.batch_size, parsed.every, parsed.rounds, console)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="necklace bench", description="Ratios of speed, each measured in turn within one process."
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
    return parser


if __name__ == "__main__":
    main()
