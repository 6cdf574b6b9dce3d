import json
import traceback
from pathlib import Path

import numpy as np
import pytest
import torch
from filelock import FileLock
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf
from PIL import Image

import necklace.study.untrained
from necklace.model import measure_cost
from necklace.study.compose import Composer
from necklace.study.plan import expand, make_plan, override, read_study
from necklace.study.states import read_failure, states
from necklace.study.untrained import built, composed
from tests.conftest import SMALL, synthetic_record, write_synthetic

pytestmark = pytest.mark.usefixtures("hydra_ready")


def study_file(folder: Path, **changes) -> Path:
    content = {
        "question": "Does it?",
        "baseline": "none",
        "seeds": [0, 1],
        "overrides": {key: json.loads(value) if value[0].isdigit() else value for key, value in (s.split("=") for s in SMALL)},
        "cells": [{"neck": ["none", "spp"]}, {"neck": "focal", "neck.focal_level": [1, 2]}],
    } | changes
    path = folder / "tiny" / "study.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(OmegaConf.to_yaml(OmegaConf.create({key: value for key, value in content.items() if value is not None})))
    return path


def plan_of(folder: Path, **changes):
    return make_plan(read_study(study_file(folder, **changes)), [f"outputs={folder / 'outputs'}"])


def test_cells_are_a_union_of_grids(tmp_path: Path) -> None:
    grids = [
        {"neck": ["none", "conv", "spp", "sppf"]},
        {"neck": "focal", "neck.focal_level": [1, 2, 3], "neck.focal_window": [3, 5]},
    ]
    plan = plan_of(tmp_path, cells=grids)
    assert len(plan.rows) == 4 + 6
    assert len(plan.cells) == 20
    assert "focal, focal_level=3, focal_window=5" in plan.rows
    assert len({cell.cell_hash for cell in plan.cells}) == 20
    assert plan.axes == ("neck", "neck.focal_level", "neck.focal_window")


def test_a_row_that_is_another_in_other_words_is_dropped(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, cells=[{"neck": ["none", "focal"]}, {"neck": "focal", "neck.focal_level": [2, 3]}])
    assert list(plan.rows) == ["none", "focal", "focal, focal_level=3"]  # level 2 is the default
    assert "focal, focal_level=2" in plan.dropped[0]


def test_a_planned_cell_is_the_one_that_train_py_runs(tmp_path: Path, train_cell) -> None:
    plan = plan_of(tmp_path)
    cell = next(cell for cell in plan.cells if cell.row == "focal, focal_level=1" and cell.seed == 1)
    record, folder = train_cell("neck=focal", "neck.focal_level=1", "seed=1", "study=tiny", outputs=tmp_path / "outputs")
    assert record.cell_hash == cell.cell_hash
    assert record.cell == cell.label
    assert record.code == cell.code
    assert folder.parent.parent == plan.root.parent
    at = states(plan)[plan.cells.index(cell)]
    assert at.state == "done"
    assert at.record == record


def test_states(tmp_path: Path) -> None:
    plan = plan_of(tmp_path)
    cells = plan.cells
    plan.root.mkdir(parents=True)
    rng = np.random.default_rng(0)

    def done(cell, **fields) -> None:
        record = synthetic_record([*SMALL], cell.seed, rng.random(30) < 0.5, **fields)
        write_synthetic(record.__class__(**record.__dict__ | {"cell": cell.label, "cell_hash": cell.cell_hash}), plan.root)

    done(cells[0], code=cells[0].code)
    done(cells[1], code="another")
    (plan.root / cells[2].label).mkdir()
    (plan.root / cells[2].label / "FAILED").write_text("Traceback\nValueError: no\n")
    (plan.root / ".locks").mkdir()
    (plan.root / ".locks" / f"{cells[4].cell_hash}.lock").touch()  # left behind, held by nobody
    with FileLock(plan.root / ".locks" / f"{cells[3].cell_hash}.lock"):
        found = states(plan)
    assert [at.state for at in found] == ["done", "stale", "failed", "running", "missing", "missing", "missing", "missing"]
    assert found[2].failure == "ValueError: no"


def test_a_failure_is_told_from_the_last_frame_on(tmp_path: Path) -> None:
    def fail(error: Exception) -> str:
        try:
            try:
                raise KeyError("first")
            except KeyError as first:
                raise error from first
        except Exception:
            (tmp_path / "FAILED").write_text(traceback.format_exc())
        return read_failure(tmp_path)

    assert fail(ZeroDivisionError("my neck\nis broken")) == "ZeroDivisionError: my neck is broken"
    noted = FloatingPointError("the loss is nan")
    noted.add_note("gates: neck, global")
    assert fail(noted) == "FloatingPointError: the loss is nan gates: neck, global"
    (tmp_path / "FAILED").write_text("RuntimeError: the process died\n")  # by the launcher, without a traceback
    assert read_failure(tmp_path) == "RuntimeError: the process died"
    (tmp_path / "FAILED").write_text("")
    assert read_failure(tmp_path) == "FAILED is empty"


def test_a_matched_control_costs_what_the_named_row_costs(tmp_path: Path) -> None:
    matched = [{"neck": "conv", "match": what, "to": "focal, focal_level=2"} for what in ("params", "macs")]
    changes = {"cells": [{"neck": ["none", "spp"]}, *matched, {"neck": "focal", "neck.focal_level": [1, 2]}]}
    path = study_file(tmp_path, **changes)
    study = OmegaConf.load(path)
    study.overrides["backbone.width"] = 16
    OmegaConf.save(study, path)
    plan = make_plan(read_study(path), [f"outputs={tmp_path}"])
    composer = Composer(GlobalHydra.instance().config_loader(), "train")

    def neck(row: str):
        cell = next(cell for cell in plan.cells if cell.row == row)
        return measure_cost(*built(composed(composer, cell.overrides)[0]))["neck"]

    for what in ("params", "macs"):
        own = getattr(neck(f"conv, {what} as focal, focal_level=2"), what)
        assert abs(own / getattr(neck("focal, focal_level=2"), what) - 1) <= 0.02


def test_what_cannot_be_matched_is_said(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no width comes within 2% of 0 params"):
        plan_of(tmp_path, cells=[{"neck": ["none"]}, {"neck": "conv", "match": "params", "to": "none"}])
    with pytest.raises(ValueError, match="no such row"):
        plan_of(tmp_path, cells=[{"neck": ["none"]}, {"neck": "conv", "match": "params", "to": "spp"}])


def test_learning_rates_are_tried_for_each_row(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, choose={"optimizer.lr": [0.001, 0.003]})
    assert len(plan.cells) == 2 * 2 * 4
    assert {tuple(cell.choice.items()) for cell in plan.cells} == {(("optimizer.lr", 0.001),), (("optimizer.lr", 0.003),)}
    assert "optimizer.lr" in plan.axes


def test_seeds_can_be_fewer_or_more(tmp_path: Path) -> None:
    study = read_study(study_file(tmp_path, seeds=[3, 0]))
    for count, expected in ((1, [3]), (2, [3, 0]), (4, [3, 0, 4, 5])):
        plan = make_plan(study, [f"outputs={tmp_path}"], count)
        assert [cell.seed for cell in plan.cells if cell.row == "none"] == expected
    with pytest.raises(ValueError, match="--seeds 0"):
        make_plan(study, [], 0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"baseline": "nothing"}, "nothing: there is no such row"),
        ({"same": ["spp", "sppf"]}, "sppf: there is no such row"),
        ({"seeds": [0, 0]}, "distinct whole numbers"),
        ({"seeds": []}, "distinct whole numbers"),
        ({"seeds": [True]}, "distinct whole numbers"),
        ({"cells": []}, "list of grids"),
        ({"cells": [{"neck": []}]}, "empty list"),
        ({"cells": [{"neck": "conv", "match": "params"}]}, "to: ROW"),
        ({"question": None}, "missing \\['question'\\]"),
        ({"basline": "none"}, "unknown \\['basline'\\]"),
        ({"metric": "val/acc"}, "test/acc"),
        ({"tolerance": 2}, "between 0 and 1"),
        ({"choose": {"optimizer.lr": 1}}, "lists of values"),
        ({"overrides": ["data=context"]}, "mapping"),
        ({"seeds": [-1]}, "distinct whole numbers from 0"),
        ({"same": ["spp", "spp"]}, "two different rows"),
        ({"overrides": {"seed": 4}}, "overrides: seed: the study sets this itself"),
        ({"cells": [{"neck": "none", "study": "other"}]}, "cells: study: the study sets this itself"),
        ({"choose": {"rerun": [True]}}, "choose: rerun: the study sets this itself"),
        ({"overrides": {"hydra.launcher.slots": 1}}, r"overrides: hydra\.launcher\.slots: the study sets this"),
        ({"choose": {"neck": ["spp"]}}, "choose: neck: the rows set it"),
        ({"cells": [{"neck": "none"}, {"neck": "none", "neck.nothing": 1}]}, "row 'none, nothing=1': .*neck.nothing"),
        ({"cells": [{"neck": "none"}, {"neck": "nowhere"}]}, "row 'nowhere': .*nowhere"),
    ],
)
def test_a_study_that_says_nonsense_is_told_so(tmp_path: Path, changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plan_of(tmp_path, **changes)


def test_a_study_that_is_not_there_names_those_that_are(tmp_path: Path) -> None:
    study_file(tmp_path)
    with pytest.raises(FileNotFoundError, match="there are: tiny"):
        read_study(tmp_path / "tinny" / "study.yaml")
    (tmp_path / "tiny" / "study.yaml").write_text("a: [")
    with pytest.raises(ValueError, match="not YAML"):
        read_study(tmp_path / "tiny" / "study.yaml")


def test_expand() -> None:
    assert expand({"a": [1, 2], "b": "x", "match": "params", "to": "y"}) == [{"a": 1, "b": "x"}, {"a": 2, "b": "x"}]


@pytest.mark.parametrize(
    "value",
    [1, 0.003, 1e-5, True, None, "a b", 'say "so"', "a,b", "it's", [1, 2], [[1, 2], [3]], {"min": 1, "max": 2}, "x=y", "ü"]
    + ["true", "null", "nan", "12", "1.5", "1e5", "[a]", "-x", "${x", "/data/x y", ""],
)
def test_an_override_gives_the_value_back(value: object) -> None:
    from hydra.core.override_parser.overrides_parser import OverridesParser

    parsed = OverridesParser.create().parse_override(override("key", value)).value()
    assert (str(parsed) if isinstance(value, str) else parsed) == value


EXPERIMENTS = sorted((Path(__file__).parents[1] / "experiments").glob("*/study.yaml"))


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.parent.name)
def test_every_study_plans_and_each_of_its_rows_takes_a_step(path: Path, tmp_path: Path) -> None:
    study = read_study(path)
    small = ["data.source.train=200", "data.source.test=50"]
    if any("data=folder" in text for text in study.overrides):
        for split in ("train", "test"):
            for name in ("one", "two"):
                (tmp_path / "images" / split / name).mkdir(parents=True)
                for number in range(130 if split == "train" else 2):
                    image = Image.new("RGB", (32, 32), (number, 0, 0))
                    image.save(tmp_path / "images" / split / name / f"{number}.png")
        small = [f"data.root={tmp_path / 'images'}", "data.train_images=null", "batch_size=16"]
    plan = make_plan(study, [*small, f"outputs={tmp_path}"])
    assert len(plan.cells) == len(plan.rows) * len(study.seeds)
    assert not plan.dropped
    composer = Composer(GlobalHydra.instance().config_loader(), "train")
    for row in plan.rows:
        cell = next(cell for cell in plan.cells if cell.row == row)
        model, (height, width) = built(composed(composer, cell.overrides)[0])
        model(torch.rand(2, 3, height, width)).sum().backward()
        assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in model.parameters())


def test_planning_many_cells_composes_each_row_once_and_reads_the_data_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, reads = [], []
    compose, datamodule_of = Composer.compose, necklace.study.untrained.datamodule_of
    monkeypatch.setattr(Composer, "compose", lambda self, overrides: rows.append(overrides) or compose(self, overrides))
    monkeypatch.setattr(necklace.study.untrained, "datamodule_of", lambda plain: reads.append(plain) or datamodule_of(plain))
    levels = {"neck": "focal", "neck.focal_level": [1, 2, 3, 4, 5], "neck.focal_window": [3, 5]}
    plan = plan_of(tmp_path, seeds=list(range(100)), cells=[{"neck": "none"}, levels])
    assert len(plan.cells) == 1100
    assert len(rows) == 11
    assert len(reads) == 1
