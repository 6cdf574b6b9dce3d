import csv
import io
import re
from contextlib import redirect_stderr
from pathlib import Path

import pytest
import torch
from PIL import Image
from rich.console import Console

from necklace.cli import bench, bench_peer, bench_report, bench_start, bench_studies


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("", "the following arguments are required: benchmark"),
        ("speed", "invalid choice: 'speed'"),
        ("loader", "the following arguments are required: --root"),
        ("records --counts 1000 250", "--counts 1000 250: must be hundreds, such as 1000"),
        ("records --counts 0", "--counts 0: must be hundreds"),
        ("studies --cells 3", "unrecognized arguments: --cells 3"),
    ],
)
def test_a_wrong_command_line_is_answered_in_a_line(line: str, words: str) -> None:
    output = io.StringIO()
    with redirect_stderr(output), pytest.raises(SystemExit) as end:
        bench.main(line.split())
    assert end.value.code == 2
    assert words in output.getvalue()


def numbers(line: str) -> list[float]:
    return [float(text.replace(",", "")) for text in re.findall(r"\d[\d,]*\.?\d*", line)]


def row(output: str, name: str) -> list[float]:
    """The numbers of a row of a printed table."""
    (line,) = [line for line in output.splitlines() if name in line and "│" in line]
    return numbers(line.partition(name)[2])


@pytest.fixture(autouse=True)
def _wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")


def noise_images(root: Path, train: int, size: tuple[int, int]) -> None:
    """An image folder of two classes of noise, with four test images of each."""
    generator = torch.Generator().manual_seed(0)
    for split, count in (("train", train), ("test", 4)):
        for name in ("one", "two"):
            folder = root / split / name
            folder.mkdir(parents=True)
            for index in range(count):
                pixels = torch.randint(0, 256, (*size, 3), dtype=torch.uint8, generator=generator)
                Image.fromarray(pixels.numpy()).save(folder / f"{index:02}.jpg")


def test_the_loader_is_compared_with_imagefolder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    noise_images(tmp_path, train=12, size=(20, 24))
    bench.main(["loader", "--root", str(tmp_path), "--size", "16", "--batch-size", "8", "--workers", "1"])
    output = capsys.readouterr().out
    for name in ("loader alone", "training ResNet-8"):
        own, usual, ratio = row(output, name)
        assert ratio == pytest.approx(own / usual, rel=0.1, abs=0.02)


def test_gates_are_timed_for_each_kind_of_focal_layer(capsys: pytest.CaptureFixture[str]) -> None:
    bench.main(["gates", "--batch-size", "4", "--rounds", "1", "--every", "5"])
    output = capsys.readouterr().out
    for name in ("ResNet-8, focal ", "ResNet-8, focal_block", "(4 focal layers)"):
        step, plain, watched, end, share, of_all = row(output, name)
        assert min(step, plain, watched, end) >= 0
        assert of_all == pytest.approx(share / 5, abs=0.02)


@pytest.mark.slow
def test_a_study_is_compared_with_cold_processes(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    small = {"data.source.train": 40, "data.source.test": 10, "backbone.width": 4, "epochs": 1, "batch_size": 16}
    monkeypatch.setattr(bench_studies, "SHORT", bench_studies.SHORT | small)
    bench.main(["studies", "--runs", "2", "--cold", "1"])
    output = capsys.readouterr().out
    assert "2 runs of " in output
    to_last, to_report = row(output, "plan to the last run"), row(output, "costs measured")
    assert to_last <= to_report
    assert row(output, "study / cold processes")[0] > 0


@pytest.mark.slow
def test_plan_and_table_of_many_runs_are_timed(capsys: pytest.CaptureFixture[str]) -> None:
    bench.main(["records", "--counts", "100", "200"])
    output = capsys.readouterr().out
    lines = [line for line in output.splitlines() if line.startswith("│")]
    found = [numbers(line) for line in lines]
    assert [runs for runs, *_ in found] == [100, 200]
    for runs, plan, files, both, each in found:
        assert both == pytest.approx(plan + files, abs=0.11)
        assert each == pytest.approx(1000 * both / runs, abs=1.1)


@pytest.mark.slow
def test_a_study_is_compared_with_a_plain_multirun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    noise_images(tmp_path, train=68, size=(32, 32))
    monkeypatch.setattr(bench_peer, "COUNTS", {"train": 64, "val": 4, "test": 4})
    bench.main(["peer", "--root", str(tmp_path), "--epochs", "1", "--seeds", "1"])
    output = capsys.readouterr().out
    assert "4 runs of 1 epochs, 128 images" in output
    own, usual = row(output, "ablate.py, to the report"), row(output, "Lightning and Hydra multirun")
    assert row(output, "ratio")[0] == pytest.approx(usual[0] / own[0], rel=0.1)
    assert all(0 <= accuracy <= 1 for *_, accuracy in (own, usual))
    monkeypatch.setattr(bench_peer, "COUNTS", {"train": 68, "val": 4, "test": 4})
    with pytest.raises(ValueError, match="train/one has too few images for 72"):
        bench_peer.peer(tmp_path, 1, 1, Console())


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where benchmarks write, on a machine that is never too busy."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(bench_report, "BUSY", 1e9)
    return tmp_path / "experiments" / "benchmarks"


def rows_of(path: Path) -> list[list[str]]:
    lines = path.read_text().splitlines()
    facts = {line[2:].partition(":")[0] for line in lines if line.startswith("#")}
    assert facts == {"command", "machine", "versions", "allocator", "load"}
    return list(csv.reader(line for line in lines if not line.startswith("#")))


def test_a_folder_is_read_with_and_without_the_cache(results: Path) -> None:
    for split, count in (("train", 6), ("test", 2)):
        for shade, name in enumerate(("one", "two")):
            folder = results.parent / "images" / split / name
            folder.mkdir(parents=True)
            for index in range(count):
                Image.new("RGB", (8, 8), (9 * index, 90 * shade, 7)).save(folder / f"{index}.jpg", quality=95)
    bench.main(["data", "--root", str(results.parent / "images"), "--rounds", "1"])
    (_, *rows) = rows_of(results / "data" / "table.csv")
    assert [name for name, *_ in rows] == ["first run", "later run", "data.cache=null"]
    assert all(float(seconds) >= 0 for _, *times in rows for seconds in times)
    assert "until 16 images are ready" in (results / "data" / "table.md").read_text()


def test_a_step_is_taken_apart(results: Path) -> None:
    bench.main(["train", "--rounds", "2", "--chunk", "2", "--batch-size", "4"])
    (_, run, batches, same, plain) = rows_of(results / "train" / "table.csv")
    for loop in (same, plain):
        assert float(loop[2]) == pytest.approx(float(run[1]) - float(batches[1]) - float(loop[1]), abs=0.02)


def test_a_process_says_what_it_took(tmp_path: Path) -> None:
    at = bench_start._process(("ablate", "--help"), str(tmp_path))
    assert at.keys() == {"END", "ALL"}
    assert 0 < at["END"] <= at["ALL"]


def test_on_a_busy_machine_nothing_is_measured(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_report, "BUSY", 0.5)
    with pytest.raises(SystemExit, match=r"error: bench train: the machine is busy: .* more than 0\.5; nothing is written"):
        bench.main(["train"])
    assert not results.exists()
