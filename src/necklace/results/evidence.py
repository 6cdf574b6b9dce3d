"""The evidence of a study's runs: where their metrics on test come from, read, compared with their records, and resampled."""

from collections.abc import Sequence

import numpy as np

from necklace.boxes.bootstrap import paired_interval
from necklace.boxes.evidence import MEASURES, Evidence
from necklace.boxes.scores import SCORE_MEASURES, ScoreEvidence
from necklace.results.stats import Interval
from necklace.study.store import StudyRun

READERS = {"boxes": Evidence.load, "scores": ScoreEvidence.load}
# Metric of a class to the mean that it is a part of.
OF_A_CLASS = {"box_ap": "box_map", "box_ap50": "box_map50", "ap": "map"}


def read_evidence(run: StudyRun) -> Evidence | ScoreEvidence | None:
    """The evidence of a run; None where its record names none.

    Raises:
        FileNotFoundError: Its file is not there.
        ValueError: It is not the file that the run wrote, or of a kind that is not known here.
    """
    if run.record is None or run.record.evidence is None or run.evidence is None:
        return None
    about = run.record.evidence
    if about.get("kind") not in READERS:
        raise ValueError(f"{run.name}: evidence: {about.get('kind')!r}: must be {' or '.join(READERS)}")
    return READERS[about["kind"]](run.evidence, about.get("sha256"))


def check_evidence(run: StudyRun) -> list[str]:
    """The contradictions between a run's record and its evidence; every metric that the evidence gives is derived again."""
    record = run.record
    if record is None or record.evidence is None:
        return []
    try:
        evidence = read_evidence(run)
    except (FileNotFoundError, ValueError) as error:
        return [str(error)]
    if evidence is None:
        return ["its evidence is missing"]
    images = record.data["images"].get("test")
    if len(evidence) != images:
        return [f"its evidence is of {len(evidence)} images, but test has {images}"]
    try:
        derived = {f"test/{name}": value for name, value in evidence.metrics(record.data["classes"]).items()}
    except ValueError as error:
        return [f"its evidence: {error}"]
    # Average precision of boxes is logged as it was derived; that of scores was computed in float32, by torchmetrics.
    within = 0.0 if record.evidence["kind"] == "boxes" else 2e-6
    problems = []
    for name, value in derived.items():
        recorded = record.metrics.get(name)
        if recorded is None or not abs(recorded - _as_recorded(value)) <= within:
            problems.append(f"{name} is {recorded}, but its evidence gives {_as_recorded(value)}")
    start = "test/box_" if record.evidence["kind"] == "boxes" else ("test/map", "test/ap/")
    made_up = [name for name in record.metrics if name.startswith(start) and "@" not in name and name not in derived]
    return problems + [f"{name} is {record.metrics[name]}, but its evidence does not define it" for name in made_up]


def evidence_interval(
    row: Sequence[StudyRun], baseline: Sequence[StudyRun], metric: str, generator: np.random.Generator
) -> Interval | None:
    """95 % interval of the row's metric minus the baseline's for these weights, over test images; each of the same seeds.

    Args:
        row: The runs of a row.
        baseline: Those of the baseline.
        metric: Of the records, such as `test/box_map`.
        generator: For the resamples.

    Returns:
        None where the metric does not come from evidence, where no seed of both has any, or where no resample defines it.

    Raises:
        FileNotFoundError: A file of evidence is not there.
        ValueError: It is not the one that the run wrote.
    """
    found = [{run.seed: part for run in runs if (part := _measured(run, metric)) is not None} for runs in (row, baseline)]
    shared = [seed for seed in found[0] if seed in found[1]]
    if not shared:
        return None
    own, base = ([parts[seed][0] for seed in shared] for parts in found)
    ends = paired_interval(own, base, found[0][shared[0]][1], generator)
    return None if ends is None else Interval(*ends)


def _as_recorded(value: float) -> float:
    """A metric as a record has it: torch logs single precision, of which seven digits are kept."""
    return float(f"{float(np.float32(value)):.7g}")


class _OneClass:
    """The average precision of one class, as a mean over this class alone."""

    def __init__(self, evidence: Evidence | ScoreEvidence, number: int) -> None:
        self.evidence, self.number = evidence, number

    def __len__(self) -> int:
        return len(self.evidence)

    def precisions(self, metric: str, weights: np.ndarray | None = None) -> np.ndarray:
        """Average precisions [1, R]."""
        return self.evidence.precisions(metric, weights)[self.number : self.number + 1]


def _measured(run: StudyRun, metric: str) -> tuple[Evidence | ScoreEvidence | _OneClass, str] | None:
    """What a metric of a run can be resampled from, and its name there; None where it is not of this kind, or not defined."""
    name = metric.removeprefix("test/")
    kind, _, of = name.partition("/")
    if run.record is None or metric not in run.record.metrics:
        return None
    if OF_A_CLASS.get(kind, kind) not in (*MEASURES, *SCORE_MEASURES):
        return None
    evidence = read_evidence(run)
    if evidence is None or not of:
        return None if evidence is None else (evidence, name)
    return _OneClass(evidence, run.record.data["classes"].index(of)), OF_A_CLASS[kind]
