from pathlib import Path

import pytest
from rich.console import Console

from necklace.cli import bench_machine
from necklace.cli.bench_machine import Machine, TooBusyError
from necklace.cli.bench_report import Report

COLUMNS = {"what": "", "ms": ".2f", "runs": ",d"}
ROWS = [["a, or b", 1.23456, 12000], ["c", None, 3]]


@pytest.mark.usefixtures("any_load")
def test_a_table_is_the_same_on_the_screen_and_in_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Report(tmp_path / "new", "necklace bench x", Console()).write("of x", COLUMNS, ROWS, Machine(), ["note: y"], b"PNG")
    text = (tmp_path / "new" / "table.md").read_text()
    assert text in capsys.readouterr().out
    assert text.startswith("# of x\n\n- command: necklace bench x\n- machine: ")
    assert text.endswith(
        """- note: y

| what    |   ms |   runs |
| ------- | ---: | -----: |
| a, or b | 1.23 | 12,000 |
| c       |      |      3 |
"""
    )
    lines = (tmp_path / "new" / "table.csv").read_text().splitlines()
    assert lines[:2] == ["# of x", "# command: necklace bench x"]
    assert lines[-3:] == ["what,ms,runs", '"a, or b",1.235,12000', "c,,3"]
    assert (tmp_path / "new" / "table.png").read_bytes() == b"PNG"


@pytest.mark.usefixtures("any_load")
def test_nothing_is_written_where_the_machine_became_busy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine()
    monkeypatch.setattr(bench_machine, "BUSY", 0.5)
    monkeypatch.setattr(bench_machine, "_PAUSE_S", 0.0)
    with pytest.raises(TooBusyError):
        Report(tmp_path / "new", "necklace bench x", Console()).write("of x", COLUMNS, ROWS, machine)
    assert not (tmp_path / "new").exists()
