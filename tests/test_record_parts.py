"""Every value of a real record, replaced by what it cannot be: refused by name, or without effect on the table."""

import copy
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from necklace.record import Record, parse_record, read_json
from necklace.results.analysis import analyse
from necklace.results.report import report_html
from necklace.results.runs_csv import runs_csv
from necklace.results.table import table_text
from necklace.study.adhoc import study_of_runs

Place = tuple[str | int, ...]
# What JSON has besides, and numbers that no count, share or loss can be.
OTHERS: list[Any] = [None, True, "7", "", [], {}, [1], {"a": 1}, -1, 0.5, 93.0, 1e308, float("inf"), float("nan"), 2**70]
# The config and the identity are what the run was asked for, and may be anything that Hydra composes.
FREE = ("config", "identity")


def places(node: Any, at: Place = ()) -> Iterator[Place]:
    if at:
        yield at
    inner = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in inner:
        yield from places(value, (*at, key))


def changed(content: Any, at: Place, value: Any) -> Any:
    content = copy.deepcopy(content)
    inner = content
    for key in at[:-1]:
        inner = inner[key]
    inner[at[-1]] = value
    return content


def kind(value: Any) -> str:
    return "number" if isinstance(value, int | float) and not isinstance(value, bool) else type(value).__name__


def shown(folder: Path) -> list[str]:
    study = study_of_runs(folder, "test/acc")
    results = analyse(study)
    table = table_text(results)
    report_html(results, table)
    lines = [*map(str, table.rows), *table.notes, runs_csv(study)]
    return [line for line in lines if "differs" not in line]  # sentences that name a difference in a machine, say


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """The folder of two finished runs, one with gates, and the content of that one's record."""
    from necklace.run.runner import run
    from tests.conftest import SMALL, spec_of

    outputs = tmp_path_factory.mktemp("outputs")
    options = [*SMALL, f"outputs={outputs}", "data.source.train=60", "callbacks.gates=1"]
    run(spec_of(options))
    record = run(spec_of([*options, "neck=focal"]))
    return outputs / "runs" / record.name, read_json(outputs / "runs" / record.name / "record.json")


def test_a_real_record_is_accepted(real: tuple[Path, Any]) -> None:
    folder, content = real
    assert isinstance(parse_record(content, folder / "record.json"), Record)
    more = changed(content, ("data", "skipped"), [["a.png", "empty"]])
    assert isinstance(parse_record(more, folder / "record.json"), Record)


def test_values_of_other_types_are_refused_by_name(real: tuple[Path, Any]) -> None:
    folder, content = real
    path, accepted = folder / "record.json", []
    for at in places(content):
        before = content
        for key in at:
            before = before[key]
        for value in OTHERS:
            if at[0] in FREE or kind(value) == kind(before):
                continue
            words = refusal(changed(content, at, value), path)
            if words is None:
                accepted.append((at, value))
            else:
                assert words.startswith(f"{path}: {at[0]}"), (at, value, words)
                assert "\n" not in words, (at, value, words)
                assert len(words) < len(str(path)) + 220, (at, value, words)
    # What may be null is null elsewhere; a float may be written as a whole number.
    nullable = {("evidence",), ("git",), ("gates",), ("test_correct",), ("data", "notes")}
    left = [(at, value) for at, value in accepted if not (value is None and (at in nullable or at[0] == "gates"))]
    assert not left, left[:20]


def refusal(content: Any, path: Path) -> str | None:
    try:
        parse_record(content, path)
    except ValueError as error:
        return str(error)
    return None


def mutations(content: Any, count: int) -> list[tuple[Place, Any]]:
    draw = random.Random(0)
    every = [(at, value) for at in places(content) for value in OTHERS]
    return draw.sample(every, count)


def test_what_is_accepted_makes_a_table_and_never_stops_it(real: tuple[Path, Any]) -> None:
    folder, content = real
    path, good = folder / "record.json", (folder / "record.json").read_text()
    try:
        undisturbed = shown(folder.parent)
        for at, value in mutations(content, 25):
            path.write_text(json.dumps(changed(content, at, value)))
            lines = shown(folder.parent)
            aside = any("1 of 2 runs are set aside" in line for line in lines)
            if not aside and at[0] in FREE and len(at) > 2:  # an option with another value makes another row's name
                assert [line for line in lines if " ± " in line] == [line for line in undisturbed if " ± " in line]
    finally:
        path.write_text(good)


@pytest.mark.parametrize(
    ("at", "value", "words"),
    [
        (("metrics", "test/acc"), 93.0, "metrics.test/acc: 93.0: must be a share from 0 to 1"),
        (("metrics", "test/loss"), "0.1", "metrics.test/loss: '0.1': "),
        (("cost", "neck", "params"), "12", "cost.neck.params: '12': "),
        (("cost", "neck"), None, "cost.neck: None: "),
        (("best_epoch",), 9, "best_epoch: 9: must be below the 2 epochs"),
        (("device", "threads"), "2", "device.threads: '2': "),
        (("data", "images", "test"), 8, "test_correct: "),
        (("data", "class_counts", "test"), [1], "data.class_counts.test: [1]: must have a number for each of the "),
        (("config", "seed"), 3, "identity.seed: 0: must be the config's"),
        (("config", "seed"), "0", "config.seed: '0': "),
        (("test_correct",), "!", "test_correct: '!': must be base64"),
        (("gates", "layers", "neck"), 5, "gates.layers.neck: 5: "),
        (("versions",), {}, "versions.torch: is missing"),
        (("name",), "../../etc", "name: '../../etc': "),
    ],
)
def test_it_is_said_what_is_wrong(real: tuple[Path, Any], at: Place, value: Any, words: str) -> None:
    folder, content = real
    with pytest.raises(ValueError, match="record") as error:
        parse_record(changed(content, at, value), folder / "record.json")
    assert str(error.value).startswith(f"{folder / 'record.json'}: {words}")


@pytest.mark.parametrize(
    "text", ["", "[" * 100_000, '{"schema": NaN}', "nul", "\x00" * 50, "[]", "7", '{"schema": 5}', "\ufeff{}"]
)
def test_a_file_that_is_no_record_is_one_sentence(tmp_path: Path, text: str) -> None:
    path = tmp_path / "record.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"record\.json: ") as error:
        parse_record(read_json(path), path)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < len(str(path)) + 220
