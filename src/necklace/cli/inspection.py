"""Draw a finished run without training it again: necklace inspect outputs/STUDY/RUN."""

import argparse
import sys
from pathlib import Path

from rich.console import Console

from necklace.cli.errors import EXPECTED, line_of
from necklace.cli.stopping import ENDED, at_once


def main(arguments: list[str] | None = None) -> None:
    """Draw the pictures into the run's folder and print their numbers."""
    parser = argparse.ArgumentParser(
        prog="necklace inspect",
        description="Draw a finished run's receptive field, gates and confusion matrix, or the boxes that it finds and their"
        " errors, into its pictures/, with their numbers.",
    )
    parser.add_argument("folder", type=Path, help="the run's folder, outputs/STUDY/RUN")
    parser.add_argument("--trust", metavar="DIR", help="folder of your own classes that the run uses; their code runs")
    given = parser.parse_args(arguments)
    console = Console(soft_wrap=True, highlight=False)
    with at_once(ENDED):  # some of these would swallow Ctrl-C
        from necklace.diagnostics.pictures import draw_run  # not to explain the command, as torch takes its time

    try:
        for line in draw_run(given.folder, given.trust):
            console.print(line, markup=False)
    except EXPECTED as error:
        sys.exit(line_of(error))
