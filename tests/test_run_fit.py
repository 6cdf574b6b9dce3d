"""Imbalanced data, from the folder to the report: 95 % of the images are of one class."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from necklace.record import Record
from necklace.results.analysis import analyse
from necklace.results.report import report_html
from necklace.results.table import table_text
from necklace.results.verify import check_record
from necklace.run.runner import RunFailed, run
from necklace.study.adhoc import study_of_runs
from tests.conftest import SMALL, spec_of
from tests.test_run_runner import voc_folder

APART = 1.5  # standard deviations between the classes' mean brightness


def grey_folder(root: Path) -> Path:
    """400 training and 600 test images of 12 x 12, whose brightness alone hints at the class; 5 % are of class rare.

    The best balanced accuracy is that of the threshold halfway, 77 %. The best accuracy is that of a threshold far towards the
    rare class, which finds 11 % of it: a balanced accuracy of 56 %.
    """
    rng = np.random.default_rng(0)
    for split, count in (("train", 400), ("test", 600)):
        for name, share, level in (("common", 0.95, 100), ("rare", 0.05, 100 + 10 * APART)):
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(round(count * share)):
                pixels = rng.normal(rng.normal(level, 10), 10, (12, 12, 3)).clip(0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.png")
    return root


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return grey_folder(tmp_path_factory.mktemp("grey"))


def trained(folder: Path, outputs: Path, *options: str) -> Record:
    small = [text for text in SMALL if "data." not in text and not text.startswith(("batch_size", "epochs"))]
    data = ["data=folder", f"data.root={folder}", "data.size=12", "data.augment.flip=false", "data.augment.crop_padding=0"]
    data += ["data.mean=[0.4,0.4,0.4]", "data.std=[0.06,0.06,0.06]", "data.val_fraction=0.25"]
    return run(spec_of([*small, *data, f"outputs={outputs}", "batch_size=20", "epochs=6", "optimizer.lr=0.01", *options]))


def test_balance_raises_balanced_accuracy_and_record_table_and_report_say_so(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = trained(folder, tmp_path)
    printed = capsys.readouterr().out
    weighted = trained(folder, tmp_path, "task.class_weights=balanced")
    drawn = trained(folder, tmp_path, "data.sampler=balanced")
    balanced = [record.metrics["test/balanced_acc"] for record in (plain, weighted, drawn)]
    assert balanced[1] > balanced[0] + 0.1
    assert balanced[2] > balanced[0] + 0.1
    assert max(weighted.metrics["test/acc"], drawn.metrics["test/acc"]) < plain.metrics["test/acc"]

    assert plain.data["class_counts"] == {"train": [285, 15], "val": [95, 5], "test": [570, 30]}
    assert plain.majority() == ("common", 0.95)
    for record in (plain, weighted, drawn):
        by_class = [record.metrics[f"test/class_acc/{name}"] for name in ("common", "rare")]
        assert record.metrics["test/balanced_acc"] == pytest.approx(np.mean(by_class), abs=1e-6)
        assert record.metrics["test/acc"] == pytest.approx(0.95 * by_class[0] + 0.05 * by_class[1], abs=1e-6)
        assert sum(record.data["predicted"]["test"]) == 600
        assert record.train_images_left_out == 0
        assert check_record(record) == []
    # The rule of thumb on such data: 95 % right, and nothing learned.
    assert (plain.metrics["test/acc"], balanced[0], plain.only_prediction()) == (0.95, 0.5, "common")
    assert "majority class of test: common, 95.0 %; THE MODEL PREDICTS ONE CLASS: common" in printed
    assert "test/class_acc/rare" not in printed
    assert "test/balanced_acc 0.5" in printed

    results = analyse(study_of_runs(tmp_path / "runs", "test/balanced_acc"))
    table = table_text(results)
    assert table.headers[2] == "test/balanced_acc %"
    assert sorted(row[2] for row in table.rows) == sorted(f"{100 * value:.2f}" for value in balanced)
    assert any("95.0 % of the test images are of class common" in note and "50.0 %" in note for note in table.notes)
    (said,) = [note for note in table.notes if "is taken for class" in note]
    assert said.endswith(", seed 0: every test image is taken for class common.")
    assert "<td>30</td>" in report_html(results, table)
    of_rare = table_text(analyse(study_of_runs(tmp_path / "runs", "test/class_acc/rare")))
    assert sorted(row[2] for row in of_rare.rows) == sorted(
        f"{100 * record.metrics['test/class_acc/rare']:.2f}" for record in (plain, weighted, drawn)
    )


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("task.class_weights=[1,2,3]", r"task\.class_weights=\[1, 2, 3\]: must be null, balanced, or 2 positive"),
        ("task.class_weights=balance", r"task\.class_weights=balance: must be null, balanced"),
        ("task.monitor=val/f1", r"task\.monitor=val/f1: must be null"),
    ],
)
def test_a_wrong_option_is_refused_before_training(folder: Path, tmp_path: Path, option: str, words: str) -> None:
    with pytest.raises((ValueError, RunFailed), match=words):
        trained(folder, tmp_path, option)
    assert not list(tmp_path.rglob("history.csv"))


def test_a_sampler_that_is_not_known_is_refused_with_the_plan(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"data\.sampler=weighted: must be shuffle or balanced"):
        trained(folder, tmp_path, "data.sampler=weighted")
    assert [path.name for path in tmp_path.iterdir()] == ["cache"]  # decoded images, for any run


def test_with_several_labels_weights_count_and_a_sampler_is_refused(tmp_path: Path) -> None:
    root = voc_folder(tmp_path / "voc")
    small = [text for text in SMALL if "data." not in text and not text.startswith(("batch", "epochs"))]
    chosen = [*small, f"outputs={tmp_path}", "data=voc", "task=multilabel", f"data.root={root}", "batch_size=4", "epochs=1"]
    weights = ("null", "balanced", "[3,1]")
    plain, weighted, listed = (run(spec_of([*chosen, f"task.class_weights={value}"])) for value in weights)
    assert plain.initial_hash == weighted.initial_hash
    assert len({plain.weights_hash, weighted.weights_hash, listed.weights_hash}) == 3
    assert plain.data["class_counts"].keys() == {"train", "val", "test"}
    assert (plain.data["predicted"], plain.majority(), plain.only_prediction()) == ({}, None, None)
    with pytest.raises(ValueError, match=r"data\.sampler=balanced: images with several labels"):
        spec_of([*chosen, "data.sampler=balanced"])
