import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

import necklace.run.rank_watch
from necklace.run.rank_reports import RankReports
from necklace.run.rank_watch import RankWatch

LATE = "gloo: Timed out waiting 600000ms"


def test_a_rank_that_does_not_react_says_where_it_stands_and_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(necklace.run.rank_watch, "POLL_S", 0.01)
    monkeypatch.setattr(necklace.run.rank_watch, "LATE_S", 0.1)
    reports, ended = RankReports(tmp_path / "ranks"), threading.Event()
    other = reports.enter(1)
    watch = RankWatch(reports.enter(0), reports, dict, ended.set)
    watch.start()
    time.sleep(0.1)
    assert not watch.is_trouble
    reports.write(replace(other, state="broken", words=LATE))
    assert ended.wait(10)
    found = reports.read()[0]
    assert found.state == "silent"
    assert "ended.wait(10)" in found.trace
    watch.say("raised", "unplugged", "OSError")
    watch.join(10)
    assert not watch.is_alive()
    assert (reports.read()[0].state, reports.read()[0].words) == ("raised", "unplugged")


def test_a_rank_that_reacts_has_the_last_word(tmp_path: Path) -> None:
    reports = RankReports(tmp_path / "ranks")
    other, mine = reports.enter(1), reports.enter(0)
    watch = RankWatch(mine, reports, lambda: {1: 1}, lambda: None)
    watch.say("broken", LATE, "")
    reports.write(replace(other, state="raised"))
    watch.start()
    watch.join(10)
    assert (watch.is_trouble, reports.read()[0].state) == (False, "broken")
