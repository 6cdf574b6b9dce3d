"""runs.csv of a study: one line for each run."""

import csv
import io
from typing import Any

from necklace.guard.text import printable
from necklace.record import Record
from necklace.study.store import StudyRecords


def runs_csv(study: StudyRecords) -> str:
    """One line for each run, finished or not."""
    names = sorted({name for run in study.runs if run.record for name in run.record.metrics})
    options = list(dict.fromkeys(key for run in study.runs for key in run.choice))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["row", "seed", *options, "run", "state", *names, *_OF_A_RECORD, "failure"])
    for run in study.runs:
        start = [run.row, run.seed, *(run.choice.get(key, "") for key in options), run.name, run.state]
        if run.record is None:
            writer.writerow([*start, *[""] * (len(names) + len(_OF_A_RECORD)), run.failure or ""])
        else:
            metrics = (run.record.metrics.get(name, "") for name in names)
            writer.writerow([*start, *metrics, *_of_a_record(run.record), ""])
    return printable(text.getvalue())


_OF_A_RECORD = ("best_epoch", "epochs", "steps", "params", "macs", "neck_params", "neck_macs", "fit_seconds", "images_per_s")
_OF_A_RECORD += ("weights_hash", "git_sha", "git_dirty")


def _of_a_record(record: Record) -> list[Any]:
    """The values of the columns `_OF_A_RECORD`; the best epoch counts from 1."""
    git, neck = record.git or {"sha": "", "dirty": ""}, record.cost["neck"]
    return [
        record.best_epoch + 1,
        record.epochs,
        record.steps,
        record.total("params"),
        record.total("macs"),
        neck["params"],
        neck["macs"],
        f"{record.fit_seconds:.1f}",
        f"{record.images_per_s:.1f}",
        record.weights_hash,
        git["sha"],
        git["dirty"],
    ]
