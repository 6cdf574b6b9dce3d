import time

import pytest
import torch

from necklace.cli import bench_machine
from necklace.cli.bench_machine import TooBusyError
from necklace.cli.bench_timing import Times, best_rates, interleaved

CPU = torch.device("cpu")


def test_waiting_is_refused_and_every_round_is_tried() -> None:
    calls = []

    def wait() -> None:
        calls.append(0)
        time.sleep(0.002)

    with pytest.raises(
        TooBusyError,
        match=r"busy .*: wall / CPU of one thread had a median of \d+\.\d\d in 12 rounds of waiting, allowed is 1\.1; ",
    ):
        interleaved({"waiting": wait}, 2, CPU)
    assert len(calls) == 12


def test_a_round_with_a_wait_is_measured_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_machine, "BUSY", 10.0)  # other load may double the time, but not the long wait below
    calls = []

    def work() -> None:
        calls.append(0)
        end = time.process_time() + 0.01
        while time.process_time() < end:
            pass
        if len(calls) in (3, 5):
            time.sleep(0.5)

    times = interleaved({"work": work}, 2, CPU)["work"]
    assert len(calls) >= 6
    assert len(times.ms) == len(times.wall) == 2
    assert all(ms >= 10 and wall <= 10 * ms for ms, wall in zip(times.ms, times.wall, strict=True))


@pytest.mark.usefixtures("any_load")
def test_ways_take_turns_there_and_back() -> None:
    calls: list[str] = []
    ways = {name: lambda name=name: calls.append(name) for name in "abc"}
    times = interleaved(ways, 2, CPU)
    assert "".join(calls) == "cbaabc" * 2
    assert all(len(own.ms) == 2 for own in times.values())


def test_median_and_quartiles() -> None:
    times = Times([4.0, 1.0, 2.0, 3.0, 5.0], [4.0, 1.0, 3.0, 3.0, 10.0])
    assert times.median == 3
    assert times.quartiles == (2, 4)
    assert times.waiting == 1


@pytest.mark.usefixtures("any_load")
def test_rates_are_those_of_two_operators() -> None:
    rates = best_rates(torch.float32, CPU)
    assert set(rates) == {"torch.mm", "1x1 convolution"}
    assert all(0.1 < rate < 100_000 for rate in rates.values())
