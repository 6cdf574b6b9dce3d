import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from necklace.results.analysis import analyse
from necklace.results.verify import _check_rows, check_record, verify
from necklace.results.write import write_study
from necklace.study.store import RETIRED, read_records
from tests.synthetic import SEEDS, lossy_study, synthetic_run, synthetic_runs, synthetic_study, with_classes


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    study = lossy_study()
    write_study(study, analyse(study), folder)
    return folder


@pytest.fixture
def folder(written: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(written, tmp_path / "study"))


def test_all_that_is_written_verifies(folder: Path) -> None:
    assert verify(read_records(folder), folder) == []
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
    problems = verify(read_records(folder), folder)
    assert len(problems) == 1
    assert problems[0].startswith(name)


def test_a_record_that_was_tampered_with_fails(folder: Path) -> None:
    path = folder / "records" / "sppf_s1.json"
    content = json.loads(path.read_text())
    content["record"]["metrics"]["test/acc"] = 0.99
    path.write_text(json.dumps(content))
    problems = verify(read_records(folder), folder)
    assert any("sppf_s1: test/acc is 0.99, but 164 of 200 images were right" in problem for problem in problems)
    assert any(problem.startswith("table.md: ") for problem in problems)
    content["record"]["config"]["optimizer"]["lr"] = 1.0
    path.write_text(json.dumps(content))
    assert any("do not belong together" in problem for problem in verify(read_records(folder), folder))


def test_what_is_missing_or_too_much_fails(folder: Path) -> None:
    (folder / "table.tex").unlink()
    (folder / "figures" / "params.png").unlink()
    (folder / "figures" / "made_up.json").write_text("{}")
    problems = verify(read_records(folder), folder)
    assert sorted(problem.partition(":")[0] for problem in problems) == [
        "figures/made_up.json",
        "figures/params.png",
        "table.tex",
    ]


def test_records_that_are_not_comparable_fail(folder: Path) -> None:
    path = folder / "records" / "sppf_s1.json"
    content = json.loads(path.read_text())
    content["record"]["world_size"] = 2
    path.write_text(json.dumps(content))
    (problem,) = verify(read_records(folder), folder)
    assert "world_size differs" in problem


def test_retired_results_are_no_part_of_the_study(tmp_path: Path) -> None:
    whole = synthetic_study()
    write_study(whole, analyse(whole), tmp_path)
    fewer = synthetic_study(
        [run for run in synthetic_runs() if run.row != "sppf"], rows=("none", "spp", *whole.info.rows[3:]), same=None
    )
    _, retired = write_study(fewer, analyse(fewer), tmp_path)
    assert retired == [f"sppf_s{seed}" for seed in SEEDS]
    assert {path.stem for path in (tmp_path / "records" / RETIRED).iterdir()} == set(retired)
    assert verify(read_records(tmp_path), tmp_path) == []
    (tmp_path / "records" / "older").mkdir()
    assert verify(read_records(tmp_path), tmp_path) == ["records/older: belongs to no run"]


def test_a_sound_record_has_no_problem(train_run: Callable) -> None:
    record, _ = train_run("neck=sppf")
    assert check_record(record) == []
    assert check_record(replace(record, hash="0" * 10)) != []


def test_a_synthetic_record_has_no_problem_either() -> None:
    record = synthetic_run("sppf", 0).record
    assert record
    assert check_record(record) == []
    assert check_record(replace(record, hash="0" * 10)) != []


def test_accuracies_by_class_that_contradict_fail() -> None:
    record = with_classes(synthetic_run("sppf", 0), [190, 10, 0], [180, 5, 0], [185, 15, 0]).record
    assert record
    assert check_record(record) == []
    assert check_record(replace(record, metrics=record.metrics | {"test/balanced_acc": 0.8})) == [
        "test/balanced_acc is 0.8, but its classes give 0.7236842"
    ]
    (problem, _) = check_record(replace(record, metrics=record.metrics | {"test/class_acc/b": 0.6}))
    assert "test/balanced_acc is 0.7236842, but its classes give 0.7736842" in problem
    lost = {name: value for name, value in record.metrics.items() if name != "test/class_acc/b"}
    assert len(check_record(replace(record, metrics=lost))) == 2


def test_labels_that_were_swapped_and_runs_that_were_dropped_fail(folder: Path) -> None:
    path = folder / "records" / "study.json"
    untouched = path.read_text()

    def problems(change: Callable[[dict], None]) -> list[str]:
        content = json.loads(untouched)
        change(content)
        path.write_text(json.dumps(content))
        return verify(read_records(folder), folder)

    def swap(content: dict) -> None:
        first, second = content["runs"][0], content["runs"][6]  # none and sppf, seed 0
        first["name"], second["name"] = second["name"], first["name"]

    assert any("row 'none': its records differ in more than the seed" in problem for problem in problems(swap))

    def drop(content: dict) -> None:
        content["runs"] = [run for run in content["runs"] if run["name"] != "sppf_s2"]

    assert "records/sppf_s2.json: belongs to no run" in problems(drop)

    def relabel(content: dict) -> None:
        content["runs"][0]["seed"] = 1
        content["runs"][1]["seed"] = 0

    assert any("none_s0: is listed as seed 1, but its record" in problem for problem in problems(relabel))


def test_a_study_yaml_that_asks_for_something_else_fails(folder: Path) -> None:
    text = """
question: Which neck joins what lies far apart?
baseline: none
seeds: [0, 1, 2]
same: [spp, sppf]
rows: [{neck: [none, spp, sppf]}, {neck: focal, neck.focal_level: [1, 2]}]
"""
    (folder / "study.yaml").write_text(text)
    assert verify(read_records(folder), folder) == []
    for old, new, what in (
        ("Which neck", "Which necks", "question is"),
        ("baseline: none", "baseline: spp", "baseline is"),
        ("[0, 1, 2]", "[0, 1]", "seeds are"),
        ("[1, 2]", "[1, 2, 3]", "rows are"),
    ):
        (folder / "study.yaml").write_text(text.replace(old, new, 1))
        assert any(what in problem for problem in verify(read_records(folder), folder))


@pytest.mark.parametrize(
    ("rounding", "same"), [(lambda seed: 1, True), (lambda seed: seed, True), (lambda seed: 1 + seed % 2, False)]
)
def test_a_rounding_may_stay_or_follow_the_seed(rounding: Callable[[int], int], same: bool) -> None:
    runs = []
    for run in synthetic_runs():
        assert run.record
        identity = run.record.identity | ({"streams": {"rounding": rounding(run.seed)}} if run.row == "none" else {})
        runs.append(replace(run, record=replace(run.record, identity=identity)))
    found = _check_rows(synthetic_study(runs))
    assert found == ([] if same else ["row 'none': its records differ in more than the seed"])
