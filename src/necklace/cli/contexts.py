"""Measure and draw the contexts of finished runs: necklace contexts outputs/STUDY/RUN... --out FILE.png."""

import argparse
import json
import re
import sys
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
        common = _common([row for row, _ in rows])
        figure = draw_context_sizes([(row.removeprefix(common) or row, sizes) for row, sizes in rows])
        given.out.parent.mkdir(parents=True, exist_ok=True)
        write_whole(given.out, saved(figure, "contexts", "png"))
        write_whole(given.out.with_suffix(".json"), json.dumps({"runs": found}, indent=1, allow_nan=False) + "\n")
        console.print(f"{given.out}, {given.out.with_suffix('.json')}", markup=False)
    except EXPECTED as error:
        sys.exit(error_line(error))


def _common(names: list[str]) -> str:
    """What all names begin with, up to an underscore."""
    whole = [name.split("_") for name in dict.fromkeys(names)]
    shared = 0
    while len(whole) > 1 and all(len(parts) > shared + 1 and parts[shared] == whole[0][shared] for parts in whole):
        shared += 1
    return "".join(f"{part}_" for part in whole[0][:shared])
