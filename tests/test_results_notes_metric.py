# The runs made here have what may be missing elsewhere.
# pyright: reportOptionalMemberAccess=false, reportArgumentType=false
from dataclasses import replace

import numpy as np
import pytest

from necklace.results.analysis import analyse
from necklace.study.rules import Rules, Setting
from tests.conftest import synthetic_record
from tests.synthetic import ROWS, SEEDS, synthetic_run, synthetic_runs, synthetic_study, with_classes


def test_the_majority_class_and_models_that_predict_one_class_are_said() -> None:
    assert not [note for note in analyse(synthetic_study()).notes if "class" in note]  # of records that do not know
    runs = [with_classes(run, [190, 10, 0], [180, 5, 0], [185, 10, 5]) for run in synthetic_runs()]
    for number in (3, 5):  # spp, seeds 0 and 2
        runs[number] = with_classes(runs[number], [190, 10, 0], [190, 0, 0], [200, 0, 0])
    runs[6] = with_classes(runs[6], [190, 10, 0], [0, 0, 0], [0, 0, 200])  # takes all for a class that test does not show
    runs[7] = synthetic_run("sppf", 1)  # of an earlier version
    said = [note for note in analyse(synthetic_study(runs)).notes if "class" in note]
    assert said == [
        "Majority class: 95.0 % of the test images are of class a. "
        "A model that takes all images for it has this accuracy, and a balanced accuracy of 50.0 %.",
        "Balanced accuracy is over the 2 of 3 classes that test shows; it shows none of c.",
        "spp, seeds 0, 2: every test image is taken for class a.",
        "sppf, seed 0: every test image is taken for class c.",
    ]


@pytest.mark.parametrize(("counts", "said"), [([60, 40, 0], True), ([55, 45, 0], False)])
def test_a_majority_class_is_one_that_has_clearly_more_than_the_others(counts: list[int], said: bool) -> None:
    runs = [with_classes(run, counts, counts, counts) for run in synthetic_runs()]
    notes = analyse(synthetic_study(runs)).notes
    assert any(note.startswith("Majority class") for note in notes) == said
    assert sum("it shows none of" in note for note in notes) == 1


def test_a_mean_over_some_classes_says_over_which() -> None:
    runs = synthetic_runs()
    for run in runs:
        run.record.metrics.update({"test/map": 0.5, "test/ap/cat": 0.4, "test/ap/cow": 0.6})
        run.record.data["classes"] = ["cat", "cow", "yak"]
    sentence = "test/map is the mean over 2 of 3 classes: no test image shows yak."
    notes = analyse(synthetic_study(runs, metric="test/map")).notes
    assert notes.count(sentence) == 1
    assert not any("mean over" in note for note in analyse(synthetic_study(runs)).notes)
    for run in runs:
        run.record.metrics["test/ap/yak"] = 0.5
    assert not any("mean over" in note for note in analyse(synthetic_study(runs, metric="test/map")).notes)


def test_rows_with_no_room_to_differ_are_named() -> None:
    def notes(most: dict[str, int], margin: float) -> list[str]:
        runs = [
            replace(run, record=synthetic_record(ROWS[run.row][0], run.seed, np.arange(200) < most.get(run.row, 100)))
            for run in (synthetic_run(row, seed) for row in ROWS for seed in SEEDS)
        ]
        study = replace(synthetic_study(runs), rules=Rules((Setting("fixed", margin, 0.05),)))
        return [note for note in analyse(study).notes if "can be reached" in note]

    said = (
        "focal, focal_level=1; focal, focal_level=2: within 1 point of the most that can be reached, so these data cannot tell "
    )
    near = {"focal, focal_level=1": 200, "focal, focal_level=2": 199}
    assert notes(near, 1) == [said + "which of them is better."]
    assert notes(near, 0.5) == []  # one of them is half a point from it
    assert notes({"focal, focal_level=1": 200}, 1) == []
    assert not [note for note in analyse(synthetic_study()).notes if "can be reached" in note]  # without a margin
