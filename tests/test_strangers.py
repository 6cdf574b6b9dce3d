"""Files that a stranger might send. Each is refused in one sentence, or does nothing; no marker appears, nothing is removed."""

import io
import json
import os
import pickle
import re
import shutil
import sys
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

import necklace
from necklace.boxes.evidence import Evidence
from necklace.cli import dashboard, train
from necklace.config import resolved
from necklace.data.yolo_yaml import read_yaml
from necklace.guard.console import Console
from necklace.guard.names import is_file_name, study_folder
from necklace.guard.private import scrubbed, with_home, without_any_home, without_home
from necklace.guard.text import in_markdown, on_one_line, printable
from necklace.identity import hash_identity
from necklace.inference.trained_run import open_run
from necklace.record import Record, parse_record, read_record
from necklace.results.analysis import analyse
from necklace.results.report import report_html
from necklace.results.runs_csv import runs_csv
from necklace.results.table import latex, markdown, table_text
from necklace.results.verify import verify
from necklace.results.write import write_study
from necklace.run.folder import RunFolder
from necklace.run.rank_reports import RankReports
from necklace.run.runner import RunRefused, run, val_metric
from necklace.study.adhoc import study_of_runs
from necklace.study.plan import make_plan
from necklace.study.reproduce import reproduce
from necklace.study.store import StudyRecords, StudyRun, read_info, read_records, write_records
from necklace.study.study_file import read_study, study_name
from tests.conftest import SMALL, compose_train, spec_of
from tests.synthetic import lossy_study, synthetic_study

SECRET = "planted-5ecret-0123456789"
MODULE = "from pathlib import Path\nPath({marker!r}).touch()\nclass Neck: monitor = 'val/acc'\n"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    outputs = tmp_path_factory.mktemp("strangers")
    record = run(spec_of([*SMALL, "epochs=1", f"outputs={outputs}"]))
    return outputs / "runs" / record.name


@pytest.fixture
def marker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """What code of the stranger's would leave: called by any of its targets, or run when its module is imported."""
    (tmp_path / "importable").mkdir()
    (tmp_path / "importable" / "strangers_module.py").write_text(MODULE.format(marker=str(tmp_path / "marker")))
    monkeypatch.syspath_prepend(str(tmp_path / "importable"))
    monkeypatch.setenv("SERVICE_API_KEY", SECRET)
    yield tmp_path / "marker"
    assert not (tmp_path / "marker").exists()
    assert "strangers_module" not in sys.modules
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or SECRET.encode() not in path.read_bytes()


def touching(marker: Path) -> dict[str, Any]:
    return {"_target_": "pathlib.Path.touch", "self": {"_target_": "pathlib.Path", "_args_": [str(marker)]}}


def put(node: Any, place: str, value: Any) -> None:
    *path, last = place.split(".")
    for key in path:
        node = node.setdefault(key, {})
    node[last] = value


def forged(record: Record, place: str, value: Any) -> Record:
    """A record with another config that is, as a stranger can make it, in order otherwise."""
    content = json.loads(json.dumps(asdict(record)))
    put(content["config"], place, value)
    if place.partition(".")[0] in content["identity"] and place not in ("data.source", "trainer.strategy"):
        put(content["identity"], place, value)
        content["hash"] = hash_identity(content["identity"])
    return parse_record(content, Path("record.json"))


# Place in the config to what a stranger puts there; MARKER stands for a call that would leave the marker.
CONFIGS: dict[str, tuple[str, Any]] = {
    "sizes": ("data.sizes", {"_target_": "torch.load", "f": "x", "weights_only": False}),
    "call": ("neck", "MARKER"),
    "source": ("data.source", "MARKER"),
    "within": ("neck.act", "MARKER"),
    "strategy": ("trainer.strategy", "MARKER"),
    "task": ("task", {"_target_": "strangers_module.Neck"}),
    "module": ("neck", {"_target_": "strangers_module.Neck"}),
    "detour": ("neck", {"_target_": "necklace.atomic.os.system", "command": "true"}),
    "optimizer": ("optimizer", {"_target_": "torch.optim.lr_scheduler.warnings.warn", "message": "x"}),
    "schedule": ("schedule", {"_target_": "torch.hub.load", "repo_or_dir": "x", "model": "y"}),
    "environment": ("neck.act", "${oc.env:SERVICE_API_KEY}"),
    "decode": ("neck.act", "${oc.decode:x}"),
    "escaped": ("neck.act", "\\${oc.env:SERVICE_API_KEY}"),
    "reference": ("neck.act", "${study}"),
}
TRAINING_ONLY = ("optimizer", "schedule")


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_strangers_record(trained: Path, marker: Path, tmp_path: Path, kind: str) -> None:
    place, value = CONFIGS[kind]
    record = forged(read_record(trained / "record.json"), place, touching(marker) if value == "MARKER" else value)
    folder = tmp_path / "outputs" / "run"
    shutil.copytree(trained, folder)
    (folder / "record.json").write_text(json.dumps(asdict(record)))
    (folder / "config.yaml").write_text(yaml.safe_dump(record.config))
    if kind not in TRAINING_ONLY or kind == "schedule":  # who only reads a run calls no optimizer
        for use in (necklace.load, open_run):
            with pytest.raises(ValueError, match=rf"^{place}[.=]") as error:
                use(folder)
            assert "\n" not in str(error.value)
    study = synthetic_study([StudyRun("none", 0, {}, record.name, "done", None, record)], rows=("none",), seeds=(0,), same=None)
    with pytest.raises(ValueError, match=rf"^{place}[.=]"):
        reproduce(study, 1, tmp_path / "scratch", [], np.random.default_rng(0))
    assert study_of_runs(tmp_path / "outputs", None).runs[0].record == record  # a table reads numbers, and calls nothing
    if kind == "task":
        assert record.config["task"]["_target_"] == "strangers_module.Neck"
        write_study(study, analyse(study), tmp_path / "study")
        (tmp_path / "study" / "study.yaml").write_text("{question: x, baseline: none, seeds: [0], rows: [{neck: none}]}")
        verify(read_records(tmp_path / "study"), tmp_path / "study")


STUDY = {"question": "x", "baseline": "none", "seeds": [0], "rows": [{"neck": "none"}]}
BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(f"{b}: &{b} [{','.join(['*' + a] * 9)}]\n" for a, b in pairwise("abcdefgh"))
STUDIES: dict[str, tuple[Any, str]] = {
    "target in a row": (
        {"baseline": "none, _target_=os.abort", "rows": [{"neck": "none", "neck._target_": "os.abort"}]},
        r"neck\._target_=",
    ),
    "target of a group": ({"overrides": {"data.sizes": {"_target_": "torch.load"}}}, r"data\.sizes\._target_="),
    "module": ({"overrides": {"neck._target_": "strangers_module.Neck"}}, r"neck\._target_="),
    "task": ({"overrides": {"task._target_": "strangers_module.Neck"}}, r"task\._target_="),
    "within": ({"overrides": {"+neck.act": {"_target_": "strangers_module.Neck"}}}, r"neck\.act\._target_="),
    "optimizer": ({"overrides": {"optimizer._target_": "torch.optim.adamw.torch.load"}}, r"optimizer\._target_="),
    "schedule": ({"overrides": {"schedule._target_": "necklace.schedules.math.exp"}}, r"schedule\._target_="),
    "logger": ({"overrides": {"logger.wandb._target_": "necklace.tracking.wandb_run.os.system"}}, r"logger\.wandb\._target_="),
    "referred to": ({"overrides": {"head": "${trainer}", "+trainer._target_": "os.abort"}}, "head='\\$\\{trainer\\}'"),
    "chosen": ({"choose": {"neck._target_": ["os.abort"]}}, r"neck\._target_="),
    "environment": ({"overrides": {"data.root": "${oc.env:SERVICE_API_KEY}"}}, "may refer to another option"),
    "environment in a row": ({"rows": [{"neck": "none", "+x": ["${oc.env:HOME}"]}]}, "may refer to another option"),
    "within another": ({"overrides": {"data.root": "${data.${oc.env:HOME}}"}}, "may refer to another option"),
    "hydra": ({"overrides": {"data.root": "${hydra:runtime.cwd}"}}, "may refer to another option"),
    "decode": ({"overrides": {"data.root": "a${oc.decode:'${study}'}"}}, "may refer to another option"),
    "escaped": ({"overrides": {"data.root": "\\${oc.env:HOME}"}}, "may refer to another option"),
    "in a key": ({"overrides": {"${oc.env:HOME}": 1}}, "may refer to another option"),
    "key of Hydra": ({"overrides": {"+hydra.callbacks.x._target_": "strangers_module.Neck"}}, "the study sets this itself"),
    "launcher": ({"overrides": {"hydra/launcher": "submitit_local"}}, "the study sets this itself"),
    "package": ({"overrides": {"+neck@hydra.launcher": "focal"}}, "must be an option"),
    "two keys": ({"overrides": {"seed=1,hydra.run.dir": "x"}}, "must be an option"),
    "spaces": ({"overrides": {" hydra.run.dir": "x"}}, "must be an option"),
    "path of a group": ({"overrides": {"neck": "../../evil"}}, "must be the name of a choice"),
    "absolute group": ({"rows": [{"neck": ["none", "/tmp/evil"]}]}, "must be the name of a choice"),
    "study": ({"overrides": {"study": "../../x"}}, "the study sets this itself"),
    "outputs": ({"overrides": {"outputs": "/tmp"}}, "the study sets this itself"),
    "escape": ({"rows": [{"neck": "none", "data.root": "\x1b]0;title\x07"}]}, "must be printable"),
    "direction": ({"rows": [{"neck": "none", "data.root": "\u202egnp.exe"}]}, "must be printable"),
    "many runs": ({"rows": [{f"neck.o{n}": list(range(10)) for n in range(12)}]}, "must be at most 100000"),
    "bomb": (BOMB, "malformed YAML: an alias"),
    "merged": ("x: &x {a: 1}\ny: {<<: *x}\n", "malformed YAML: an alias"),
    "deep": ("rows: " + "[" * 3000, "malformed YAML"),
    "nodes": ("rows: [" + "1," * 30_000 + "]", "more than 20000 values"),
    "digits": ("seeds: [" + "1:" * 50_000 + "1]", "a number of"),
    "large": ("x" * 300_000, "larger than 256 KiB"),
    "object": ("x: !!python/object/apply:os.system ['true']", "could not determine a constructor"),
    "twice": ("seeds: [0]\nseeds: [1]", "a key that is there twice"),
}


@pytest.mark.usefixtures("hydra_ready")
@pytest.mark.parametrize("kind", STUDIES)
def test_a_strangers_study(marker: Path, tmp_path: Path, kind: str) -> None:
    content, message = STUDIES[kind]
    path = tmp_path / "tiny" / "study.yaml"
    path.parent.mkdir()
    path.write_text(content if isinstance(content, str) else json.dumps(STUDY | content))
    with pytest.raises(ValueError, match=message) as error:
        make_plan(read_study(path), [*(SMALL[:-1] if kind == "logger" else SMALL), f"outputs={tmp_path / 'outputs'}"])
    assert len(str(error.value)) < 1000
    assert SECRET not in str(error.value)
    assert not (tmp_path / "outputs").exists()


@pytest.mark.usefixtures("hydra_ready")
def test_what_the_command_itself_names_is_the_users_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = tmp_path / "mine"
    (mine / "neck").mkdir(parents=True)
    (mine / "my_word.py").write_text("from necklace.necks import NoNeck\nclass Mine(NoNeck): pass\n")
    (mine / "neck" / "mine.yaml").write_text("_target_: my_word.Mine\n")
    (mine / "neck" / "other.yaml").write_text("_target_: os.abort\n")
    path = tmp_path / "tiny" / "study.yaml"
    path.parent.mkdir()
    path.write_text(json.dumps(STUDY | {"overrides": {"neck._target_": "my_word.Mine"}}))
    monkeypatch.syspath_prepend(str(mine))
    given = [*SMALL, f"outputs={tmp_path / 'outputs'}"]
    with pytest.raises(ValueError, match=r"--config-dir DIR, with ablate also with --trust DIR"):
        make_plan(read_study(path), given)
    place = [f'hydra.searchpath=["file://{mine}"]']  # as --config-dir does
    assert make_plan(read_study(path), given, trust=[mine]).runs
    assert make_plan(read_study(path), given, hydra_overrides=place).runs
    path.write_text(json.dumps(STUDY))
    assert make_plan(read_study(path), [*given, "neck._target_=my_word.Mine"]).runs
    path.write_text(json.dumps(STUDY | {"baseline": "mine", "rows": [{"neck": "mine"}]}))
    assert make_plan(read_study(path), given, hydra_overrides=place).runs
    path.write_text(json.dumps(STUDY | {"baseline": "other", "rows": [{"neck": "other"}]}))
    with pytest.raises(ValueError, match=r"neck\._target_='os\.abort'"):
        make_plan(read_study(path), given, hydra_overrides=place)


# What a file in a folder of --config-dir holds to what is said of it. The folder is trusted for the classes that it defines.
FOLDERS: dict[str, tuple[str, str]] = {
    "bomb": (f"_target_: necklace.necks.NoNeck\n{BOMB}", "neck/theirs.yaml: malformed YAML: an alias"),
    "merged": ("x: &x {_target_: necklace.necks.NoNeck}\n<<: *x\n", "neck/theirs.yaml: malformed YAML: an alias"),
    "nodes": ("x: [" + "1," * 30_000 + "]", "neck/theirs.yaml: malformed YAML: more than 20000 values"),
    "large": ("x: " + "y" * 300_000, "neck/theirs.yaml: larger than 256 KiB"),
    "secret": ("_target_: necklace.necks.NoNeck\nx: ${oc.env:SERVICE_API_KEY}\n", "environment variable SERVICE_API_KEY"),
    "part of it": ("_target_: necklace.necks.NoNeck\nx: ['a-${oc.env:SERVICE_API_KEY}']\n", "variable SERVICE_API_KEY"),
    "callback": (
        "# @package _global_\nneck: {_target_: necklace.necks.NoNeck}\nhydra: {callbacks: {x: {_target_: os.abort}}}\n",
        r"hydra\.callbacks\.x\._target_='os\.abort'",
    ),
    "launcher": (
        "# @package _global_\nneck: {_target_: necklace.necks.NoNeck}\nhydra: {launcher: {_target_: strangers_module.Neck}}\n",
        r"hydra\.launcher\._target_='strangers_module\.Neck'",
    ),
    "logging": (
        "# @package _global_\nneck: {_target_: necklace.necks.NoNeck}\n"
        "hydra: {job_logging: {handlers: {x: {class: logging.os.abort}}}}\n",
        r"hydra\.job_logging\.handlers\.x\.class='logging\.os\.abort'",
    ),
    "imported": (
        "# @package _global_\nneck: {_target_: necklace.necks.NoNeck}\n"
        "hydra: {job_logging: {x: 'ext://strangers_module.Neck'}}\n",
        r"hydra\.job_logging\.x='ext://strangers_module\.Neck'",
    ),
}


@pytest.mark.usefixtures("hydra_ready")
@pytest.mark.parametrize("kind", FOLDERS)
def test_configs_of_a_folder_that_the_command_names(
    marker: Path, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    content, message = FOLDERS[kind]
    theirs = tmp_path / "theirs" / "neck" / "theirs.yaml"
    theirs.parent.mkdir(parents=True)
    theirs.write_text(content)
    path = tmp_path / "tiny" / "study.yaml"
    path.parent.mkdir()
    path.write_text(json.dumps(STUDY | {"baseline": "theirs", "rows": [{"neck": "theirs"}]}))
    place = [f'hydra.searchpath=["file://{theirs.parents[1]}"]']  # as --config-dir does
    with pytest.raises(ValueError, match=message) as error:
        make_plan(read_study(path), [*SMALL, f"outputs={tmp_path / 'outputs'}"], hydra_overrides=place)
    assert SECRET not in str(error.value)
    GlobalHydra.instance().clear()
    monkeypatch.setattr(sys, "argv", ["train.py", f"--config-dir={theirs.parents[1]}", "neck=theirs", *SMALL])
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        train.main()
    said = capsys.readouterr().err
    assert re.search(message, said)
    assert SECRET not in said
    assert not (tmp_path / "outputs").exists()


@pytest.mark.usefixtures("hydra_ready")
def test_a_users_own_config_may_ask_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_WIDTH", "24")
    mine = tmp_path / "mine" / "neck" / "mine.yaml"
    mine.parent.mkdir(parents=True)
    mine.write_text("_target_: necklace.necks.ConvNeck\nwidth: ${oc.decode:${oc.env:MY_WIDTH}}\n")
    path = tmp_path / "tiny" / "study.yaml"
    path.parent.mkdir()
    path.write_text(json.dumps(STUDY | {"baseline": "mine", "rows": [{"neck": "mine"}]}))
    place = [f'hydra.searchpath=["file://{mine.parents[1]}"]']
    plan = make_plan(read_study(path), [*SMALL, f"outputs={tmp_path / 'outputs'}"], hydra_overrides=place)
    assert plan.runs[0].spec.resolved["neck"]["width"] == 24


@pytest.mark.usefixtures("hydra_ready")
def test_a_dashboard_runs_no_code_that_its_command_does_not_name(
    marker: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    GlobalHydra.instance().clear()
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "experiments" / "tiny"
    folder.mkdir(parents=True)
    content = STUDY | {"overrides": {"neck._target_": "strangers_module.Neck"}}
    (folder / "study.yaml").write_text(json.dumps(content))
    with pytest.raises(SystemExit) as error:
        dashboard.main(["tiny", "--dry-run", *SMALL])
    assert "neck._target_='strangers_module.Neck'" in str(error.value)
    # A report reads records, and builds nothing of what they name.
    made = lossy_study()
    runs = [
        replace(run, record=run.record and forged(run.record, "task", {"_target_": "strangers_module.Neck"}))
        for run in made.runs
    ]
    write_records(StudyRecords(made.info, tuple(runs), {}), folder)
    dashboard.main(["tiny", "--report", "--dry-run"])
    assert made.info.rows[0] in capsys.readouterr().out
    # One that the command names is the user's.
    mine = tmp_path / "mine"
    (mine / "neck").mkdir(parents=True)
    (mine / "my_panel.py").write_text("from necklace.necks import NoNeck\nclass Mine(NoNeck): pass\n")
    (mine / "neck" / "mine.yaml").write_text("_target_: my_panel.Mine\n")
    (folder / "study.yaml").write_text(json.dumps(STUDY | {"overrides": {"neck._target_": "my_panel.Mine"}}))
    before = list(sys.path)
    monkeypatch.setenv("PYTHONPATH", os.environ.get("PYTHONPATH", ""))
    try:
        dashboard.main(["tiny", "--dry-run", *SMALL, "--trust", str(mine)])
        (folder / "study.yaml").write_text(json.dumps(STUDY | {"baseline": "mine", "rows": [{"neck": "mine"}]}))
        dashboard.main(["tiny", "--dry-run", *SMALL, "--config-dir", str(mine)])
    finally:
        sys.path[:] = before


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (BOMB, "an alias"),
        ("neck: !!python/object/apply:os.system ['true']\n", "could not determine a constructor"),
        ("neck: ${oc.env:SERVICE_API_KEY}\n", "is not the config of the run"),
        ("[" * 100_000, "malformed YAML"),
    ],
)
def test_a_strangers_config(trained: Path, marker: Path, tmp_path: Path, content: str, message: str) -> None:
    folder = shutil.copytree(trained, tmp_path / trained.name)
    (folder / "config.yaml").write_text(content)
    with pytest.raises(ValueError, match=rf"config\.yaml: .*{message}"):
        open_run(folder)


def test_a_config_of_another_model_is_refused_before_it_is_built(trained: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(trained, tmp_path / trained.name)
    config: Any = OmegaConf.load(folder / "config.yaml")
    config.backbone.width = 100_000  # which would take the memory of this machine
    OmegaConf.save(config, folder / "config.yaml")
    with pytest.raises(ValueError, match=r"config\.yaml: is not the config of the run in record\.json \(backbone\.width\)"):
        open_run(folder)
    record = read_record(folder / "record.json")
    (folder / "record.json").write_text(json.dumps(asdict(record) | {"config": {**record.config, "epochs": 9}}))
    with pytest.raises(ValueError, match=r"record\.json: its config, identity and hash do not belong together \(epochs\)"):
        necklace.load(folder)
    (folder / "record.json").write_text("[" * 100_000)
    with pytest.raises(ValueError, match=r"record\.json: not JSON"):
        necklace.load(folder)


def test_a_strangers_data_yaml(tmp_path: Path) -> None:
    (tmp_path / "data.yaml").write_text(BOMB)
    with pytest.raises(ValueError, match="an alias"):
        read_yaml(tmp_path / "data.yaml")


class Touch:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_a_strangers_checkpoints_and_archives(trained: Path, marker: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(trained, tmp_path / "outputs" / "runs" / trained.name)
    last, best = (folder / "checkpoints" / name for name in ("last.ckpt", "best.ckpt"))
    torch.save({"state_dict": Touch(marker)}, best)
    with pytest.raises(ValueError, match=r"best\.ckpt: cannot be read"):
        necklace.load(folder)
    # One that a run would continue from.
    (folder / "record.json").unlink()
    for write in (lambda path: torch.save(Touch(marker), path), lambda path: path.write_bytes(pickle.dumps(Touch(marker)))):
        write(last)
        shutil.copy(last, best)
        with suppress(RuntimeError):
            run(spec_of([*SMALL, "epochs=1", f"outputs={tmp_path / 'outputs'}"]))
        assert not marker.exists()
    bomb, pickled = tmp_path / "bomb.npz", tmp_path / "pickled.npz"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("scores.npy", bytes(1 << 20))
        archive.writestr("../../escaped.npy", b"x")
    np.savez(pickled, scores=np.array([Touch(marker)], dtype=object))
    for path in (bomb, pickled):
        with pytest.raises(ValueError, match=path.name):
            Evidence.load(path)
    assert not (tmp_path.parent / "escaped.npy").exists()


@pytest.mark.parametrize(
    "name",
    [
        "",
        " ",
        ".",
        "..",
        "../../x",
        "/etc",
        "a/../../b",
        "~",
        "~/x",
        ".hidden",
        "a\\b",
        "a\nb",
        "a\x1b[31m",
        "\u202ea",
        "a//b/.",
    ],
)
def test_names_that_lead_elsewhere(name: str) -> None:
    if name != "a//b/.":  # a path's own way to say a/b
        with pytest.raises(ValueError, match="NAME="):
            study_name(name)
    assert not is_file_name(name)
    if name == "a\\b":  # some folder
        return
    with pytest.raises(ValueError, match="study="):
        study_folder(name)
    config = compose_train([])[0]
    config.study = name
    with pytest.raises(ValueError, match="study="):
        resolved(config)


def test_names_in_a_list_of_runs(tmp_path: Path) -> None:
    study = lossy_study()
    write_records(study, tmp_path)
    path = tmp_path / "records" / "study.json"
    content = json.loads(path.read_text())
    for changes in ({"name": "../../x_0123456789"}, {"name": "/tmp/x"}, {"name": ""}, {"row": "a\x1b[2J"}, {"row": "a\nb"}):
        path.write_text(json.dumps(content | {"runs": [content["runs"][0] | changes]}))
        with pytest.raises(ValueError, match=r"study\.json: runs: '.*': must be"):
            read_info(tmp_path)


def test_links_are_not_followed(trained: Path, tmp_path: Path) -> None:
    others = tmp_path / "others"
    others.mkdir()
    for name in (".profile", "letters.txt", "record.json"):
        (others / name).write_text("mine")
    shutil.copy(trained / "record.json", others / "record.json")
    before = {path.name: path.read_bytes() for path in others.iterdir()}
    root = tmp_path / "outputs" / "runs"
    root.mkdir(parents=True)
    spec = spec_of([*SMALL, "epochs=1", f"outputs={tmp_path / 'outputs'}"])
    again = spec.adapted({"rerun": True}, [])

    (root / trained.name).symlink_to(others)
    with pytest.raises(RunRefused, match="is a link to"):
        run(again)
    assert {path.name: path.read_bytes() for path in others.iterdir()} == before
    (root / trained.name).unlink()
    shutil.copytree(trained, root / trained.name)
    for name in ("checkpoints", "pictures", "csv"):
        shutil.rmtree(root / trained.name / name, ignore_errors=True)
        (root / trained.name / name).symlink_to(others)
    with pytest.raises(ValueError, match="checkpoints: is a link to"):
        RunFolder(root / trained.name).prepare(spec, lambda note: None)
    assert run(again).weights_hash == read_record(trained / "record.json").weights_hash  # its own links are removed, no more
    assert not (root / trained.name / "checkpoints").is_symlink()
    assert {path.name: path.read_bytes() for path in others.iterdir()} == before

    (tmp_path / "study").mkdir()
    for name in ("records", "figures"):
        (tmp_path / "study" / name).symlink_to(others)
        with pytest.raises(ValueError, match=f"{name}: is a link to"):
            write_study(lossy_study(), analyse(lossy_study()), tmp_path / "study")
        (tmp_path / "study" / name).unlink()
    assert {path.name: path.read_bytes() for path in others.iterdir()} == before


def test_a_secret_of_the_environment_is_refused_and_never_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_SERVICE_TOKEN", SECRET)
    monkeypatch.setenv("DB_PASSWORD", "20260731")
    monkeypatch.setenv("API_KEY", "necklace")  # a word that configs are full of
    monkeypatch.setenv("KEY_FILE", str(tmp_path))
    for override in (
        "data.source.root=${oc.env:MY_SERVICE_TOKEN}",
        "data.source.x=a-${oc.env:MY_SERVICE_TOKEN}-b",
        f"data.source.x=[{SECRET}]",
        "data.source.x=20260731",
        f"data.source.x={{{SECRET}: 1}}",
    ):
        with pytest.raises(ValueError, match=r"environment variable (MY_SERVICE_TOKEN|DB_PASSWORD)") as error:
            resolved(compose_train([f"+{override}"])[0])
        assert SECRET not in str(error.value)
        assert "20260731" not in str(error.value)
    folder = RunFolder(tmp_path / "run")
    folder.mark_failed(f"ValueError: https://x:{SECRET}@host\n")
    assert folder.failed_path.read_text() == "ValueError: https://x:***@host\n"
    monkeypatch.setenv("HOME", "/home/me")
    folder.mark_failed(
        'Traceback (most recent call last):\n  File "/home/me/necklace/x.py", line 3\nValueError: /home/me/data: no\n'
    )
    assert folder.failed_path.read_text().splitlines(True)[1:] == [
        '  File "~/necklace/x.py", line 3\n',
        "ValueError: ~/data: no\n",
    ]
    assert folder.failure() == "ValueError: ~/data: no"
    reports = RankReports(tmp_path / "ranks")
    reports.write(replace(reports.enter(0), words="/home/me/data: no", trace=f'  File "/home/me/x.py"\n{SECRET}'))
    assert (reports.read()[0].words, reports.read()[0].trace) == ("~/data: no", '  File "~/x.py"\n***')
    assert scrubbed({"a": [f"{SECRET}!"], "b": "necklace.necks"}) == {"a": ["***!"], "b": "necklace.necks"}


def test_nobodys_home_is_in_a_run_and_it_opens_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    record = run(spec_of([*SMALL, "epochs=1", f"outputs={home / 'outputs'}", "logger=csv"]))
    folder = home / "outputs" / "runs" / record.name
    texts = [path for path in folder.rglob("*") if path.is_file() and path.suffix not in (".ckpt", ".parquet")]
    assert {"record.json", "config.yaml", "hparams.yaml"} <= {path.name for path in texts}
    assert [path for path in texts if str(home) in path.read_text()] == []
    assert record == read_record(folder / "record.json")
    assert record.config["data"]["cache"] == "~/outputs/cache"
    assert str(home) in str(open_run(folder).data.splits) or open_run(folder).models
    assert necklace.load(folder).record == record
    study = synthetic_study([StudyRun("none", 0, {}, record.name, "done", None, record)], rows=("none",), seeds=(0,), same=None)
    (again,) = reproduce(study, 1, tmp_path / "scratch", [], np.random.default_rng(0))
    assert again.same_weights
    assert val_metric(record) == record.metrics["val/acc"]


def test_paths_below_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    texts = ["/home/me", "/home/me/data", "root=/home/me/a:/home/me/b", "file:///home/me/x", "/home/me2", "/x/home/me", "~/y"]
    assert without_home(texts) == ["~", "~/data", "root=~/a:~/b", "file://~/x", "/home/me2", "/x/home/me", "~/y"]
    assert with_home({"a": ["~", "~/data", "a~/b", 3]}) == {"a": ["/home/me", "/home/me/data", "a~/b", 3]}
    assert without_any_home(("/home/you/x", "/Users/you", "/root/x", "/rooted")) == ("~/x", "~", "~/x", "/rooted")
    monkeypatch.setenv("HOME", "/")
    assert without_home("/x") == "/x"


HOSTILE = [
    "<script>alert(1)</script>",
    "</svg><img src=x onerror=alert(1)>",
    '"><b onmouseover=alert(1)>',
    "$\\frac{1$ ^_%#{}&~",
    "![x](http://127.0.0.1/x.png) [y]: http://127.0.0.1",
    "\\input{/etc/passwd}",
    "{{ 7 * 7 }}{% raw %}",
    "\x1b[2J\x1b]0;title\x07\x9b31m\u202egnp.exe",
    "a | b\nc",
]


def test_names_are_shown_as_text() -> None:
    made = lossy_study()
    names = dict(zip(made.info.rows, HOSTILE, strict=False))
    runs = [
        replace(run, row=names[run.row], failure=f"ValueError: {HOSTILE[0]}\x1b[2J" if run.failure else None)
        for run in made.runs
    ]
    runs = [
        replace(run, record=run.record and replace(run.record, data=run.record.data | {"classes": HOSTILE[6:8]}))
        for run in runs
    ]
    info = replace(
        made.info, name=HOSTILE[1], question=HOSTILE[0], rows=tuple(names.values()), baseline=names[str(made.info.baseline)]
    )
    info = replace(info, same=None, controls={})
    study = StudyRecords(info, tuple(runs), {})
    results = analyse(study)
    table = table_text(results)
    page = report_html(results, table)
    for part in ("<script", "<img src=x", "<b on", "\x1b", "\x07", "\x9b", "\u202e"):
        assert part not in page.lower()
    text = markdown(table, info.name)
    for part in ("<script", "<img", "</svg", "<b ", "](http", "]: http", "\x1b", "\u202e"):
        assert part not in text
    assert text.count("\n| ") == len(names) + 1
    for text in (latex(table, info.name), runs_csv(study)):
        assert not {"\x1b", "\x07", "\x9b", "\u202e"} & set(text)
    assert "\\input{" not in latex(table, info.name)


def test_a_terminal_obeys_no_name(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = io.StringIO()
    console = Console(file=shown, force_terminal=True, width=200)
    console.print(f"[bold]row[/] {HOSTILE[7]}")
    console.print(HOSTILE[7], markup=False)
    assert "\x1b[1mrow\x1b[0m" in shown.getvalue()  # rich's own
    for part in ("\x1b[2J", "\x1b]0", "\x07", "\x9b", "\u202e"):
        assert part not in shown.getvalue()
    assert printable("a\tb\nc ü 漢 👍 \u200d") == "a\tb\nc ü 漢 👍 \u200d"
    assert printable("\x00\ud800\u2028") == "\\x00\\ud800\\u2028"
    assert on_one_line("a\nb\r") == "a b\\r"
    assert in_markdown("a < b & c [3,5]") == "a < b & c [3,5]"
    assert os.linesep not in on_one_line(HOSTILE[8])
