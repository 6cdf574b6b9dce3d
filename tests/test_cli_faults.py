"""Faults that befall a study: the next command ends with the results of a study that nothing has disturbed."""

from pathlib import Path

import pytest

from tests.faults import CASES, make_template, tried
from tests.warm import warm_up

# One of each kind; `python -m tests.faults` tries all, and tests of single runs try the other files.
TRIED = ("best.ckpt cut", "record.json cut", "full disk: outputs", "full disk: experiments")


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, tuple]]:
    warm_up()
    return make_template(tmp_path_factory.mktemp("faults"))


@pytest.mark.slow
@pytest.mark.parametrize("name", TRIED)
def test_a_study_recovers(name: str, study: tuple[Path, dict[str, tuple]], tmp_path: Path) -> None:
    try:
        end = tried(CASES[name], *study, tmp_path / "study")
    except PermissionError as error:
        pytest.skip(f"a small file system cannot be mounted here: {error}")
    assert (end.code, end.said, end.equal, end.failed) == (0, True, True, 0), end.output
    if name.startswith("full disk"):
        assert end.during == 1
