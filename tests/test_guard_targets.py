"""What a run's files name is checked before any of it is called. Each test looks for a marker that called code would leave."""

import json
import pickle
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

import necklace
from necklace.cli.main import main
from necklace.config import resolved
from necklace.guard.targets import check_targets
from necklace.inference.trained_run import open_run
from necklace.record import Record
from necklace.run.runner import run
from tests.conftest import CONFIGS, SMALL, compose_train, spec_of

Train = Callable[..., tuple[Record, Path]]
MINE = """
from pathlib import Path
import os
from necklace.necks import NoNeck

Path({marker!r}).touch()


class Mine(NoNeck):
    pass


def make(channels):
    return Mine(channels)
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    outputs = tmp_path_factory.mktemp("trust")
    record = run(spec_of([*SMALL, "epochs=1", f"outputs={outputs}"]))
    return outputs / "runs" / record.name


@pytest.fixture
def config() -> dict[str, Any]:
    return resolved(compose_train(["neck=focal"])[0])


def put(node: Any, place: str, value: Any) -> None:
    *path, last = place.split(".")
    for key in path:
        node = node.setdefault(key, {}) if isinstance(node, dict) else node[int(key)]
    node[last] = value


def shell(marker: Path, target: str = "os.system") -> dict[str, Any]:
    return {"_target_": target, "command": f"touch {marker}"}


PLACES = [
    "neck",
    "backbone",
    "head",
    "task",
    "data.source",
    "data.sizes",
    "optimizer",
    "schedule",
    "logger",
    "trainer",
    "trainer.strategy",
    "neck.kernels",
    "backbone.options.act",
    "data.augment",
    "data.sizes.size",
    "callbacks.mine",
    "logger.0",
    "study",
]


@pytest.mark.parametrize("place", PLACES)
def test_a_strangers_target_is_refused_wherever_it_stands(trained: Path, tmp_path: Path, place: str) -> None:
    marker = tmp_path / "marker"
    path = tmp_path / "run" / "record.json"
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "checkpoints").symlink_to(trained / "checkpoints")
    content = json.loads((trained / "record.json").read_text())
    put(content["config"], place, shell(marker))
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=rf"^{place}\._target_='os\.system': not a class of this project") as error:
        necklace.load(tmp_path / "run")
    assert "\n" not in str(error.value)
    assert not marker.exists()


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "posix.system",
        "builtins.exec",
        "subprocess.run",
        "hydra.utils.instantiate",
        "necklace.atomic.os.system",  # by way of a module of ours
        "necklace.necks.spp.torch.hub.load",
        "necklace.data.files.os.system",
        "necklace.atomic.write_whole",  # ours, and no neck
        "necklace.necks.options.integer",
        "necklace.necks.SPP.__init__",
        "necklace.backbones.CifarResNet",  # no neck either
        "necklace.necks.nothing",
        "necklace.necks",
        "torch.nn.Identity",
        "torch.hub.load",
        "${study}",
        "",
        None,
        3,
        ["necklace.necks.SPP"],
    ],
)
def test_only_a_neck_of_this_project_is_a_neck(config: dict[str, Any], target: Any) -> None:
    config["study"] = "necklace.necks.SPP"
    config["neck"]["_target_"] = target
    with pytest.raises(ValueError, match=r"^neck\._target_="):
        check_targets(config)


def test_what_the_projects_configs_name_is_allowed() -> None:
    for choices in (
        ["data=glyphs", "neck=spp", "head=pyramid"],
        ["data=context", "neck=focal_block", "backbone=resnet18", "optimizer=sgd", "schedule=cosine"],
        ["data=folder", "data.root=/x", "neck=conv", "data/sizes=native", "backbone=timm", "schedule=constant"],
        ["data=voc", "data.root=/x", "task=multilabel", "neck=sppf", "data/sizes=multiscale", "logger=csv", "head=flatten"],
        ["data=cifar10", "neck=dw_convnet", "logger=none", "optimizer=muon"],
    ):
        check_targets(resolved(compose_train(choices)[0]))


def test_the_committed_records_may_be_loaded() -> None:
    records = list((CONFIGS.parent / "experiments").glob("*/records/*_s*.json"))
    records += (Path(__file__).parent / "golden" / "layout3" / "records").glob("*_s*.json")
    assert len(records) > 60
    for path in records:
        check_targets(json.loads(path.read_text())["record"]["config"])


def test_layers_of_torch_may_stand_within_a_part(config: dict[str, Any]) -> None:
    config["neck"]["act"] = {"_target_": "torch.nn.GELU"}
    check_targets(config)
    for target in ("torch.nn.init.normal_", "torch.nn.functional.relu", "torch.nn.Module.load", "torch.nn.Parameter"):
        config["neck"]["act"] = {"_target_": target}
        with pytest.raises(ValueError, match=r"^neck\.act\._target_="):
            check_targets(config)


def test_ones_own_neck_loads_where_its_folder_is_trusted_and_nowhere_else(
    train_run: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    marker, mine = tmp_path / "marker", tmp_path / "mine"
    mine.mkdir()
    (mine / "trusted_neck.py").write_text(MINE.format(marker=str(marker)))
    monkeypatch.syspath_prepend(str(mine))
    _, folder = train_run("neck._target_=trusted_neck.Mine", "epochs=1")
    monkeypatch.undo()
    marker.unlink()
    monkeypatch.delitem(sys.modules, "trusted_neck")

    for refused in (None, tmp_path):  # tmp_path holds no trusted_neck.py
        with pytest.raises(ValueError, match=r"^neck\._target_='trusted_neck\.Mine': .*trust=DIR"):
            necklace.load(folder, trust=refused)
    with pytest.raises(FileNotFoundError, match="trust=/nowhere"):
        necklace.load(folder, trust="/nowhere")
    assert not marker.exists()
    monkeypatch.setattr("sys.argv", ["necklace", "predict", str(folder), str(mine)])
    with pytest.raises(SystemExit, match=r"trust=DIR \(--trust DIR\)"):
        main()
    assert not marker.exists()

    before = list(sys.path)
    loaded = necklace.load(folder, trust=mine)
    assert type(loaded.model.neck).__name__ == "Mine"
    assert marker.exists()
    assert sys.path == before
    opened = open_run(folder, trust=mine)
    assert type(opened.models["after"].neck).__name__ == "Mine"


def test_a_class_may_lie_in_a_package_of_the_folder(config: dict[str, Any], tmp_path: Path) -> None:
    for place, name in ((tmp_path / "with_file", "__init__.py"), (tmp_path / "plain" / "within", "deep.py")):
        place.mkdir(parents=True)
        (place / name).write_text(MINE.format(marker=str(tmp_path / "marker")))
    for target in ("with_file.Mine", "plain.within.deep.Mine", "with_file.Mine"):
        config["neck"] = {"_target_": target}
        check_targets(config, tmp_path)
    with pytest.raises(ValueError, match=r"^neck\._target_='with_file\.Mine'"):
        check_targets(config, tmp_path / "plain")  # another with_file has been imported


@pytest.mark.parametrize("target", ["trusted_too.os.system", "trusted_too.NoNeck", "trusted_too.make", "trusted_too.nothing"])
def test_trust_reaches_the_classes_of_the_folder_and_not_what_they_import(
    config: dict[str, Any], tmp_path: Path, target: str
) -> None:
    (tmp_path / "trusted_too.py").write_text(MINE.format(marker=str(tmp_path / "marker")))
    config["neck"] = {"_target_": target, "command": f"touch {tmp_path / 'called'}"}
    with pytest.raises(ValueError, match="trusted_too"):
        check_targets(config, tmp_path)
    assert not (tmp_path / "called").exists()


def test_trust_imports_nothing_while_another_target_is_foreign(config: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "trusted_three.py").write_text(MINE.format(marker=str(tmp_path / "marker")))
    (tmp_path / "os.py").write_text(f"from pathlib import Path; Path({str(tmp_path / 'marker')!r}).touch()")
    config["neck"] = {"_target_": "trusted_three.Mine"}
    config["head"] = {"_target_": "os.system"}
    with pytest.raises(ValueError, match=r"^head\._target_='os\.system'"):
        check_targets(config, tmp_path)
    assert not (tmp_path / "marker").exists()


class Touch:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("as_torch", [True, False])
def test_a_checkpoint_that_runs_code_is_refused_unread(trained: Path, tmp_path: Path, as_torch: bool) -> None:
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    (tmp_path / "run" / "record.json").write_bytes((trained / "record.json").read_bytes())
    evil, path = {"state_dict": {"model.x": Touch(tmp_path / "marker")}}, tmp_path / "run" / "checkpoints" / "best.ckpt"
    if as_torch:
        torch.save(evil, path)
    else:
        path.write_bytes(pickle.dumps(evil, protocol=2))
    with pytest.raises(ValueError, match=r"best\.ckpt: cannot be read"):
        necklace.load(tmp_path / "run")
    assert not (tmp_path / "marker").exists()


def test_the_config_that_inspect_reads_is_checked_too(trained: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(trained, tmp_path / trained.name))
    config: Any = OmegaConf.load(folder / "config.yaml")
    config.data.source = shell(tmp_path / "marker")
    OmegaConf.save(config, folder / "config.yaml")
    with pytest.raises(ValueError, match=r"^data\.source\._target_="):
        open_run(folder)
    assert not (tmp_path / "marker").exists()
