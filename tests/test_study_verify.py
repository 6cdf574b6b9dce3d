# The cells made here have what may be missing elsewhere.
# pyright: reportOptionalMemberAccess=false, reportArgumentType=false, reportCallIssue=false
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from necklace.run import run
from necklace.study.archive import Archive, ArchivedCell, read_archive, read_curve
from necklace.study.fairness import Unfair
from necklace.study.verify import check_record, reproduce, verify, write_study
from tests.conftest import compose_train
from tests.test_study_analysis import ROWS, SEEDS, archive, cell
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


def test_an_unfair_study_leaves_nothing_new(tmp_path: Path) -> None:
    cells = [cell(row, seed) for row in ROWS for seed in SEEDS]
    cells[7] = cell("sppf", 1, world_size=2)
    with pytest.raises(Unfair):
        write_study(archive(cells), tmp_path)
    assert not list(tmp_path.iterdir())


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
        assert repetition.why_not_bitwise is None
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
    old = replace(made, cells=(replace(cells[0], record=replace(cells[0].record, code="older")),), tolerance=0.0)
    (repetition,) = reproduce(old, 1, tmp_path / "code", [], np.random.default_rng(0))
    assert (repetition.why_not_bitwise, repetition.holds, repetition.same_weights) == ("another code", True, True)
    with pytest.raises(ValueError, match=r"data\.KEY=VALUE only"):
        reproduce(made, 1, tmp_path, ["hydra.launcher.slots=1"], np.random.default_rng(0))
    with pytest.raises(ValueError, match="data has no such option"):
        reproduce(made, 1, tmp_path, ["data.rot=x"], np.random.default_rng(0))
    two = replace(made, cells=(replace(cells[0], record=replace(cells[0].record, world_size=2)),))
    with pytest.raises(ValueError, match="2 processes trained it"):
        reproduce(two, 1, tmp_path, [], np.random.default_rng(0))
    with pytest.raises(ValueError, match="--reproduce 3: must be between 1 and the 2 cells"):
        reproduce(made, 3, tmp_path, [], np.random.default_rng(0))


def test_data_that_moved_is_found_again(tmp_path: Path) -> None:
    for split in ("train", "test"):
        for name in ("dark", "light"):
            (tmp_path / "here" / split / name).mkdir(parents=True)
            for number in range(20):
                shade = number + (200 if name == "light" else 0)
                Image.new("RGB", (24, 24), (shade, shade, shade)).save(tmp_path / "here" / split / name / f"{number}.png")
    settings = ["data=folder", f"data.root={tmp_path / 'here'}", "data.size=24", "backbone.width=4", "epochs=1", "batch_size=8"]
    settings += ["logger=none", f"outputs={tmp_path / 'outputs'}"]
    record = run(*compose_train(settings), settings)
    where = tmp_path / "outputs" / "runs" / record.cell
    moved = shutil.move(tmp_path / "here", tmp_path / "there")
    curve = read_curve(where)
    made = archive(
        [ArchivedCell("none", 0, {}, record.cell, "done", None, record, curve)], rows=("none",), seeds=(0,), same=None, costs={}
    )
    (repetition,) = reproduce(made, 1, tmp_path / "scratch", [f"data.root={moved}"], np.random.default_rng(0))
    assert repetition.holds


def test_labels_that_were_swapped_and_cells_that_were_dropped_fail(folder: Path) -> None:
    path = folder / "records" / "study.json"
    untouched = path.read_text()

    def problems(change: Callable[[dict], None]) -> list[str]:
        content = json.loads(untouched)
        change(content)
        path.write_text(json.dumps(content))
        return verify(read_archive(folder), folder)

    def swap(content: dict) -> None:
        first, second = content["cells"][0], content["cells"][6]  # none and sppf, seed 0
        first["cell"], second["cell"] = second["cell"], first["cell"]

    assert any("row 'none': its records differ in more than the seed" in problem for problem in problems(swap))

    def drop(content: dict) -> None:
        content["cells"] = [cell for cell in content["cells"] if cell["cell"] != "sppf_s2"]

    assert "records/sppf_s2.json: belongs to no cell" in problems(drop)

    def relabel(content: dict) -> None:
        content["cells"][0]["seed"] = 1
        content["cells"][1]["seed"] = 0

    assert any("none_s0: is listed as seed 1, but its record" in problem for problem in problems(relabel))


def test_a_study_yaml_that_asks_for_something_else_fails(folder: Path) -> None:
    text = """
question: Which neck joins what lies far apart?
baseline: none
seeds: [0, 1, 2]
same: [spp, sppf]
cells: [{neck: [none, spp, sppf]}, {neck: focal, neck.focal_level: [1, 2]}]
"""
    (folder / "study.yaml").write_text(text)
    assert verify(read_archive(folder), folder) == []
    for old, new, what in (
        ("Which neck", "Which necks", "question is"),
        ("baseline: none", "baseline: spp", "baseline is"),
        ("[0, 1, 2]", "[0, 1]", "seeds are"),
        ("[1, 2]", "[1, 2, 3]", "rows are"),
    ):
        (folder / "study.yaml").write_text(text.replace(old, new, 1))
        assert any(what in problem for problem in verify(read_archive(folder), folder))


def test_what_killed_processes_left_is_swept_up(tmp_path: Path) -> None:
    (tmp_path / "records").mkdir()
    dead = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True
    ).stdout.strip()
    for path in (tmp_path / f".table.md.{dead}", tmp_path / "records" / f".x.json.{dead}"):
        path.write_text("half")
    alive = tmp_path / f".runs.csv.{os.getppid()}"
    alive.write_text("half")
    write_study(archive(), tmp_path)
    assert [path.name for path in tmp_path.rglob(".*")] == [alive.name]
