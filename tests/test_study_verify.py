import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from necklace.study.archive import Archive, ArchivedCell, read_archive, read_curve
from necklace.study.fairness import Unfair
from necklace.study.verify import check_record, reproduce, verify, write_study
from tests.test_study_results import ROWS, SEEDS, archive, cell
from tests.test_study_table import lossy


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    write_study(lossy(), folder)
    return folder


@pytest.fixture
def folder(written: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(written, tmp_path / "study"))


def test_all_that_is_written_verifies(folder: Path) -> None:
    assert verify(read_archive(folder), folder) == []
    names = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert {"runs.csv", "table.md", "table.tex", "report.html", "figures/differences.json", "figures/differences.png"} <= names


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("table.md", "80.83", "80.93"),
        ("table.tex", "80.83", "81.83"),
        ("runs.csv", "0.825", "0.835"),
        ("figures/curves.json", "0", "1"),
        ("report.html", "80.83", "80.93"),
    ],
)
def test_a_number_that_was_tampered_with_fails(folder: Path, name: str, old: str, new: str) -> None:
    path = folder / name
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    problems = verify(read_archive(folder), folder)
    assert len(problems) == 1
    assert problems[0].startswith(name)


def test_a_record_that_was_tampered_with_fails(folder: Path) -> None:
    path = folder / "records" / "sppf_s1.json"
    content = json.loads(path.read_text())
    content["record"]["figures"]["test/acc"] = 0.99
    path.write_text(json.dumps(content))
    problems = verify(read_archive(folder), folder)
    assert any("sppf_s1: test/acc is 0.99, but 164 of 200 images were right" in problem for problem in problems)
    assert any(problem.startswith("table.md: ") for problem in problems)
    content["record"]["config"]["optimizer"]["lr"] = 1.0
    path.write_text(json.dumps(content))
    assert any("do not belong together" in problem for problem in verify(read_archive(folder), folder))


def test_what_is_missing_or_too_much_fails(folder: Path) -> None:
    (folder / "table.tex").unlink()
    (folder / "figures" / "params.png").unlink()
    (folder / "figures" / "made_up.json").write_text("{}")
    problems = verify(read_archive(folder), folder)
    assert sorted(problem.partition(":")[0] for problem in problems) == [
        "figures/made_up.json",
        "figures/params.png",
        "table.tex",
    ]


def test_an_unfair_study_leaves_records_and_no_table(tmp_path: Path) -> None:
    cells = [cell(row, seed) for row in ROWS for seed in SEEDS]
    cells[7] = cell("sppf", 1, world_size=2)
    with pytest.raises(Unfair):
        write_study(archive(cells), tmp_path)
    assert (tmp_path / "records" / "study.json").exists()
    assert not (tmp_path / "table.md").exists()


def test_a_sound_record_has_nothing_to_say(train_cell: Callable) -> None:
    record, _ = train_cell("neck=sppf")
    assert check_record(record) == []
    assert check_record(replace(record, cell_hash="0" * 10)) != []


def test_cells_are_trained_again_bitwise(train_cell: Callable, tmp_path: Path) -> None:
    cells = []
    for neck in ("none", "sppf"):
        record, where = train_cell(f"neck={neck}")
        cells.append(ArchivedCell(neck, 0, {}, record.cell, "done", None, record, read_curve(where)))
    made: Archive = archive(cells, rows=("none", "sppf"), seeds=(0,), same=None, costs={})
    for repetition in reproduce(made, 2, tmp_path / "scratch", [], np.random.default_rng(0)):
        assert repetition.bitwise
        assert repetition.same_weights
        assert repetition.difference == 0
        assert repetition.holds
    # A record that claims more than the run gives does not hold, here or on another machine.
    better = replace(
        cells[0].record, figures={**cells[0].record.figures, "test/acc": cells[0].record.figures["test/acc"] + 0.05}
    )
    there = replace(better, device={**better.device, "name": "another"})
    for record, tolerance, holds in ((better, 0.1, False), (there, 0.1, True), (there, 0.01, False)):
        claimed = replace(made, cells=(replace(cells[0], record=record),), tolerance=tolerance)
        (repetition,) = reproduce(claimed, 1, tmp_path / f"{tolerance}{holds}{record is there}", [], np.random.default_rng(0))
        assert repetition.holds is holds
    with pytest.raises(ValueError, match="--reproduce 3: must be between 1 and the 2 cells"):
        reproduce(made, 3, tmp_path, [], np.random.default_rng(0))
