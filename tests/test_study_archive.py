# The cells made here have what may be missing elsewhere.
# pyright: reportOptionalMemberAccess=false, reportOptionalSubscript=false, reportOptionalOperand=false
# pyright: reportArgumentType=false, reportOperatorIssue=false
import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from necklace.study.archive import read_archive, read_costs, read_pictures, read_thumbnails, write_archive
from necklace.study.runs import archive_of_runs
from tests.conftest import synthetic_record, write_synthetic
from tests.test_study_analysis import ROWS, SEEDS, archive
from tests.test_study_table import lossy


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    made = lossy()
    write_archive(made, tmp_path)
    assert read_archive(tmp_path) == made
    assert read_costs(tmp_path) == made.costs
    sizes = [path.stat().st_size for path in (tmp_path / "records").glob("*_s*.json")]
    assert len(sizes) == 13
    assert max(sizes) < 8_000


def test_records_of_cells_that_are_no_longer_asked_for_go(tmp_path: Path) -> None:
    made = archive()
    write_archive(made, tmp_path)
    write_archive(replace(made, rows=made.rows[:2], cells=made.cells[:6], same=None), tmp_path)
    assert len(list((tmp_path / "records").glob("*_s*.json"))) == 6


def test_pictures_of_a_rows_first_cell_are_kept_small(tmp_path: Path) -> None:
    folder = tmp_path / "cell"
    (folder / "pictures").mkdir(parents=True)
    assert read_pictures(folder) == read_thumbnails(folder) == {}
    numbers = {"receptive_field": {"mass": 0.95}, "contributions": {}, "confusion": {"counts": [[1]]}}
    (folder / "pictures" / "pictures.json").write_text(json.dumps(numbers))
    noise = np.random.default_rng(0).integers(0, 256, (600, 920, 3), np.uint8)
    for name in ("sizes", "gates_1", "gates_0", "receptive_field"):
        Image.fromarray(noise).save(folder / "pictures" / f"{name}.png")
    small = read_thumbnails(folder)
    assert list(small) == ["receptive_field", "gates_0", "gates_1"]
    for content in small.values():
        with Image.open(io.BytesIO(content)) as image:
            assert image.size == (440, 287)
    pictures = read_pictures(folder)
    assert pictures.keys() == {"receptive_field", "contributions"}
    cells = [replace(cell, pictures=pictures, thumbnails=small if cell.seed == 0 else {}) for cell in archive().cells]
    made = replace(archive(), cells=tuple(cells))
    write_archive(made, tmp_path)
    assert read_archive(tmp_path) == made
    assert list(read_archive(tmp_path).cells[0].thumbnails) == list(small)
    write_archive(archive(), tmp_path)
    assert not list((tmp_path / "records").glob("*.png"))


def test_an_unchanged_record_is_not_written_again(tmp_path: Path) -> None:
    write_archive(archive(), tmp_path)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "records").iterdir()}
    write_archive(archive(), tmp_path)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "records").iterdir()} == before


def test_a_damaged_archive_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no records yet"):
        read_archive(tmp_path)
    made = archive()
    write_archive(made, tmp_path)
    own = tmp_path / "records" / f"{made.cells[0].cell}.json"
    text = own.read_text()
    for damaged in (text[:-30], "{}", json.dumps({"record": {"schema": 1}, "curve": {}})):
        own.write_text(damaged)
        with pytest.raises(ValueError, match=own.name):
            read_archive(tmp_path)
    own.unlink()
    with pytest.raises(FileNotFoundError, match=own.name):
        read_archive(tmp_path)
    (tmp_path / "records" / "study.json").write_text("{}")
    with pytest.raises(ValueError, match=r"study\.json"):
        read_archive(tmp_path)


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
    made = archive_of_runs(tmp_path / "outputs", "test/acc")
    assert made.rows == ("none", "spp", "sppf", "focal_focal_level-1", "focal_focal_level-2", "conv", "dw")
    assert [c.state for c in made.cells] == ["done"] * 15 + ["failed", "missing"]
    assert made.cells[15].failure == "ValueError: no"
    assert made.cells[0].curve["val/acc"]
    assert made.seeds == SEEDS


def test_rows_of_one_name_that_are_not_the_same_are_told_apart(tmp_path: Path) -> None:
    for override in ("batch_size=16", "batch_size=32"):
        write_synthetic(synthetic_record(["neck=none", override], 0, np.ones(8, bool)), tmp_path)
    made = archive_of_runs(tmp_path, "test/acc")
    assert len(made.rows) == 2


def test_a_folder_without_runs_or_without_the_metric_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="holds no runs"):
        archive_of_runs(tmp_path, "test/acc")
    folder = write_synthetic(synthetic_record(["neck=spp"], 0, np.ones(8, bool)), tmp_path)
    with pytest.raises(ValueError, match="no run has the metric test/map; there are: test/acc"):
        archive_of_runs(tmp_path, "test/map")
    (folder / "record.json").write_text("{}")
    with pytest.raises(ValueError, match=str(folder)):
        archive_of_runs(tmp_path, "test/acc")
