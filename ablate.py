"""Print the table of a set of runs: python ablate.py --from outputs/demo."""

import argparse
import sys
from pathlib import Path

from rich.console import Console

from necklace.figures import draw_curves, draw_sizes
from necklace.table import read_cells, run_table


def main() -> None:
    """Read the runs below a folder and print their table; exit code 1 if one of them failed or is unfinished."""
    parser = argparse.ArgumentParser(description="A table of runs, from their records.")
    parser.add_argument("--from", dest="root", type=Path, required=True, metavar="DIR", help="such as outputs/demo")
    parser.add_argument("--curves", type=Path, metavar="FILE", help="also draw val accuracy by epoch, as .png, .svg or .pdf")
    parser.add_argument("--sizes", type=Path, metavar="FILE", help="also draw the test metric by size of the test images")
    parser.add_argument("--metric", default="acc", help="acc (the default) or map")
    arguments = parser.parse_args()
    root = arguments.root
    try:
        cells = read_cells(root)
        if arguments.curves:
            draw_curves(cells, arguments.curves, f"val/{arguments.metric}")
        if arguments.sizes:
            draw_sizes(cells, arguments.sizes, f"test/{arguments.metric}")
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
