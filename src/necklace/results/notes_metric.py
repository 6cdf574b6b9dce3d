"""The sentences below a study's table on what its metric cannot show."""

from collections.abc import Sequence

from necklace.results.results import Row
from necklace.study.store import StudyRecords


def metric_notes(study: StudyRecords, rows: Sequence[Row]) -> list[str]:
    """Of which classes a mean is, what a model that has learnt nothing would reach, and where rows have no room to differ.

    Args:
        study: The study and its runs.
        rows: The rows of its results.
    """
    return [*_averaged_classes(study), *_majority(rows), *_one_class(rows), *_ceiling(study, rows)]


def _averaged_classes(study: StudyRecords) -> list[str]:
    """Over how many classes a mean of average precisions goes, where not all of them are in test."""
    kind = "test/ap" if study.info.metric.startswith("test/map") else "test/box_ap"
    if not study.info.metric.startswith(("test/map", "test/box_map")):
        return []
    notes: dict[str, None] = {}
    for run in study.runs:
        if run.record is not None and study.info.metric in run.record.metrics:
            classes, metrics = run.record.data.get("classes", []), run.record.metrics
            absent = [name for name in classes if f"{kind}/{name}" not in metrics]
            if absent:
                listed = f"{', '.join(absent[:5])}{f' and {len(absent) - 5} more' if len(absent) > 5 else ''}"
                averaged = f"{len(classes) - len(absent)} of {len(classes)} classes"
                notes[f"{study.info.metric} is the mean over {averaged}: no test image shows {listed}."] = None
    return list(notes)


def _majority(rows: Sequence[Row]) -> list[str]:
    """What an accuracy is to be held against: the share of the majority class; and which classes no test image shows."""
    found = set()
    for record in (run.record for row in rows for run in row.runs if run.record):
        if record.data.get("predicted", {}).get("test"):
            found.add((record.majority() or ("", 0.0), tuple(record.untested()), len(record.data["classes"])))
    notes = []
    for (name, share), untested, classes in sorted(found):
        shown = classes - len(untested)
        if share:
            notes.append(
                f"Majority class: {100 * share:.1f} % of the test images are of class {name}. A model that takes all images "
                f"for it has this accuracy, and a balanced accuracy of {100 / shown:.1f} %."
            )
        if untested:
            few = ", ".join(untested[:5]) + (f" and {len(untested) - 5} more" if len(untested) > 5 else "")
            notes.append(f"Balanced accuracy is over the {shown} of {classes} classes that test shows; it shows none of {few}.")
    return notes


def _one_class(rows: Sequence[Row]) -> list[str]:
    """The runs whose model takes every test image for one class."""
    found: dict[tuple[str, str], list[str]] = {}
    for run in (run for row in rows for run in row.runs if run.record):
        if run.record and (name := run.record.only_prediction()) is not None:
            found.setdefault((run.row, name), []).append(str(run.seed))
    return [
        f"{row}, seed{'s' * (len(seeds) > 1)} {', '.join(seeds)}: every test image is taken for class {name}."
        for (row, name), seeds in found.items()
    ]


def _ceiling(study: StudyRecords, rows: Sequence[Row]) -> list[str]:
    """The rows that are so near to the metric's maximum that no other row could be better by a margin that matters."""
    if study.rules is None or study.info.baseline is None:
        return []
    margin = study.rules.settings[-1].margin
    near = [row.name for row in rows if row.summary and row.summary.n > 1 and 100 * (1 - row.summary.mean) < margin]
    if len(near) < 2:
        return []
    points = f"{margin:g} point{'s' * (margin != 1)}"
    return [
        f"{'; '.join(near)}: within {points} of the most that can be reached, so these data cannot tell "
        "which of them is better."
    ]
