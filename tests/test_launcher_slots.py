"""How the machine is shared out. No process is started."""

import os
from pathlib import Path

import pytest

from necklace.atomic import HOST
from necklace.launcher import slots
from necklace.launcher.slots import Slot, release, slots_of_machine, visible_gpus


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight cores and three GPUs."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    monkeypatch.setattr(slots, "visible_gpus", lambda: ["0", "1", "2"])


def cores(found: list[Slot]) -> list[tuple[int, ...]]:
    return [slot.cores for slot in found]


@pytest.mark.usefixtures("machine")
def test_cores_alone() -> None:
    assert cores(slots_of_machine(1, False, None, None)) == [(core,) for core in range(8)]
    assert cores(slots_of_machine(2, False, None, None)) == [(0, 1), (2, 3), (4, 5), (6, 7)]
    assert cores(slots_of_machine(1, False, None, 3)) == [(0, 1, 2), (3, 4, 5)]
    assert cores(slots_of_machine(1, False, 2, None)) == [(0, 1, 2, 3), (4, 5, 6, 7)]
    (pair, *_) = slots_of_machine(2, False, 2, None)
    assert (pair.threads, pair.gpus) == (2, None)
    assert pair.locks == tuple(f"{HOST}-core-{core}.lock" for core in range(4))


@pytest.mark.usefixtures("machine")
def test_slots_beyond_the_cores_lie_in_layers_with_locks_of_their_own() -> None:
    found = slots_of_machine(1, False, 3, 4)
    assert cores(found) == [(0, 1, 2, 3), (4, 5, 6, 7), (0, 1, 2, 3)]
    assert found[2].locks == tuple(f"{HOST}-core-{core}-layer-1.lock" for core in range(4))


@pytest.mark.usefixtures("machine")
def test_gpus_decide_the_number_of_slots() -> None:
    found = slots_of_machine(1, True, None, None)
    assert [slot.gpus for slot in found] == [("0",), ("1",), ("2",)]
    assert cores(found) == [(0, 1), (2, 3), (4, 5)]
    assert found[1].locks == tuple(f"{HOST}-{name}.lock" for name in ("gpu-1", "core-2", "core-3"))
    (only,) = slots_of_machine(2, True, None, None)
    assert (only.gpus, only.threads) == (("0", "1"), 4)
    assert [slot.gpus for slot in slots_of_machine(2, True, 2, None)] == [("0", "1"), ("2", "0")]


def test_a_slot_is_taken_whole_or_not_at_all(tmp_path: Path) -> None:
    both, one = Slot((0, 1), None, 2, ("a.lock", "b.lock")), Slot((1,), None, 1, ("b.lock",))
    held = one.lock(tmp_path)
    assert held is not None
    assert both.lock(tmp_path) is None
    first = Slot((0,), None, 1, ("a.lock",)).lock(tmp_path)
    assert first is not None  # the failed try has let go of it
    release([*held, *first])
    again = both.lock(tmp_path)
    assert again is not None
    release(again)


def test_gpus_keep_the_names_that_the_environment_gives_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-5f,3")
    assert visible_gpus() == ["GPU-5f", "3"]
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert visible_gpus() == ["0", "1"]
