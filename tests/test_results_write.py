import os
import subprocess
import sys
from pathlib import Path

import pytest

from necklace.atomic import HOST
from necklace.results.analysis import analyse
from necklace.results.comparability import NotComparable
from necklace.results.runs_csv import runs_csv
from necklace.results.table import markdown, table_text
from necklace.results.write import write_study
from tests.synthetic import lossy_study, synthetic_run, synthetic_runs, synthetic_study


def test_all_that_a_study_commits_is_written(tmp_path: Path) -> None:
    study = lossy_study()
    results = analyse(study)
    table, retired = write_study(study, results, tmp_path / "experiments" / "necks")
    assert table == table_text(results)
    assert retired == []
    folder = tmp_path / "experiments" / "necks"
    assert {path.name for path in folder.iterdir()} == {
        "records",
        "runs.csv",
        "table.md",
        "table.tex",
        "methods.md",
        "methods.tex",
        "methods.bib",
        "figures",
        "report.html",
    }
    assert (folder / "table.md").read_text() == markdown(table, "necks")
    assert (folder / "runs.csv").read_text() == runs_csv(study)


def test_the_same_study_gives_the_same_bytes(tmp_path: Path) -> None:
    study = lossy_study()
    for name in ("once", "again"):
        write_study(study, analyse(study), tmp_path / name)
    first, second = (
        {p.relative_to(f): p.read_bytes() for p in f.rglob("*") if p.is_file()} for f in (tmp_path / "once", tmp_path / "again")
    )
    assert first == second


def test_a_study_that_is_not_comparable_leaves_nothing_new(tmp_path: Path) -> None:
    runs = synthetic_runs()
    runs[7] = synthetic_run("sppf", 1, world_size=2)
    study = synthetic_study(runs)
    with pytest.raises(NotComparable):
        write_study(study, analyse(study), tmp_path)
    assert not list(tmp_path.iterdir())


def test_what_killed_processes_left_is_swept_up(tmp_path: Path) -> None:
    (tmp_path / "records").mkdir()
    dead = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True
    ).stdout.strip()
    for path in (tmp_path / f".table.md.{HOST}.{dead}", tmp_path / "records" / f".x.json.{HOST}.{dead}"):
        path.write_text("half")
    alive, elsewhere = tmp_path / f".runs.csv.{HOST}.{os.getppid()}", tmp_path / f".table.md.other{HOST}.{dead}"
    for path in (alive, elsewhere):  # whether a process of another machine lives, nobody here knows
        path.write_text("half")
    study = synthetic_study()
    write_study(study, analyse(study), tmp_path)
    assert sorted(tmp_path.rglob(".*")) == sorted([alive, elsewhere])
