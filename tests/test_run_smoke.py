from pathlib import Path

import pytest

from necklace.options.errors import OptionError
from necklace.run.runner import run_composed
from tests.conftest import SMALL, compose_train, initialised


def run(*overrides: str) -> object:
    with initialised():
        config, _ = compose_train([*SMALL, *overrides])
        return run_composed(config)


def left(folder: Path) -> set[str]:
    """What lies there; of drawn images the cache may stay, where this process has not drawn them before."""
    return {str(path.relative_to(folder)) for path in folder.glob("*/*")}


@pytest.mark.parametrize("count", ["true", "2"])
def test_a_smoke_test_goes_through_all_parts_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], count: str
) -> None:
    monkeypatch.chdir(tmp_path)
    outcome = run(f"+trainer.fast_dev_run={count}", "neck=focal", "schedule=cosine", "logger=csv", "data.eval_sizes=[16]")
    assert outcome is None
    said = capsys.readouterr().out
    assert f"smoke test: {'1 batch' if count == 'true' else '2 batches'} each of train, val and test went through" in said
    assert left(tmp_path) <= {"outputs/cache"}


def test_a_smoke_test_finds_what_a_run_would(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"warmup_epochs=9\.0: must be shorter than the training of 2 epochs"):
        run("+trainer.fast_dev_run=true", "schedule=cosine", "schedule.warmup_epochs=9.0")
    with pytest.raises(OptionError, match="focal_level: nothing reads it"):
        run("+trainer.fast_dev_run=true", "+focal_level=3")
    assert left(tmp_path) <= {"outputs/cache"}
