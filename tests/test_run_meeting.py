import socket
from concurrent.futures import ThreadPoolExecutor

import pytest

from necklace.run.meeting import Decision, Meeting, RanksLost


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setenv("MASTER_PORT", str(free.getsockname()[1]))
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")


@pytest.mark.usefixtures("place")
@pytest.mark.parametrize("decision", [Decision("train", "outputs/runs/one", "last.ckpt"), Decision("found"), Decision("end")])
def test_all_are_told_the_same_and_wait_for_each_other(decision: Decision) -> None:
    def walk(rank: int) -> tuple[Meeting, Decision, list[int]]:  # the store goes with the first one's
        meeting = Meeting(rank, 3, 1.0)
        unheard = []
        if rank == 0:
            meeting.tell(decision)
            unheard = meeting.absent("heard", 0.0)
        told = meeting.told()
        meeting.arrive(lambda: False)
        return meeting, told, unheard

    with ThreadPoolExecutor(3) as threads:
        found = list(threads.map(walk, range(3)))
    assert [told for _, told, _ in found] == [decision] * 3
    assert decision.action == "train" or not found[0][2]


@pytest.mark.usefixtures("place")
def test_who_is_absent_is_named() -> None:
    with ThreadPoolExecutor(2) as threads:
        first, second = threads.map(lambda rank: Meeting(rank, 3, 1.0), range(2))
    second.store.set("here/1", "1")
    with pytest.raises(RanksLost, match="rank 2 of 3 has ended"):
        first.arrive(lambda: True)
    assert first.absent("here", 0.1) == [2]


def test_an_environment_that_does_not_say_where_to_meet_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MASTER_PORT", raising=False)
    with pytest.raises(RanksLost, match=r"rank 1 of a run of several, and WORLD_SIZE=2, MASTER_PORT=none"):
        Meeting(1, 2, 1.0)
    monkeypatch.setenv("MASTER_PORT", "1")
    with pytest.raises(RanksLost, match=r"WORLD_SIZE=none"):
        Meeting(1, 0, 1.0)
