from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from necklace.results.analysis import analyse
from necklace.results.table import table_text
from necklace.study.adhoc import study_of_runs
from tests.conftest import synthetic_record, write_synthetic
from tests.synthetic import ROWS, SEEDS


def test_any_set_of_runs_is_a_table(tmp_path: Path) -> None:
    for row in ROWS:
        for seed in SEEDS:
            overrides, params = ROWS[row]
            write_synthetic(synthetic_record(overrides, seed, np.arange(20) < 9 + seed, params), tmp_path / "outputs" / "runs")
    failed = tmp_path / "outputs" / "runs" / "glyphs_cifar_resnet_conv_s1_0123456789"
    failed.mkdir()
    (failed / "config.yaml").write_text("seed: 1\n")
    (failed / "FAILED").write_text("Traceback\nValueError: no\n")
    begun = tmp_path / "outputs" / "runs" / "glyphs_cifar_resnet_dw_s0_0123456780"
    begun.mkdir()
    (begun / "config.yaml").write_text("seed: 0\n")
    (begun / "code").write_text("x")
    (begun / "wandb" / "files").mkdir(parents=True)
    (begun / "wandb" / "tmp" / "code").mkdir(parents=True)
    (begun / "wandb" / "files" / "config.yaml").write_text("wandb_version: 1\n")
    made = study_of_runs(tmp_path / "outputs", "test/acc")
    assert made.info.rows == ("none", "spp", "sppf", "focal, focal_level=1", "focal, focal_level=2", "conv", "dw")
    assert made.info.baseline is None
    assert [run.state for run in made.runs] == ["done"] * 15 + ["failed", "missing"]
    assert made.runs[15].failure == "ValueError: no"
    assert made.runs[0].curve["val/acc"]
    assert made.info.seeds == SEEDS


@pytest.mark.parametrize(
    ("runs", "rows"),
    [
        ([["batch_size=16"], ["batch_size=32"]], {"none, batch_size=16", "none, batch_size=32"}),
        (
            [["optimizer.lr=0.1"], ["backbone.depth=14"]],
            {"none, backbone.depth=8, lr=0.1", "none, backbone.depth=14, lr=0.003"},
        ),
        (
            [["backbone=resnet18"], ["backbone=resnet18", "backbone.name=resnet50"]],
            {"none, backbone=resnet18", "none, backbone=resnet50"},
        ),
        ([["neck=focal", "neck.focal_level=1"], ["neck=focal"], []], {"focal, focal_level=1", "focal, focal_level=2", "none"}),
        (
            [["data/sizes=native"], ["head=pyramid"]],
            {"none, data/sizes=native, head=gap", "none, data/sizes=fixed, head=pyramid"},
        ),
        ([["data.size=24"], ["data.size=32"]], {"none, data.size=24", "none, data.size=32"}),
        ([["epochs=3", "seed=1"], ["epochs=3", "seed=2"]], {"none"}),
    ],
)
def test_runs_that_differ_have_rows_that_say_in_what(tmp_path: Path, runs: list[list[str]], rows: set[str]) -> None:
    for number, overrides in enumerate(runs):
        seed = number if "seed" in str(overrides) else 0
        write_synthetic(synthetic_record(overrides, seed, np.ones(8, bool)), tmp_path)
    assert set(study_of_runs(tmp_path, "test/acc").info.rows) == rows


def test_runs_on_other_images_are_other_rows_also_where_the_config_is_the_same(tmp_path: Path) -> None:
    for letter in "ab":
        digest = {"train": letter * 64, "val": "c" * 64, "test": "d" * 64}
        write_synthetic(synthetic_record([], 0, np.ones(8, bool), digest=digest), tmp_path)
    assert set(study_of_runs(tmp_path, "test/acc").info.rows) == {"none, data 1", "none, data 2"}


def test_runs_under_the_names_of_earlier_code_are_told_apart_all_the_same(tmp_path: Path) -> None:
    for rate in (0.1, 0.2):
        record = synthetic_record([f"optimizer.lr={rate}"], 0, np.ones(8, bool))
        write_synthetic(replace(record, name=f"glyphs_cifar_resnet_none_s0_{record.hash}"), tmp_path)
    assert set(study_of_runs(tmp_path, "test/acc").info.rows) == {"none, lr=0.1", "none, lr=0.2"}


def test_a_run_without_a_record_is_in_the_row_of_its_finished_seeds(tmp_path: Path) -> None:
    for rate in (0.1, 0.2):
        write_synthetic(synthetic_record([f"optimizer.lr={rate}"], 0, np.ones(8, bool)), tmp_path)
    failed = tmp_path / synthetic_record(["optimizer.lr=0.2"], 1, np.ones(8, bool)).name
    failed.mkdir()
    (failed / "FAILED").write_text("ValueError: no\n")
    made = study_of_runs(tmp_path, None)
    assert made.info.metric == "test/acc"
    assert [(run.row, run.seed, run.state) for run in made.runs] == [
        ("none, lr=0.1", 0, "done"),
        ("none, lr=0.2", 0, "done"),
        ("none, lr=0.2", 1, "failed"),
    ]


def test_a_folder_without_runs_or_without_the_metric_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="holds no runs"):
        study_of_runs(tmp_path, "test/acc")
    write_synthetic(synthetic_record(["neck=spp"], 0, np.ones(8, bool)), tmp_path)
    with pytest.raises(ValueError, match="no run has the metric test/map; there are: test/acc"):
        study_of_runs(tmp_path, "test/map")


def test_a_damaged_record_is_set_aside_and_the_others_are_a_table(tmp_path: Path) -> None:
    records = [synthetic_record(["neck=spp"], seed, np.arange(8) < 4 + seed) for seed in range(5)]
    folders = [write_synthetic(record, tmp_path) for record in records]
    (folders[0] / "record.json").write_text("{}")
    (folders[1] / "record.json").write_bytes(b"")
    content = (folders[2] / "record.json").read_text()
    (folders[2] / "record.json").write_text(content.replace('"test/acc": 0.75', '"test/acc": 75.0'))
    (folders[3] / "history.csv").write_text("epoch,val/acc\n1,0.5\n2,0.")
    (folders[3] / "history.csv").write_bytes(b"epoch,val/acc\n1,0.\x00")
    made = study_of_runs(tmp_path, "test/acc")
    assert sorted((run.seed, run.state) for run in made.runs) == [(n, "damaged" if n < 4 else "done") for n in range(5)]
    table = table_text(analyse(made))
    assert any("4 of 5 runs are set aside: their records are damaged" in note for note in table.notes)
    for folder, words in zip(folders, ("schema: None", "not JSON", "metrics.test/acc: 75.0: must be a share"), strict=False):
        assert any(f"set aside: {folder / 'record.json'}: {words}" in note for note in table.notes)
    assert any(f"{folders[3] / 'history.csv'}: damaged" in note for note in table.notes)
