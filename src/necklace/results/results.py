"""The results of a study as plain values: rows of runs with their statistics. Tables, figures and the report show these."""

from collections.abc import Sequence
from dataclasses import dataclass

from necklace.results.stats import Difference, Interval, Summary
from necklace.results.verdicts import Verdict
from necklace.study.rules import Setting
from necklace.study.store import StudyInfo, StudyRun


@dataclass(frozen=True)
class RowCost:
    """Size, arithmetic and speed of a row's model.

    Attributes:
        params: Parameters in all.
        macs: Multiply-adds for one image in all.
        neck_params: Those of the neck.
        neck_macs: Those of the neck.
        latency_ms: Median time of a forward pass of one image, None where it was not measured.
        train_images_per_s: Training speed on an otherwise idle machine, None where it was not measured.
        peak_memory_mib: Peak memory of a process that trains it, None where it was not measured.
    """

    params: int
    macs: int
    neck_params: int
    neck_macs: int
    latency_ms: float | None
    train_images_per_s: float | None
    peak_memory_mib: float | None


@dataclass(frozen=True)
class Control:
    """A row against the matched row that has its neck's size.

    Attributes:
        name: Name of the matched row.
        difference: The row minus it, paired by seed.
        verdict: What can be said of it; None where nothing is decided.
    """

    name: str
    difference: Difference
    verdict: Verdict | None = None


@dataclass(frozen=True)
class SamePair:
    """The A/A pair: two rows that compute the same function from the same weights, so that they differ by numerical noise only.

    Attributes:
        first: Name of a row.
        second: Name of the other.
        gaps: Seed to the metric of the second minus that of the first; at least one.
        difference: The same over all seeds.
    """

    first: str
    second: str
    gaps: dict[int, float]
    difference: Difference


@dataclass(frozen=True)
class Row:
    """One row of the table. Metrics are shares in [0, 1].

    Attributes:
        name: Such as `focal, focal_level=2`.
        runs: One for each seed, finished or not, in order of seed.
        summary: Mean, standard deviation and number of the finished runs; None if there is none.
        difference: To the baseline, paired by seed; None for the baseline and where no seed is shared.
        p_holm: The difference's p value after Holm's correction over all rows but the baseline; None where it has no p value.
        images: Interval of the difference to the baseline for these weights, over images; None for the baseline and without
            shared test images.
        control: Against the matched row of its neck's size; None for matched rows, and where there is none.
        by_size: Side of the test images in pixels to the metric's mean over seeds, where the study tests several sizes.
        cost: None if no run finished.
        chosen: What was chosen for this row on val, such as `{"optimizer.lr": 0.003}`.
        verdict: What can be said of the difference to the baseline; None without one, and where nothing is decided.
    """

    name: str
    runs: tuple[StudyRun, ...]
    summary: Summary | None
    difference: Difference | None
    p_holm: float | None
    images: Interval | None
    control: Control | None
    by_size: dict[int, float]
    cost: RowCost | None
    chosen: dict[str, float | str]
    verdict: Verdict | None = None


@dataclass(frozen=True)
class Results:
    """All that a study's table, figures and report show.

    Attributes:
        study: What the study is.
        rows: In the study's order.
        noise: The baseline's standard deviation between seeds, or None with fewer than two.
        same: The A/A pair; None if the study names none, or if its rows cannot be compared, as a note then says.
        notes: Sentences below the table: allowed differences, missing runs, the limits of so few seeds.
        hardware: Where the runs were made, in words.
        commands: How to reproduce, a shell command each.
        setting: By which rule, margin and alpha its verdicts are; None where there are none.
        comparisons: How many comparisons the study ever made, those of rows that it no longer has included.
    """

    study: StudyInfo
    rows: tuple[Row, ...]
    noise: float | None
    same: SamePair | None
    notes: tuple[str, ...]
    hardware: str
    commands: tuple[str, ...]
    setting: Setting | None = None
    comparisons: int = 0

    @property
    def anytime(self) -> bool:
        """Whether the number of seeds may depend on the results, so that the intervals have to hold at any number."""
        return self.setting is not None and self.setting.rule == "anytime"


def metric_by_seed(runs: Sequence[StudyRun], metric: str) -> dict[int, float]:
    """Seed to value of a metric, of the runs that have it."""
    return {run.seed: run.record.metrics[metric] for run in runs if run.record and metric in run.record.metrics}
