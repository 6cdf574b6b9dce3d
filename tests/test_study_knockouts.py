import json
from pathlib import Path

import pytest

from necklace.run.runner import run
from necklace.study.knockouts import make_missing_knockouts
from necklace.study.status import StatusReader
from tests.test_study_plan import plan_of

pytestmark = pytest.mark.usefixtures("hydra_ready")


def test_a_knockout_that_a_run_was_stopped_in_is_made_later(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, rows=[{"neck": ["none", "focal"]}], seeds=[0])
    for planned in plan.runs:
        run(planned.spec, interactive=False)
    none, focal = (plan.root / planned.spec.name for planned in plan.runs)
    first = (focal / "knockout.json").read_bytes()
    assert json.loads(first)["changes"]
    said: list[str] = []
    make_missing_knockouts(plan, StatusReader(plan), said.append)
    assert said == []  # nothing is missing, and there is nothing in `none` to knock out

    (focal / "knockout.json").unlink()
    make_missing_knockouts(plan, StatusReader(plan), said.append)
    assert said == [f"{focal.name}: its knockout was missing, and is made"]
    assert (focal / "knockout.json").read_bytes() == first
    assert not (none / "knockout.json").exists()

    (focal / "knockout.json").unlink()
    weights = focal / "checkpoints" / "best.ckpt"
    weights.write_bytes(weights.read_bytes()[:1000])
    make_missing_knockouts(plan, StatusReader(plan), said.append)
    assert len(said) == 2
    assert said[1].startswith(f"{focal.name}: knockout: ")
    assert not (focal / "knockout.json").exists()
    weights.unlink()  # to save room, which a run may go without
    make_missing_knockouts(plan, StatusReader(plan), said.append)
    assert len(said) == 2
