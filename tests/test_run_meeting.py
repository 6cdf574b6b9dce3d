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
def test_all_are_told_the_same_and_wait_for_each_other() -> None:
    decisions = [Decision("train", "outputs/runs/one", "outputs/runs/one/checkpoints/last.ckpt"), Decision("end")]

    def walk(rank: int) -> tuple[Meeting, Decision]:  # the store goes with the first one's
        meeting = Meeting(rank, 3, 1.0)
        if rank == 0:
            meeting.tell(decisions[0])
            meeting.tell(decisions[1])  # waits until both have heard the first one
        told = meeting.told()
        meeting.arrive(lambda: False)
        assert meeting.absent("here", 0.0) == []
        return meeting, told

    with ThreadPoolExecutor(3) as threads:
        found = list(threads.map(walk, range(3)))
    assert [told for _, told in found] == [decisions[1], decisions[0], decisions[0]]


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
