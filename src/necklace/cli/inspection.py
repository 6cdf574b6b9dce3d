"""Look into a finished run without training it again: necklace inspect outputs/STUDY/RUN."""

import argparse
import sys
from pathlib import Path

from necklace.cli.errors import EXPECTED, error_line
from necklace.cli.stopping import ENDED, at_once
from necklace.guard.console import Console


def main(arguments: list[str] | None = None) -> None:
    """Draw the pictures into the run's folder and print their numbers; or change its neck and print what that costs."""
    parser = argparse.ArgumentParser(
        prog="necklace inspect",
        description="Draw a finished run's receptive field, gates and confusion matrix, or the boxes that it finds and their"
        " errors, into its pictures/, with their numbers.",
    )
    parser.add_argument("folder", type=Path, help="the run's folder, outputs/STUDY/RUN")
    parser.add_argument("--trust", metavar="DIR", help="folder of your own classes that the run uses; their code runs")
    parser.add_argument(
        "--knockout",
        action="store_true",
        help="draw nothing; instead silence each level and pool of the neck on val, or replace it by its mean, or shuffle its"
        " gates, and say what the metric loses (knockout.json)",
    )
    given = parser.parse_args(arguments)
    console = Console(soft_wrap=True, highlight=False)
    try:
        for line in _knocked_out(given) if given.knockout else _drawn(given):
            console.print(line, markup=False)
    except EXPECTED as error:
        sys.exit(error_line(error))


def _drawn(given: argparse.Namespace) -> list[str]:
    with at_once(ENDED):  # some of these would swallow Ctrl-C
        from necklace.diagnostics.pictures import draw_run  # not to explain the command, as torch takes its time

    return draw_run(given.folder, given.trust)


def _knocked_out(given: argparse.Namespace) -> list[str]:
    with at_once(ENDED):
        from necklace.diagnostics.knockout import knock_out_run
        from necklace.diagnostics.knockout_table import knockout_lines
        from necklace.guard.targets import check_targets, trusted
        from necklace.inference.trained_run import check_hashes, finished_record
        from necklace.run.afterwards import monitor_of

    record = finished_record(given.folder)
    check_targets(record.config, given.trust)  # before the task's class is asked for its metric
    check_hashes(record, given.folder)
    with trusted(given.trust):
        metric = monitor_of(record)
    return knockout_lines(knock_out_run(given.folder, metric, given.trust))
