"""Predict images with a finished run: necklace predict outputs/STUDY/RUN photo.jpg folder/."""

import argparse
import sys
from pathlib import Path

from necklace.atomic import write_whole
from necklace.cli.errors import EXPECTED, line_of
from necklace.cli.stopping import ENDED, at_once

FORMATS = ("csv", "json")


def main(arguments: list[str] | None = None) -> None:
    """Write the predictions, and say on stderr which images could not be read; then the exit code is 1."""
    parser = argparse.ArgumentParser(
        prog="necklace predict",
        description="Predict images with a finished run: the predicted class and the probability of each class, or the boxes of"
        " a run that finds objects. Images may have any size; they are brought to the run's as its test images were. An image"
        " that cannot be read is named on stderr, the others are predicted, and the exit code is 1.",
    )
    parser.add_argument("run", type=Path, help="the run's folder, outputs/STUDY/RUN")
    parser.add_argument("images", nargs="+", help="image files, and folders of them")
    parser.add_argument("--format", choices=FORMATS, help="csv or json; without it, the ending of --out decides, else csv")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write here instead of to the screen")
    parser.add_argument("--score", type=float, metavar="S", help="lowest score of a box, 0 to 1; without it 0.3")
    parser.add_argument("--device", default="cpu", help="cpu (the default), cuda, ...")
    parser.add_argument("--trust", metavar="DIR", help="folder of your own classes that the run uses; their code runs")
    given = parser.parse_args(arguments)
    form = given.format or (given.out.suffix.removeprefix(".").lower() if given.out else "csv")
    if form not in FORMATS:
        sys.exit(f"error: --out={given.out}: must end in .csv or .json, or come with --format")
    if given.out and given.out.is_dir():
        sys.exit(f"error: --out={given.out}: is a folder, and must be a file")
    if given.out and not given.out.parent.is_dir():
        sys.exit(f"error: --out={given.out}: there is no folder {given.out.parent}")
    # Here, not to explain the command, as torch takes its time.
    with at_once(ENDED):  # some of these would swallow Ctrl-C
        from necklace.inference import load
        from necklace.inference.box_prediction import LEAST, boxes_predicted
        from necklace.inference.prediction import predicted

    try:
        run = load(given.run, given.trust)
        try:
            run.model.to(given.device)
        except (RuntimeError, AssertionError) as error:  # torch's, on a device that it does not know or that is not there
            raise ValueError(f"--device={given.device}: {str(error).splitlines()[0]}") from error
        if given.score is not None and not run.model.dense:
            raise ValueError(
                f"--score={given.score:g}: only where a run finds boxes; this one gives a probability of each class"
            )
        if run.model.dense:
            predictions = boxes_predicted(run, given.images, LEAST if given.score is None else given.score)
        else:
            predictions = predicted(run, given.images)
        text = predictions.text(form)
        if given.out:
            write_whole(given.out, text)
        else:
            print(text, end="")
    except EXPECTED as error:
        sys.exit(line_of(error))
    for line in predictions.passed_over:
        print(f"note: {line}", file=sys.stderr)
    for name, reason in predictions.problems.items():
        print(f"error: {name}: {reason}", file=sys.stderr)
    if given.out:
        print(f"{given.out}: {len(predictions.names)} images, {len(predictions.classes)} classes", file=sys.stderr)
    if predictions.problems:
        sys.exit(1)
