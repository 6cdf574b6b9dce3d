"""Measure and draw the contexts of finished runs: necklace contexts outputs/STUDY/RUN... --out FILE.png."""

import argparse
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from necklace.atomic import write_whole
from necklace.cli.errors import EXPECTED, error_line
from necklace.cli.stopping import ENDED, at_once
from necklace.guard.console import Console


def main(arguments: list[str] | None = None) -> None:
    """Write the figure, and its numbers beside it as JSON."""
    parser = argparse.ArgumentParser(
        prog="necklace contexts",
        description="Measure, on val, how large each context of finished runs' focal layers is before and after training, and"
        " the label's share of the pooled features' variance. Runs that differ in the seed only share a row.",
    )
    parser.add_argument("runs", type=Path, nargs="+", help="folders of runs, outputs/STUDY/RUN; without focal layers as well")
    parser.add_argument("--out", type=Path, default="contexts.png", help="the figure, .png; the numbers go beside it, .json")
    parser.add_argument("--trust", metavar="DIR", help="folder of your own classes that the runs use; their code runs")
    given = parser.parse_args(arguments)
    console = Console(soft_wrap=True, highlight=False)
    with at_once(ENDED):
        from necklace.diagnostics.context_sizes import context_sizes, draw_context_sizes  # not to explain the command
        from necklace.inference.trained_run import open_run
        from necklace.plotting import saved

    try:
        if given.out.suffix != ".png":
            raise ValueError(f"--out={given.out}: must end in .png")
        found, rows = [], []
        for folder in given.runs:
            run = open_run(folder, given.trust)
            sizes = context_sizes(run)
            row = re.sub(r"_s\d+_[0-9a-f]{10}$", "", run.record.name)
            rows.append((row, sizes))
            found.append({"run": run.record.name, "row": row, "weights_hash": run.record.weights_hash, **sizes})
            for name, layer in sizes["layers"].items():
                for stage, values in layer.items():
                    shown = ", ".join(f"{context} {value:.3g}" for context, value in values["contexts"].items())
                    console.print(f"{run.record.name}: {name} {stage}: {shown}, h.bias {values['h.bias']}", markup=False)
            for part, stages in sizes["label_share"].items():
                shown = ", ".join(f"{stage} {value:.1%}" for stage, value in stages.items())
                console.print(f"{run.record.name}: label's share after the {part}: {shown}", markup=False)
        short = short_names([row for row, _ in rows])
        figure = draw_context_sizes([(name, sizes) for name, (_, sizes) in zip(short, rows, strict=True)])
        given.out.parent.mkdir(parents=True, exist_ok=True)
        write_whole(given.out, saved(figure, "contexts", "png"))
        write_whole(given.out.with_suffix(".json"), json.dumps({"runs": found}, indent=1, allow_nan=False) + "\n")
        console.print(f"{given.out}, {given.out.with_suffix('.json')}", markup=False)
    except EXPECTED as error:
        sys.exit(error_line(error))


def short_names(names: Sequence[str]) -> list[str]:
    """The names without what they all begin and end with, as far as the underscores go."""
    whole = {name: name.split("_") for name in names}
    first, least = next(iter(whole.values())), min(map(len, whole.values()))
    front = back = 0
    while len(whole) > 1 and front < least - 1 and all(parts[front] == first[front] for parts in whole.values()):
        front += 1
    while len(whole) > 1 and front + back < least - 1 and all(parts[-back - 1] == first[-back - 1] for parts in whole.values()):
        back += 1
    return ["_".join(parts[front : len(parts) - back]) for parts in map(whole.__getitem__, names)]
