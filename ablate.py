"""Print the table of a set of runs: python ablate.py --from outputs/demo."""

import argparse
import sys
from pathlib import Path

from rich.console import Console

from necklace.figures import draw_curves
from necklace.table import read_cells, run_table


def main() -> None:
    """Read the runs below a folder and print their table; exit code 1 if one of them failed or is unfinished."""
    parser = argparse.ArgumentParser(description="A table of runs, from their records.")
    parser.add_argument("--from", dest="root", type=Path, required=True, metavar="DIR", help="such as outputs/demo")
    parser.add_argument("--curves", type=Path, metavar="FILE", help="also draw val accuracy by epoch, as .png, .svg or .pdf")
    arguments = parser.parse_args()
    root = arguments.root
    try:
        cells = read_cells(root)
        if arguments.curves:
            draw_curves(cells, arguments.curves)
    except (OSError, ValueError) as error:
        sys.exit(f"error: {error}")
    Console().print(run_table(cells, str(root)))
    lost = [cell for cell in cells if cell.record is None]
    for cell in lost:
        print(f"{cell.folder}: {cell.failure or 'unfinished'}", file=sys.stderr)
    if lost:
        sys.exit(1)


if __name__ == "__main__":
    main()
