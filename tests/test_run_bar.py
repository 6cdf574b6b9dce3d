"""A training in a terminal, a real one: the command in a pseudo-terminal of its own."""

import csv
import os
import pty
import re
from pathlib import Path
from select import select

import pytest

from tests.conftest import SMALL
from tests.warm import WarmProcess

ROOT = Path(__file__).parents[1]
# Colours, moves of the cursor, and what a terminal is asked.
CONTROL = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")


def in_terminal(*arguments: str, cwd: Path) -> str:
    """What the command writes to a terminal of 160 columns, without its control sequences."""
    leader, follower = pty.openpty()
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1", "COLUMNS": "160", "TERM": "xterm"}
    process = WarmProcess(ROOT / "train.py", *arguments, cwd=cwd, env=environment, terminal=os.ttyname(follower))
    found = b""
    while select([leader], [], [], 0.05)[0] or process.is_alive():
        if select([leader], [], [], 0)[0]:
            found += os.read(leader, 65536)
    os.close(follower)
    os.close(leader)
    assert process.finish(60).returncode == 0, found.decode()
    return CONTROL.sub("", found.decode())


@pytest.mark.slow
def test_a_terminal_shows_the_figures_of_each_epoch_and_a_bar_that_carries_them(tmp_path: Path) -> None:
    shown = in_terminal(*SMALL, "epochs=3", cwd=tmp_path)
    (history,) = tmp_path.glob("outputs/runs/*/history.csv")
    rows = list(csv.DictReader(history.read_text().splitlines()))
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    places = []
    for row in rows:
        figures = [f"{name} {float(row[name]):.4g}" for name in ("lr", "train/loss", "val/acc", "val/loss")]
        (line,) = re.findall(rf"epoch {row['epoch']}/3  .*? s\b", shown)
        assert all(figure in line for figure in figures), line
        assert re.search(r"  \d+\.\d s$", line)
        places.append(shown.index(line))
    assert places == sorted(places)
    assert places[-1] < shown.index("best epoch")
    # Each line stands there before the next epoch's bar is drawn.
    bars = [[found.start() for found in re.finditer(rf"epoch {number}/3 +[━╸╺ ]", shown)] for number in (1, 2, 3)]
    assert all(bars)
    assert places[0] < bars[1][0]
    assert places[1] < bars[2][0]
    carried = re.findall(r"it/s *loss: [\d.]+ *val/acc: ([\d.]+)", shown)
    assert {f"{float(row['val/acc']):.4g}" for row in rows[:-1]} <= set(carried)
    assert "epoch 0" not in shown.lower()
    assert "Epoch" not in shown
