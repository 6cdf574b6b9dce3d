# The runs made here have what may be missing elsewhere.
# pyright: reportOptionalMemberAccess=false, reportOptionalSubscript=false, reportOptionalOperand=false
# pyright: reportArgumentType=false, reportOperatorIssue=false
import csv
import io
import os
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from necklace.results.analysis import analyse
from necklace.results.runs_csv import runs_csv
from necklace.results.table import latex, markdown, table_text, terminal
from tests.synthetic import ROWS, SEEDS, lossy_study, synthetic_run, synthetic_study

GOLDEN = Path(__file__).parent / "golden"


@pytest.mark.parametrize("name", ["table.md", "table.tex", "runs.csv"])
def test_golden(name: str) -> None:
    made = lossy_study()
    table = table_text(analyse(made))
    text = {
        "table.md": lambda: markdown(table, made.info.name),
        "table.tex": lambda: latex(table, made.info.name),
        "runs.csv": lambda: runs_csv(made),
    }[name]()
    path = GOLDEN / name
    if os.environ.get("UPDATE_GOLDEN"):
        path.write_text(text)
    assert text == path.read_text()


def test_every_number_of_the_table_is_a_number_of_the_results() -> None:
    results = analyse(lossy_study())
    table = table_text(results)
    column = {header: [row[k] for row in table.rows] for k, header in enumerate(table.headers)}
    for at, row in enumerate(results.rows):
        assert column["test/acc %"][at] == f"{100 * row.summary.mean:.2f} ± {100 * row.summary.sd:.2f}"
        if row.difference:
            assert float(column["difference"][at]) == pytest.approx(100 * row.difference.mean, abs=0.005)
            low, _, high = column["95 % t"][at].partition(" to ")
            assert float(low) == pytest.approx(100 * row.difference.interval.low, abs=0.005)
            assert float(high) == pytest.approx(100 * row.difference.interval.high, abs=0.005)
    assert column["n"] == ["3", "2/3", "3", "3", "2/3"]


def test_lost_cells_are_named() -> None:
    notes = table_text(analyse(lossy_study())).notes
    assert "spp, seed 1: failed: ValueError: the loss is nan" in notes
    assert "focal, focal_level=2, seed 2: missing" in notes
    runs = [synthetic_run(row, seed, lose="failed" if row == "spp" else None) for row in ROWS for seed in SEEDS]
    table = table_text(analyse(synthetic_study(runs)))
    spp = next(row for row in table.rows if row[0] == "spp")
    assert spp[1:3] == ("0/3", "failed")


def test_markdown_stays_a_table_and_latex_compiles_no_text_as_a_command() -> None:
    table = table_text(analyse(lossy_study()))
    lines = [line for line in markdown(table, "x").splitlines() if line.startswith("|")]
    assert len({line.replace("\\|", "").count("|") for line in lines}) == 1
    text = latex(table, "a_b & 50%")
    assert r"\caption{a\_b \& 50\%." in text
    assert r"$\pm$" in text
    body = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert len({line.replace(r"\&", "").count("&") for line in body}) == 1


def test_runs_csv_has_a_line_for_each_run() -> None:
    rows = list(csv.DictReader(io.StringIO(runs_csv(lossy_study()))))
    assert len(rows) == 15
    assert [row["state"] for row in rows].count("done") == 13
    failed = next(row for row in rows if row["state"] == "failed")
    assert (failed["row"], failed["seed"], failed["failure"]) == ("spp", "1", "ValueError: the loss is nan")
    assert all(float(row["test/acc"]) > 0 for row in rows if row["state"] == "done")


def test_the_terminal_shows_the_short_table_in_80_columns() -> None:
    console = Console(width=80, file=io.StringIO())
    console.print(terminal(table_text(analyse(synthetic_study())), "necks"))
    text = console.file.getvalue()  # pyright: ignore[reportAttributeAccessIssue]
    assert "…" not in text
    assert "focal, focal_level=2" in text


def test_one_seed_gives_differences_without_p_or_star() -> None:
    table = table_text(analyse(synthetic_study([synthetic_run(row, 0) for row in ROWS], seeds=(0,))))
    assert "p (Holm)" not in table.headers
    column = [row[table.headers.index("difference")] for row in table.rows]
    assert column[0] == ""
    assert all(text[0] in "+-" and "*" not in text for text in column[1:])


def test_markdown_begins_with_the_answer() -> None:
    table = replace(table_text(analyse(lossy_study())), answer=("spp against none: better by 1.0 to 2.0 points, 9 seeds",))
    lines = markdown(table, "necks").splitlines()
    assert lines[:4] == ["# necks", "", "- spp against none: better by 1.0 to 2.0 points, 9 seeds", ""]
    assert lines[4].startswith("| row |")
