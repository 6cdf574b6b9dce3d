# The runs made here have what may be missing elsewhere.
# pyright: reportOptionalMemberAccess=false
import io
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from necklace.study.costs import read_costs, write_costs
from necklace.study.excerpts import read_pictures, read_thumbnails
from necklace.study.store import read_info, read_records, read_retired, retired_runs, write_records
from tests.synthetic import synthetic_study


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.is_file()} if folder.is_dir() else set()


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    made = synthetic_study()
    assert write_records(made, tmp_path) == []
    assert read_records(tmp_path) == made
    assert read_costs(tmp_path) == made.costs
    info, runs = read_info(tmp_path)
    assert info == made.info
    assert [run.name for run in runs] == [run.name for run in made.runs]
    assert not any(run.record for run in runs)
    sizes = [path.stat().st_size for path in (tmp_path / "records").glob("*_s*.json")]
    assert len(sizes) == len(made.runs)
    assert max(sizes) < 8_000


def test_runs_that_are_no_longer_asked_for_retire_and_come_back(tmp_path: Path) -> None:
    made = synthetic_study()
    made = replace(made, runs=tuple(replace(run, name=f"{run.name}_{run.record.hash}") for run in made.runs))
    write_records(made, tmp_path)
    records, retired = tmp_path / "records", tmp_path / "records" / "retired"
    before = {name: (records / name).read_bytes() for name in names(records)}
    fewer = replace(made, info=replace(made.info, rows=made.info.rows[:2], same=None), runs=made.runs[:6])
    gone = write_records(fewer, tmp_path)
    assert gone == sorted(run.name for run in made.runs[6:])
    assert names(retired) == {f"{name}.json" for name in gone}
    found = retired_runs(tmp_path)
    assert found.keys() == {run.record.hash for run in made.runs[6:]}
    again = read_retired(found[made.runs[6].record.hash])
    assert (again.record, again.curve, again.seed) == (made.runs[6].record, made.runs[6].curve, made.runs[6].seed)
    assert write_records(made, tmp_path) == []
    assert not names(retired)
    assert {name: (records / name).read_bytes() for name in names(records)} == before


def test_pictures_of_a_rows_first_run_are_kept_small(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    (folder / "pictures").mkdir(parents=True)
    assert read_pictures(folder) == read_thumbnails(folder) == {}
    numbers = {"receptive_field": {"mass": 0.95}, "contributions": {}, "confusion": {"counts": [[1]]}}
    (folder / "pictures" / "pictures.json").write_text(json.dumps(numbers))
    noise = np.random.default_rng(0).integers(0, 256, (600, 920, 3), np.uint8)
    for name in ("sizes", "gates_1", "gates_0", "receptive_field"):
        Image.fromarray(noise).save(folder / "pictures" / f"{name}.png")
    small = read_thumbnails(folder)
    assert list(small) == ["receptive_field", "gates_0", "gates_1"]
    for content in small.values():
        with Image.open(io.BytesIO(content)) as image:
            assert image.size == (440, 287)
    pictures = read_pictures(folder)
    assert pictures.keys() == {"receptive_field", "contributions"}
    plain = synthetic_study()
    runs = [replace(run, pictures=pictures, thumbnails=small if run.seed == 0 else {}) for run in plain.runs]
    made = replace(plain, runs=tuple(runs))
    write_records(made, tmp_path)
    assert read_records(tmp_path) == made
    assert list(read_records(tmp_path).runs[0].thumbnails) == list(small)
    write_records(plain, tmp_path)
    assert not list((tmp_path / "records").glob("*.png"))
    (folder / "pictures" / "pictures.json").write_text(json.dumps({"receptive_field": [], "contributions": {}}))
    with pytest.raises(ValueError, match=r"pictures\.json: receptive_field: \[\]: "):
        read_pictures(folder)


def test_an_unchanged_record_is_not_written_again(tmp_path: Path) -> None:
    write_records(synthetic_study(), tmp_path)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "records").iterdir()}
    write_records(synthetic_study(), tmp_path)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "records").iterdir()} == before


def test_a_damaged_file_is_an_error_of_one_line_that_names_file_and_field(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no records yet"):
        read_records(tmp_path)
    made = synthetic_study()
    write_records(made, tmp_path)
    header = tmp_path / "records" / "study.json"
    costs = tmp_path / "records" / "costs.json"
    study = json.loads(header.read_text())
    for path, content, words in (
        (header, "{}", "layout: None"),
        (header, json.dumps(study | {"seeds": ["0"]}), r"seeds\.0: '0': "),
        (header, json.dumps(study | {"colour": 1}), "colour: 1: is not known here"),
        (header, json.dumps(study | {"runs": [{**study["runs"][0], "seed": None}]}), r"runs\.0\.seed: None: "),
        (costs, json.dumps({"none": {"latency_ms": "fast"}}), r"none\.latency_ms"),
        (costs, "[]", "must be a mapping"),
    ):
        good = path.read_text()
        path.write_text(content)
        with pytest.raises(ValueError, match=words) as error:
            read_records(tmp_path)
        assert str(error.value).startswith(str(path))
        assert "\n" not in str(error.value)
        path.write_text(good)
    assert read_records(tmp_path) == made


def test_a_damaged_record_of_many_is_set_aside_and_named(tmp_path: Path) -> None:
    made = synthetic_study()
    write_records(made, tmp_path)
    own = tmp_path / "records" / f"{made.runs[0].name}.json"
    good, other = own.read_text(), (tmp_path / "records" / f"{made.runs[1].name}.json").read_text()
    text = json.loads(good)
    for content, words in (
        (good[:-30], "not JSON"),
        ("{}", "record is missing"),
        (json.dumps(text | {"record": text["record"] | {"schema": 1}}), "schema: 1: "),
        (json.dumps(text | {"curve": {"epoch": ["0"]}}), r"curve\.epoch\.0: '0': "),
        (json.dumps(text | {"record": text["record"] | {"epochs": "six"}}), "epochs: 'six': "),
        ("", "not JSON"),
        (other, "is the record of another run"),
        (None, "its record is not there"),
    ):
        if content is None:
            own.unlink()
        else:
            own.write_text(content)
        first, *rest = read_records(tmp_path).runs
        assert (first.state, first.record, tuple(rest)) == ("damaged", None, made.runs[1:])
        assert str(first.failure).startswith(f"{own}: ")
        assert re.search(words, str(first.failure))
    own.write_text(good)
    assert read_records(tmp_path) == made


def test_costs_are_written_alone(tmp_path: Path) -> None:
    assert read_costs(tmp_path) == {}
    costs = synthetic_study().costs
    write_costs(costs, tmp_path)
    assert read_costs(tmp_path) == costs
