import sys
from pathlib import Path

import pytest

from necklace.cli.bench_processes import timed, write_study
from necklace.study.study_file import read_study, row_names

FAILING = "import sys; print('at work', file=sys.stderr); print('error: x=1: must be 2', file=sys.stderr); sys.exit('use y')"


def test_a_command_is_timed_and_heard(tmp_path: Path) -> None:
    code = "import os, time; time.sleep(0.3); print(os.getcwd(), os.environ['WORD'])"
    seconds, output = timed([sys.executable, "-c", code], tmp_path, {"WORD": "so"})
    assert 0.3 <= seconds < 30
    assert output == f"{tmp_path} so\n"


@pytest.mark.parametrize(("code", "words"), [(FAILING, "error: x=1: must be 2"), ("import sys; sys.exit('gone')", "gone")])
def test_a_command_that_fails_is_reported_in_a_line(tmp_path: Path, code: str, words: str) -> None:
    with pytest.raises(RuntimeError, match=f"ended with exit code 1: {words}$"):
        timed([sys.executable, "-c", code], tmp_path)


def test_the_first_row_of_a_study_is_its_baseline(tmp_path: Path) -> None:
    study = read_study(write_study(tmp_path, "x", 3, {"neck": ["spp", "none"], "optimizer.lr": [0.1, 0.2]}, {"epochs": 1}))
    assert study.baseline == row_names(study)[0] == "spp, optimizer.lr=0.1"
    assert (study.seeds, study.overrides) == ((0, 1, 2), ("epochs=1",))
