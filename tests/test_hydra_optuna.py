"""The search with hydra/sweeper=optuna: its trials are runs, and what it is told of each is the run's val metric."""

import os
import sys
from pathlib import Path

import pytest

from hydra_plugins.necklace_optuna import OPTIONS, Search
from necklace.record import read_record
from tests.conftest import SMALL
from tests.warm import WarmProcess

ROOT = Path(__file__).parents[1]
WARNINGS = "ignore:.*SQLAlchemy 2.0"  # optuna 2 is written for SQLAlchemy 1.4


@pytest.mark.slow
@pytest.mark.filterwarnings(WARNINGS)
def test_a_search_goes_on_and_holds_each_runs_val_metric_and_a_failed_trial(tmp_path: Path) -> None:
    storage = f"sqlite:///{tmp_path / 'search.db'}"
    search = ["hydra/sweeper=optuna", "hydra.sweeper.n_trials=3", "hydra.sweeper.study_name=lr"]
    # With one of the rates the loss is no number after a step.
    tried = "optimizer.lr=choice(1e-3,3e-2,1e30)"
    for seed in (0, 1):
        words = [*search, f"hydra.sweeper.storage={storage}", f"hydra.sweeper.sampler.seed={seed}", tried, *SMALL]
        words += ["hydra/launcher=local", "schedule=constant", f"outputs={tmp_path}"]
        process = WarmProcess(ROOT / "train.py", "-m", *words, cwd=tmp_path, env=os.environ | {"OMP_NUM_THREADS": "1"})
        done = process.finish(120)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        assert "alembic" not in done.stdout + done.stderr
    records = [read_record(path) for path in tmp_path.glob("runs/*/record.json")]
    values = {record.config["optimizer"]["lr"]: record.metrics["val/acc"] for record in records}
    (failed,) = tmp_path.glob("runs/*/FAILED")
    assert "FloatingPointError" in failed.read_text()

    import optuna

    study = optuna.load_study("lr", storage)
    assert study.direction == optuna.study.StudyDirection.MAXIMIZE
    assert len(study.trials) == 6
    assert {trial.state.name for trial in study.trials} == {"COMPLETE", "FAIL"}
    for trial in study.trials:
        lr = trial.params["optimizer.lr"]
        assert (trial.state.name, trial.value) == (("FAIL", None) if lr == 1e30 else ("COMPLETE", values[lr]))
    assert study.best_value == max(values.values())


def test_without_the_extra_the_search_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ModuleNotFoundError, match=r"hydra/sweeper=optuna: .* pip install 'necklace\[optuna\]'"):
        Search(**{name: None for name in OPTIONS if name not in ("defaults", "_target_")})
