import json
from pathlib import Path

import pytest
import yaml

from necklace.study.overrides import override
from necklace.study.study_file import expand, read_study, study_name
from tests.test_study_plan import plan_of, study_file

pytestmark = pytest.mark.usefixtures("hydra_ready")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"baseline": "nothing"}, "nothing: there is no such row"),
        ({"same": ["spp", "sppf"]}, "sppf: there is no such row"),
        ({"seeds": [0, 0]}, "distinct whole numbers"),
        ({"seeds": []}, "distinct whole numbers"),
        ({"seeds": [True]}, "distinct whole numbers"),
        ({"rows": []}, "list of grids"),
        ({"rows": [{"neck": []}]}, "empty list"),
        ({"rows": [{"neck": "conv", "match": "params"}]}, "to: ROW"),
        ({"question": None}, "missing \\['question'\\]"),
        ({"basline": "none"}, "unknown \\['basline'\\]"),
        ({"metric": "val/acc"}, "test/acc"),
        ({"metric": "test/class_acc/"}, "test/balanced_acc"),
        ({"metric": 5}, "test/balanced_acc"),
        ({"tolerance": 2}, "between 0 and 1"),
        ({"choose": {"optimizer.lr": 1}}, "lists of values"),
        ({"overrides": ["data=context"]}, "mapping"),
        ({"seeds": [-1]}, "distinct whole numbers from 0"),
        ({"same": ["spp", "spp"]}, "two different rows"),
        ({"overrides": {"seed": 4}}, "overrides: seed: the study sets this itself"),
        ({"rows": [{"neck": "none", "study": "other"}]}, "rows: study: the study sets this itself"),
        ({"choose": {"rerun": [True]}}, "choose: rerun: the study sets this itself"),
        ({"overrides": {"hydra.launcher.slots": 1}}, r"overrides: hydra\.launcher\.slots: the study sets this"),
        ({"choose": {"neck": ["spp"]}}, "choose: neck: the rows set it"),
        ({"rows": [{"neck": "none"}, {"neck": "none", "neck.nothing": 1}]}, "row 'none, nothing=1': .*neck.nothing"),
        ({"rows": [{"neck": "none"}, {"neck": "nowhere"}]}, "row 'nowhere': .*nowhere"),
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
    with pytest.raises(ValueError, match="malformed YAML"):
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


def test_older_files_call_their_rows_cells(tmp_path: Path) -> None:
    path = study_file(tmp_path)
    content = yaml.safe_load(path.read_text())
    new = read_study(path)
    path.write_text(
        yaml.safe_dump({"cells" if key == "rows" else key: value for key, value in content.items()}, sort_keys=False)
    )
    assert read_study(path) == new
    path.write_text(json.dumps(content | {"cells": content["rows"]}))
    with pytest.raises(ValueError, match=r"unknown \['cells'\]"):
        read_study(path)


def test_wrong_types_and_typos_name_file_key_and_value(tmp_path: Path) -> None:
    for changes, message in (
        ({"seeds": "0"}, "study.yaml: seeds: '0': must be a list of distinct whole numbers from 0"),
        ({"seeds": [0, 1.5]}, r"study.yaml: seeds: \[0, 1.5\]: must be a list of distinct"),
        ({"tolerance": True}, "study.yaml: tolerance: True: must be a share between 0 and 1"),
        ({"margin": 0}, "study.yaml: margin: 0: must be points of the metric, above 0 and at most 100"),
        ({"margin": -0.5}, "study.yaml: margin: -0.5: must be"),
        ({"margin": ".nan"}, "study.yaml: margin: '.nan': must be"),
        ({"alpha": 0}, "study.yaml: alpha: 0: must be a probability above 0 and at most 0.2"),
        ({"alpha": 0.21}, "study.yaml: alpha: 0.21: must be"),
        ({"alpha": True}, "study.yaml: alpha: True: must be"),
        ({"rule": "t"}, "study.yaml: rule: 't': must be fixed or anytime"),
        ({"rows": [{"neck": "conv", "mach": "params", "to": "spp"}]}, "study.yaml: rows: .*a matched row has match"),
        ({"rows": [{"neck": "conv", "match": "params", "to": ["spp"]}]}, r"rows: to: \['spp'\]: must be the name of one row"),
        ({"rows": ["none"]}, "study.yaml: rows: .*must be a list of grids"),
        ({"choose": {"optimizer.lr": []}}, "study.yaml: choose: .*lists of values"),
    ):
        with pytest.raises(ValueError, match=message) as error:
            read_study(study_file(tmp_path, **changes))
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "given",
    ["demo", "demo/", "./demo", "experiments/demo", "experiments/demo/", "experiments/demo/study.yaml", "demo/study.yaml"],
)
def test_a_study_goes_by_its_name_or_by_what_a_shell_completes_it_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert study_name(given) == "demo"
    assert study_name(str(tmp_path / "experiments" / "demo")) == "demo"


@pytest.mark.parametrize(
    "given", ["../x", "", ".", "..", "/", "/tmp/x", "experiments/../x", ".hidden", "experiments/../../x", " "]
)
def test_a_name_that_leads_elsewhere_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=f"must be the name of a folder in {tmp_path}/experiments"):
        study_name(given)


def test_a_missing_study_names_where_it_was_looked_for_and_the_nearest(tmp_path: Path) -> None:
    for name in ("necks_cifar10", "necks_context", "demo"):
        path = tmp_path / name / "study.yaml"
        path.parent.mkdir()
        path.touch()
    with pytest.raises(FileNotFoundError) as error:
        read_study(tmp_path / "necks_cifar" / "study.yaml")
    assert str(error.value) == (
        f"necks_cifar: there is no such study in {tmp_path}; did you mean necks_cifar10 or necks_context? "
        "there are: demo, necks_cifar10, necks_context"
    )
