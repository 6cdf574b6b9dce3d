import json
from dataclasses import replace
from pathlib import Path

import pytest

from necklace.results.analysis import analyse
from necklace.results.rulings import rule_of, sentences
from necklace.results.table import table_text
from necklace.results.verdicts import divisor
from necklace.results.verify import verify
from necklace.results.write import write_study
from necklace.study.metrics import default_margin
from necklace.study.rules import CONTROL, Asked, Dropped, Rules, Setting, kind_of, read_rules, updated, write_rules
from necklace.study.store import StudyRecords, read_records
from tests.synthetic import by_name, synthetic_runs, synthetic_study

SETTING = Setting("fixed", 0.5, 0.05)


def asked(rows: str, setting: Setting = SETTING, seeds: tuple[int, ...] = (0, 1, 2), controls: str = "") -> Asked:
    """Rows of one letter; the first is the baseline."""
    return Asked(setting, rows[0], {row: (f"kind {row}",) for row in rows}, dict.fromkeys(rows, seeds), tuple(controls))


def with_rules(study: StudyRecords, setting: Setting = SETTING) -> StudyRecords:
    """A study with the rules that its records would have had from the start."""
    kinds = {
        row: tuple(sorted({kind_of(run.record.identity) for run in study.runs if run.row == row and run.record}))
        for row in study.info.rows
    }
    seeds = dict.fromkeys(kinds, study.info.seeds)
    assert study.info.baseline
    return replace(study, rules=updated(Rules(), Asked(setting, study.info.baseline, kinds, seeds, ()), [], 0))


def test_before_the_first_result_all_may_change() -> None:
    first = updated(Rules(), asked("nab"), [], 0)
    assert [(one.row, one.to, one.earlier, one.new) for one in first.compared] == [("a", "n", 0, 2), ("b", "n", 0, 2)]
    again = updated(first, asked("na", replace(SETTING, margin=1.0)), [], 0)
    assert again == updated(Rules(), asked("na", replace(SETTING, margin=1.0)), [], 0)
    assert len(again.settings) == 1


def test_rows_with_a_control_are_compared_twice() -> None:
    rules = updated(Rules(), asked("nabc", controls="c"), [], 0)
    assert [(one.row, one.to) for one in rules.compared] == [(*"an",), (*"bn",), (*"cn",), ("a", CONTROL), ("b", CONTROL)]
    assert rule_of(rules, "a", CONTROL).comparisons == 6


def test_rows_that_are_added_later_share_what_is_left_and_change_no_other_level() -> None:
    rules = updated(Rules(), asked("na"), [], 0)
    levels = {}
    for number, rows in enumerate(("nab", "nabc", "nabcd"), start=1):
        rules = updated(rules, asked(rows), [], 3 * number)
        levels = {row: rule_of(rules, row, "n").comparisons for row in rows[1:]}
    assert levels == {"a": 2, "b": divisor(1, 1), "c": divisor(2, 1), "d": divisor(3, 1)}


def test_a_row_that_is_gone_counts_for_ever() -> None:
    rules = updated(updated(Rules(), asked("na"), [], 0), asked("nb"), [Dropped("run_of_a", "kind a", 0)], 6)
    assert [one.row for one in rules.compared] == ["a", "b"]
    assert rule_of(rules, "b", "n").comparisons == divisor(1, 1)
    # It comes back with the level that it had.
    assert rule_of(updated(rules, asked("nba"), [], 6), "a", "n").comparisons == 2


def test_results_that_no_rules_know_are_counted_too() -> None:
    rules = updated(Rules(), asked("na"), [Dropped("x_s0", "kind x", 0), Dropped("x_s1", "kind x", 1)], 8)
    assert [(one.row, one.new) for one in rules.compared] == [("a", 2), ("x_s0", 2)]
    assert rules.settings == (replace(SETTING, records=8),)


def test_the_same_row_under_other_overrides_is_another_comparison() -> None:
    rules = updated(Rules(), asked("na"), [], 0)
    other = replace(asked("na"), kinds={"n": ("kind n2",), "a": ("kind a2",)})
    assert rule_of(updated(rules, other, [], 6), "a", "n").comparisons == divisor(1, 1)


def test_a_change_after_results_stays_in_the_history() -> None:
    rules = updated(Rules(), asked("na"), [], 0)
    rules = updated(rules, asked("na", Setting("fixed", 0.2, 0.05)), [], 4)
    rules = updated(rules, asked("na", Setting("anytime", 0.5, 0.05)), [], 6)
    assert [(one.rule, one.margin, one.records) for one in rules.settings] == [
        ("fixed", 0.5, 0),
        ("fixed", 0.2, 4),
        ("anytime", 0.5, 6),
    ]
    assert updated(rules, asked("na", Setting("anytime", 0.5, 0.05)), [], 9) == rules


def test_seeds_that_are_left_out() -> None:
    dropped = [Dropped("a_s7", "kind a", 7), Dropped("a_s1", "kind a", 1), Dropped("z_s9", "kind z", 9)]
    assert updated(Rules(), asked("na"), dropped, 9).left_out == {"a": (7,)}


def test_rules_are_read_as_they_were_written(tmp_path: Path) -> None:
    assert read_rules(tmp_path) is None
    rules = updated(Rules(), asked("nabc", controls="c"), [Dropped("a_s7", "kind a", 7)], 3)
    write_rules(rules, tmp_path)
    assert read_rules(tmp_path) == rules
    path = tmp_path / "records" / "rules.json"
    content = json.loads(path.read_text())
    for wrong in ({"settings": []}, {"settings": 3}, {"compared": [{}]}, {"left_out": {"a": ["x"]}}, {"more": 1}):
        path.write_text(json.dumps(content | wrong))
        if "more" in wrong:
            continue
        with pytest.raises(ValueError, match=r"rules\.json"):
            read_rules(tmp_path)


def test_usual_margins() -> None:
    assert [default_margin(f"test/{name}") for name in ("acc", "balanced_acc", "class_acc/cat")] == [0.5, 0.5, 0.5]
    assert [default_margin(f"test/{name}") for name in ("map", "map07", "ap/cat", "box_map", "box_ap/cat")] == [1.0] * 5


def test_verdicts_in_table_and_sentences() -> None:
    seeds = tuple(range(10))
    study = with_rules(synthetic_study(synthetic_runs(seeds), seeds=seeds))
    results = analyse(study)
    rows = by_name(results)
    assert rows["none"].verdict is None
    assert rows["spp"].verdict is not None
    assert rows["spp"].verdict.kind == "better"
    table = table_text(results)
    column = dict(zip((row[0] for row in table.rows), (row[table.headers.index("verdict")] for row in table.rows), strict=True))
    assert column["none"] == ""
    assert column["spp"].startswith("better by ")
    assert column["focal, focal_level=2"].startswith("undecided")
    assert sentences(results)[0].startswith("spp against none: better by ")
    assert sentences(results)[0].endswith(" points, 10 seeds")
    assert "95 % t" in table.headers
    assert any(note.startswith("Verdicts: t intervals") for note in table.notes)
    # Without rules, as in older studies, nothing is decided.
    assert "verdict" not in table_text(analyse(replace(study, rules=None))).headers


def test_the_table_of_an_anytime_study_has_its_intervals_and_no_others() -> None:
    seeds = tuple(range(10))
    study = with_rules(synthetic_study(synthetic_runs(seeds), seeds=seeds), Setting("anytime", 0.5, 0.05))
    results = analyse(study)
    table = table_text(results)
    assert "95 % anytime" in table.headers
    assert not {"95 % t", "p (Holm)", "95 % BCa"} & set(table.headers)
    spp = by_name(results)["spp"].verdict
    assert spp is not None
    row = next(row for row in table.rows if row[0] == "spp")
    assert row[table.headers.index("95 % anytime")] == f"{spp.low:+.2f} to {spp.high:+.2f}"
    assert not any("*" in text for row in table.rows for text in row)
    assert "holds at every number of seeds" in table.caption
    assert any("anytime-valid" in note for note in table.notes)
    assert not any("No stars" in note for note in table.notes)


def test_the_notes_name_every_change_for_ever() -> None:
    study = with_rules(synthetic_study())
    assert study.rules
    history = (SETTING, Setting("fixed", 0.2, 0.05, 9), Setting("fixed", 0.5, 0.1, 12))
    notes = " ".join(table_text(analyse(replace(study, rules=replace(study.rules, settings=history)))).notes)
    assert "Changed after 9 runs had finished: margin from 0.5 to 0.2." in notes
    assert "Changed after 12 runs had finished: margin from 0.2 to 0.5, alpha from 0.05 to 0.1." in notes
    late = replace(study, rules=replace(study.rules, settings=(replace(SETTING, records=5),)))
    notes = " ".join(table_text(analyse(late)).notes)
    assert "Rule (fixed), margin (0.5) and alpha (0.05) were set after 5 runs had finished" in notes


def test_a_study_that_left_seeds_out_decides_nothing_on_that_row(tmp_path: Path) -> None:
    seeds = tuple(range(12))
    whole = with_rules(synthetic_study(synthetic_runs(seeds), seeds=seeds))
    write_study(whole, analyse(whole), tmp_path)
    fewer = tuple(run for run in whole.runs if run.row != "spp" or run.seed != 3)
    assert whole.rules
    study = replace(whole, runs=fewer, rules=replace(whole.rules, left_out={"spp": (3,)}))
    results = analyse(study)
    verdicts = {name: row.verdict.kind for name, row in by_name(results).items() if row.verdict}
    assert verdicts["spp"] == "undecided"
    assert verdicts["sppf"] == "better"
    assert "spp, seed 3: finished, and left out of the table." in " ".join(results.notes)
    write_study(study, results, tmp_path)
    # --verify finds it by itself; the names here carry no hash, so a run is told by its file.
    path = tmp_path / "records" / "rules.json"
    content = json.loads(path.read_text())
    assert content["left_out"] == {"spp": [3]}


def test_verify_knows_rules_that_are_not_those_of_the_records(tmp_path: Path) -> None:
    study = with_rules(synthetic_study())
    write_study(study, analyse(study), tmp_path)
    assert verify(read_records(tmp_path), tmp_path) == []
    path = tmp_path / "records" / "rules.json"
    content = json.loads(path.read_text())
    for change, said in (
        ({"compared": content["compared"][1:]}, "does not know spp_s0"),
        ({"settings": [content["settings"][0] | {"alpha": 0.5}]}, "alpha"),
        ({"left_out": {"spp": [9]}}, "left_out is"),
    ):
        path.write_text(json.dumps(content | change))
        assert any(said in problem for problem in verify(read_records(tmp_path), tmp_path)), change
    # A margin that is changed by hand gives another table.
    path.write_text(json.dumps(content | {"settings": [content["settings"][0] | {"margin": 0.1}]}))
    assert any(problem.startswith("table.md") for problem in verify(read_records(tmp_path), tmp_path))
