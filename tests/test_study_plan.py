import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image

import necklace.build
from necklace.build import built
from necklace.config import Composer
from necklace.heads import Dense
from necklace.run.costs import measure_cost
from necklace.study.plan import make_plan
from necklace.study.status import StatusReader
from necklace.study.study_file import read_study
from tests.conftest import SMALL, the_composer
from tests.detection_data import boxes_folder

pytestmark = pytest.mark.usefixtures("hydra_ready")


def study_file(folder: Path, **changes) -> Path:
    content = {
        "question": "Does it?",
        "baseline": "none",
        "seeds": [0, 1],
        "overrides": {key: json.loads(value) if value[0].isdigit() else value for key, value in (s.split("=") for s in SMALL)},
        "rows": [{"neck": ["none", "spp"]}, {"neck": "focal", "neck.focal_level": [1, 2]}],
    } | changes
    path = folder / "tiny" / "study.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(OmegaConf.to_yaml(OmegaConf.create({key: value for key, value in content.items() if value is not None})))
    return path


def plan_of(folder: Path, **changes):
    return make_plan(read_study(study_file(folder, **changes)), [f"outputs={folder / 'outputs'}"], composer=the_composer())


def test_runs_are_a_union_of_grids(tmp_path: Path) -> None:
    grids = [
        {"neck": ["none", "conv", "spp", "sppf"]},
        {"neck": "focal", "neck.focal_level": [1, 2, 3], "neck.focal_window": [3, 5]},
    ]
    plan = plan_of(tmp_path, rows=grids)
    assert len(plan.rows) == 4 + 6
    assert len(plan.runs) == 20
    assert "focal, focal_level=3, focal_window=5" in plan.rows
    assert len({run.spec.hash for run in plan.runs}) == 20
    assert plan.axes == ("neck", "neck.focal_level", "neck.focal_window")


def test_a_row_that_is_another_in_other_words_is_dropped(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, rows=[{"neck": ["none", "focal"]}, {"neck": "focal", "neck.focal_level": [2, 3]}])
    assert list(plan.rows) == ["none", "focal", "focal, focal_level=3"]  # level 2 is the default
    assert "focal, focal_level=2" in plan.dropped[0]


def test_a_study_is_about_what_its_task_is_known_by(tmp_path: Path) -> None:
    assert plan_of(tmp_path).metric == "test/acc"
    assert plan_of(tmp_path, metric="test/class_acc/spot").metric == "test/class_acc/spot"
    boxes = {
        "task": "detection",
        "data": "context_boxes",
        "data.source.train": 8,
        "data.source.test": 4,
        "backbone": "cifar_resnet",
        "backbone.width": 4,
        "backbone.stages": [4],
        "head.levels": 1,
        "head.kernel": 1,
        "batch_size": 2,
        "logger": "none",
    }
    assert plan_of(tmp_path, overrides=boxes).metric == "test/box_map"
    assert plan_of(tmp_path, overrides=boxes, metric="test/box_ap50/c1").metric == "test/box_ap50/c1"
    with pytest.raises(ValueError, match=r"metric: test/acc: row 'none' will not have it; its task measures test/box_map, "):
        plan_of(tmp_path, overrides=boxes, metric="test/acc")
    with pytest.raises(ValueError, match=r"metric: test/map07: .*measures test/acc, test/balanced_acc, test/class_acc/CLASS"):
        plan_of(tmp_path, metric="test/map07")


def test_a_planned_run_is_the_one_that_train_py_trains(tmp_path: Path, train_run) -> None:
    plan = plan_of(tmp_path)
    planned = next(run for run in plan.runs if run.row == "focal, focal_level=1" and run.seed == 1)
    record, folder = train_run("neck=focal", "neck.focal_level=1", "seed=1", "study=tiny", outputs=tmp_path / "outputs")
    assert (record.hash, record.name, record.code) == (planned.spec.hash, planned.spec.name, planned.spec.code)
    assert folder.parent.parent == plan.root.parent
    at = StatusReader(plan).of(planned)
    assert at.state == "done"
    assert at.record == record


def test_a_matched_control_costs_what_the_named_row_costs(tmp_path: Path) -> None:
    matched = [{"neck": "conv", "match": what, "to": "focal, focal_level=2"} for what in ("params", "macs")]
    changes = {"rows": [{"neck": ["none", "spp"]}, *matched, {"neck": "focal", "neck.focal_level": [1, 2]}]}
    path = study_file(tmp_path, **changes)
    study = OmegaConf.load(path)
    study.overrides["backbone.width"] = 16
    OmegaConf.save(study, path)
    plan = make_plan(read_study(path), [f"outputs={tmp_path}"])

    def neck(row: str):
        run = next(run for run in plan.runs if run.row == row)
        return measure_cost(*built(run.spec.resolved))["neck"]

    for what in ("params", "macs"):
        own = getattr(neck(f"conv, {what} as focal, focal_level=2"), what)
        assert abs(own / getattr(neck("focal, focal_level=2"), what) - 1) <= 0.02


def test_what_cannot_be_matched_is_said(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no width comes within 2% of 0 params"):
        plan_of(tmp_path, rows=[{"neck": ["none"]}, {"neck": "conv", "match": "params", "to": "none"}])
    with pytest.raises(ValueError, match="no such row"):
        plan_of(tmp_path, rows=[{"neck": ["none"]}, {"neck": "conv", "match": "params", "to": "spp"}])


def test_learning_rates_are_tried_for_each_row(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, choose={"optimizer.lr": [0.001, 0.003]})
    assert len(plan.runs) == 2 * 2 * 4
    assert {tuple(run.choice.items()) for run in plan.runs} == {(("optimizer.lr", 0.001),), (("optimizer.lr", 0.003),)}
    assert "optimizer.lr" in plan.axes


def test_seeds_can_be_fewer_or_more(tmp_path: Path) -> None:
    study = read_study(study_file(tmp_path, seeds=[3, 0]))
    for count, expected in ((1, [3]), (2, [3, 0]), (4, [3, 0, 4, 5])):
        plan = make_plan(study, [f"outputs={tmp_path}"], count)
        assert [run.seed for run in plan.runs if run.row == "none"] == expected
    with pytest.raises(ValueError, match="--seeds 0"):
        make_plan(study, [], 0)


EXPERIMENTS = sorted((Path(__file__).parents[1] / "experiments").glob("*/study.yaml"))


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.parent.name)
def test_every_study_plans_and_each_of_its_rows_takes_a_step(path: Path, tmp_path: Path) -> None:
    study = read_study(path)
    small = ["data.source.train=200", "data.source.test=50"]
    if any(text in ("data=folder", "+recipe=cifar10_fast") for text in study.overrides):
        for split in ("train", "test"):
            for name in ("one", "two"):
                (tmp_path / "images" / split / name).mkdir(parents=True)
                for number in range(130 if split == "train" else 2):
                    image = Image.new("RGB", (32, 32), (number, 0, 0))
                    image.save(tmp_path / "images" / split / name / f"{number}.png")
        small = [f"data.root={tmp_path / 'images'}", "data.train_images=null", "batch_size=16"]
    if any("data=voc" in text for text in study.overrides):
        small = [f"data.root={boxes_folder(tmp_path / 'images')}"]
    plan = make_plan(study, [*small, f"outputs={tmp_path}"])
    choices = math.prod(len(values) for values in (study.choose or {}).values())
    assert len(plan.runs) == len(plan.rows) * len(study.seeds) * choices
    assert not plan.dropped
    for row in plan.rows:
        planned = next(run for run in plan.runs if run.row == row)
        model, (height, width) = built(planned.spec.resolved)
        outputs = model(torch.rand(2, 3, height, width))
        (outputs.scores.sum() + outputs.boxes.sum() if isinstance(outputs, Dense) else outputs.sum()).backward()
        assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in model.parameters() if p.requires_grad)


def test_planning_many_runs_composes_each_row_once_and_reads_the_data_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, reads = [], []
    compose, read_facts = Composer.compose, necklace.build._data_parts
    monkeypatch.setattr(Composer, "compose", lambda self, overrides: rows.append(overrides) or compose(self, overrides))
    monkeypatch.setattr(necklace.build, "_data_parts", lambda data: reads.append(data) or read_facts(data))
    levels = {"neck": "focal", "neck.focal_level": [1, 2, 3, 4, 5], "neck.focal_window": [3, 5]}
    plan = plan_of(tmp_path, seeds=list(range(100)), rows=[{"neck": "none"}, levels])
    assert len(plan.runs) == 1100
    assert len(rows) == 11
    assert len(reads) == 1


def test_a_plan_loads_neither_lightning_nor_torchvision_nor_the_compiler(tmp_path: Path) -> None:
    """Of a few lines, these would be most of the time."""
    study_file(tmp_path / "experiments", rows=[{"neck": ["none", "sppf"]}, {"neck": "conv", "match": "params", "to": "sppf"}])
    heavy = {"pytorch_lightning", "torchvision", "torchmetrics", "torch._dynamo", "wandb", "matplotlib"}
    code = (
        "import sys\n"
        "from necklace.cli import ablate\n"
        "try: ablate.main(['tiny', '--plan'])\n"
        f"except SystemExit as end: print(end.code, {heavy!r} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1:] == ["0 set()"], done.stderr
