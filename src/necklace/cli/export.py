"""Write a finished run's model for other programs: necklace export outputs/STUDY/RUN --format onnx."""

import argparse
import sys
from pathlib import Path

from necklace.cli.errors import EXPECTED, line_of
from necklace.cli.stopping import ENDED, at_once

FORMATS = ("onnx", "torchscript", "safetensors")


def main(arguments: list[str] | None = None) -> None:
    """Write the file and its JSON, and print how far its predictions are from the model's."""
    parser = argparse.ArgumentParser(
        prog="necklace export",
        description="Write a finished run's model to a file, and FILE.json with its pre-processing, classes and origin. The"
        " file is compared with the model on images of the run: a difference above 1e-4 is an error, and leaves no file.",
    )
    parser.add_argument("run", type=Path, help="the run's folder, outputs/STUDY/RUN")
    parser.add_argument(
        "--format", required=True, choices=("onnx", "torchscript", "safetensors"), help="safetensors: weights alone"
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="the file; without it, model.onnx, .pt or .safetensors in RUN")
    parser.add_argument("--trust", metavar="DIR", help="folder of your own classes that the run uses; their code runs")
    given = parser.parse_args(arguments)
    # Here, not to explain the command, as torch takes its time.
    with at_once(ENDED):  # some of these would swallow Ctrl-C
        from necklace.inference import load
        from necklace.inference.export import export_run

    try:
        for line in export_run(load(given.run, given.trust), given.format, given.out):
            print(line)
    except EXPECTED as error:
        sys.exit(line_of(error))
