"""Draw a finished run without training it again: python inspect_run.py outputs/STUDY/CELL."""

import argparse
import sys
from pathlib import Path

from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console

from necklace.pictures import draw_cell


def main() -> None:
    """Draw the pictures into the run's folder and say what they show."""
    parser = argparse.ArgumentParser(
        description="Draw a finished run's receptive field, gates and confusion matrix into its pictures/, with their numbers."
    )
    parser.add_argument("folder", type=Path, help="the run's folder, outputs/STUDY/CELL")
    folder = parser.parse_args().folder
    console = Console(soft_wrap=True, highlight=False)
    try:
        for line in draw_cell(folder):
            console.print(line, markup=False)
    except (OSError, ValueError, RuntimeError, HydraException, OmegaConfBaseException) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
