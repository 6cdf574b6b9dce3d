from pathlib import Path

import numpy as np
import pytest

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
    assert made.info.rows == ("none", "spp", "sppf", "focal_focal_level-1", "focal_focal_level-2", "conv", "dw")
    assert made.info.baseline is None
    assert [run.state for run in made.runs] == ["done"] * 15 + ["failed", "missing"]
    assert made.runs[15].failure == "ValueError: no"
    assert made.runs[0].curve["val/acc"]
    assert made.info.seeds == SEEDS


def test_rows_of_one_name_that_are_not_the_same_are_told_apart(tmp_path: Path) -> None:
    for override in ("batch_size=16", "batch_size=32"):
        write_synthetic(synthetic_record(["neck=none", override], 0, np.ones(8, bool)), tmp_path)
    assert len(study_of_runs(tmp_path, "test/acc").info.rows) == 2


def test_a_folder_without_runs_or_without_the_metric_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="holds no runs"):
        study_of_runs(tmp_path, "test/acc")
    folder = write_synthetic(synthetic_record(["neck=spp"], 0, np.ones(8, bool)), tmp_path)
    with pytest.raises(ValueError, match="no run has the metric test/map; there are: test/acc"):
        study_of_runs(tmp_path, "test/map")
    (folder / "record.json").write_text("{}")
    with pytest.raises(ValueError, match=str(folder)):
        study_of_runs(tmp_path, "test/acc")
