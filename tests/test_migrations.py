"""Records that an earlier version wrote, committed as they were: golden/layout3 is cut from a study of schema and layout 3."""

import json
import shutil
from dataclasses import asdict
from pathlib import Path

import pytest

from necklace.migrations import LAYOUT, SCHEMA
from necklace.record import read_record
from necklace.study.store import read_records

LAYOUT3 = Path(__file__).parent / "golden" / "layout3"
SPPF = "context_cifar_resnet_sppf_s0_df85e89945"


def test_a_study_of_layout_3_is_read_whole() -> None:
    study = read_records(LAYOUT3)
    assert [(run.row, run.seed, run.state) for run in study.runs] == [
        ("none", 0, "done"),
        ("sppf", 0, "done"),
        ("none", 1, "failed"),
    ]
    _, sppf, failed = study.runs
    assert failed.failure == "ValueError: no"
    assert sppf.name == SPPF
    assert sppf.record
    assert (sppf.record.schema, sppf.record.name, sppf.record.hash) == (SCHEMA, SPPF, "df85e89945")
    raw = json.loads((LAYOUT3 / "records" / f"{SPPF}.json").read_text())["record"]
    assert raw["schema"] == 3
    assert sppf.record.metrics == raw["figures"]
    assert sppf.record.weights_hash == raw["weights_hash"]
    assert sppf.record.code == {"schema 3": raw["code"]}  # no module's digest: such a run is stale
    assert len(sppf.curve["epoch"]) == 6
    assert study.costs["sppf"]["hash"] == "df85e89945"
    assert study.info.rows == ("none", "sppf")


def test_a_runs_own_record_of_schema_3_is_read(tmp_path: Path) -> None:
    raw = json.loads((LAYOUT3 / "records" / f"{SPPF}.json").read_text())["record"]
    (tmp_path / "record.json").write_text(json.dumps(raw))
    assert read_record(tmp_path / "record.json").metrics == raw["figures"]


def test_a_record_of_schema_4_is_read_and_has_no_evidence() -> None:
    path = LAYOUT3.parent / "record4.json"
    raw = json.loads(path.read_text())
    record = read_record(path)
    assert (raw["schema"], record.schema) == (4, SCHEMA)
    assert record.evidence is None
    assert {name: value for name, value in asdict(record).items() if name in raw and name != "schema"} == {
        name: value for name, value in raw.items() if name != "schema"
    }


@pytest.mark.parametrize("damage", [{"layout": 99}, {"layout": 2}, {"layout": None}, {"cells": 3}])
def test_another_layout_is_refused_in_a_line(damage: dict, tmp_path: Path) -> None:
    shutil.copytree(LAYOUT3, tmp_path / "study")
    path = tmp_path / "study" / "records" / "study.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | damage))
    with pytest.raises(ValueError, match=rf"study.json: layout: .*known here \(3 to {LAYOUT}\)") as error:
        read_records(tmp_path / "study")
    assert "\n" not in str(error.value)
