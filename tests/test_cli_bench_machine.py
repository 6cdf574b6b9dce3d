import pytest

from necklace.cli import bench_machine
from necklace.cli.bench_machine import CORES, Machine, TooBusyError, waiting


def test_more_threads_than_cores_wait_for_each_other() -> None:
    # Whatever else runs here: of three threads on each core, one waits at least for two others.
    assert waiting(3 * CORES) > 2


def test_where_threads_wait_nothing_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_machine, "_PAUSE_S", 0.0)
    with pytest.raises(
        TooBusyError, match=rf"busy \(load .*\): wall / CPU of {3 * CORES} threads is \d\.\d\d, allowed is 1\.1"
    ):
        Machine(3 * CORES)


@pytest.mark.usefixtures("any_load")
def test_a_machine_that_became_busy_meanwhile_gives_no_head(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(2)
    facts = machine.facts()
    assert [fact.partition(":")[0] for fact in facts] == ["machine", "versions", "allocator", "load"]
    assert facts[0].endswith(f"{CORES} cores, 2 threads at a time")
    monkeypatch.setattr(bench_machine, "BUSY", 0.5)
    monkeypatch.setattr(bench_machine, "_PAUSE_S", 0.0)
    with pytest.raises(TooBusyError):
        machine.facts()
