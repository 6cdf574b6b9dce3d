import csv
import io
import os
import time
from collections.abc import Sequence
from contextlib import redirect_stderr
from pathlib import Path

import pytest
import torch
from PIL import Image

from necklace.cli import bench, bench_data, bench_machine, bench_peer, bench_slots, bench_start, bench_studies
from tests.warm import WarmProcess, warm_up


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("", "the following arguments are required: benchmark"),
        ("speed", "invalid choice: 'speed'"),
        ("loader", "the following arguments are required: --root"),
        ("records --counts 1000 250", "--counts 1000 250: must be hundreds, such as 1000"),
        ("records --counts 0", "--counts 0: must be hundreds"),
        ("studies --cells 3", "unrecognized arguments: --cells 3"),
        ("gates --rounds 0", "--rounds: 0: must be a whole number from 1"),
        ("studies --runs many", "--runs: many: must be a whole number from 1"),
        ("loader --root x --workers -1", "--workers -1: must be at least 0"),
        ("slots --root x --runs 3", "--runs 3: must be even"),
    ],
)
def test_a_wrong_command_line_is_answered_in_a_line(line: str, words: str) -> None:
    output = io.StringIO()
    with redirect_stderr(output), pytest.raises(SystemExit) as end:
        bench.main(line.split())
    assert end.value.code == 2
    assert words in output.getvalue()


def test_on_a_busy_machine_nothing_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(bench_machine, "BUSY", 0.5)
    monkeypatch.setattr(bench_machine, "_PAUSE_S", 0.0)
    for line in (["train"], ["necks"], ["studies"], ["peer", "--root", "x"]):
        with pytest.raises(
            SystemExit, match=rf"error: bench {line[0]}: the machine is busy.*allowed is 0\.5; nothing is written"
        ):
            bench.main(line)
    assert not list(tmp_path.iterdir())


def measured(folder: Path, *line: str, capsys: pytest.CaptureFixture[str]) -> list[dict[str, str]]:
    """Run a benchmark in a folder; gives the rows of its table, by the names of its columns."""
    bench.main(list(line))
    written = folder / "experiments" / "benchmarks" / line[0]
    assert (written / "table.md").read_text() in capsys.readouterr().out
    lines = (written / "table.csv").read_text().splitlines()
    head = [one for one in lines if one.startswith("# ")]
    assert head[1] == f"# command: necklace bench {' '.join(line)}"
    assert [one[2:].partition(":")[0] for one in head[2:6]] == ["machine", "versions", "allocator", "load"]
    return list(csv.DictReader(lines[len(head) :]))


@pytest.fixture
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, any_load: None) -> None:
    monkeypatch.chdir(tmp_path)


pytestmark = pytest.mark.usefixtures("_here")


@pytest.fixture
def _warm_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A benchmark of what processes do once they have begun; tests/test_cli_bench_processes.py has `timed` itself."""

    def timed(command: Sequence[str], folder: Path) -> tuple[float, str]:
        began = time.perf_counter()
        ended = WarmProcess(*command[1:], cwd=folder, env=os.environ).finish()
        assert ended.returncode == 0, ended.stderr
        return time.perf_counter() - began, ended.stdout

    warm_up()
    monkeypatch.setattr(bench_data, "timed", timed)


def noise_images(root: Path, train: int, size: tuple[int, int]) -> str:
    """An image folder of two classes of noise, with four test images of each."""
    generator = torch.Generator().manual_seed(0)
    for split, count in (("train", train), ("test", 4)):
        for name in ("one", "two"):
            folder = root / split / name
            folder.mkdir(parents=True)
            for index in range(count):
                pixels = torch.randint(0, 256, (*size, 3), dtype=torch.uint8, generator=generator)
                Image.fromarray(pixels.numpy()).save(folder / f"{index:02}.jpg")
    return str(root)


def test_the_loader_is_compared_with_imagefolder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = noise_images(tmp_path / "images", train=12, size=(20, 24))
    line = ("loader", "--root", root, "--size", "16", "--batch-size", "8", "--workers", "1")
    rows = measured(tmp_path, *line, capsys=capsys)
    assert [row["images/s"] for row in rows] == ["loader alone", "training ResNet-8"]
    for row in rows:
        assert float(row["ratio"]) == pytest.approx(float(row["necklace"]) / float(row["ImageFolder, 1 workers"]), rel=0.01)


def test_gates_are_timed_for_each_kind_of_focal_layer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = measured(tmp_path, "gates", "--batch-size", "4", "--rounds", "1", "--every", "5", capsys=capsys)
    assert len(rows) == 3
    for row in rows:
        assert all(float(row[kind]) > 0 for kind in ("training step", "val batch", "watched"))
        assert float(row["every 5 epochs %"]) == pytest.approx(float(row["of an epoch with a pass %"]) / 5, rel=0.01)


@pytest.mark.slow
@pytest.mark.usefixtures("_warm_processes")
def test_a_folder_is_read_with_and_without_the_cache(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    noise_images(tmp_path / "images", train=6, size=(8, 8))
    rows = measured(tmp_path, "data", "--root", "images", "--rounds", "1", capsys=capsys)
    assert [row["what"] for row in rows] == ["first run", "later run", "data.cache=null"]
    assert all(float(row["wall s"]) > 0 for row in rows)
    assert "until 20 images are ready" in (tmp_path / "experiments" / "benchmarks" / "data" / "table.md").read_text()


def test_a_step_is_taken_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, batches, *loops = measured(tmp_path, "train", "--rounds", "2", "--chunk", "2", "--batch-size", "4", capsys=capsys)
    for loop in loops:
        beyond = float(run["ms a step"]) - float(batches["ms a step"]) - float(loop["ms a step"])
        assert float(loop["ms of the run beyond it and the batches"]) == pytest.approx(beyond, abs=0.02)


def test_a_process_says_what_it_took(tmp_path: Path) -> None:
    at = bench_start._process(("ablate", "--help"), str(tmp_path))
    assert at.keys() == {"END", "ALL"}
    assert 0 < at["END"] <= at["ALL"]


@pytest.mark.slow
def test_a_study_is_compared_with_cold_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    small = {"data.source.train": 40, "data.source.test": 10, "backbone.width": 4, "epochs": 1, "batch_size": 16}
    monkeypatch.setattr(bench_studies, "SHORT", bench_studies.SHORT | small)
    rows = measured(tmp_path, "studies", "--runs", "2", "--cold", "1", capsys=capsys)
    training, start, to_last, to_report, alone = (float(row["s"]) for row in rows)
    assert training < to_last < to_report
    assert 0 < start < to_last
    assert float(rows[3]["/ cold processes"]) == pytest.approx(to_report / alone, rel=0.01)


@pytest.mark.slow
def test_a_study_in_two_slots_is_compared_with_two_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = noise_images(tmp_path / "images", train=40, size=(32, 32))
    small = {"data.train_images": 60, "data.val_fraction": 0.1, "backbone.width": 8, "batch_size": 16}
    monkeypatch.setattr(bench_slots, "RUN", bench_slots.RUN | small)
    rows = measured(tmp_path, "slots", "--root", root, "--runs", "2", "--rounds", "1", capsys=capsys)
    for way in ("ablate.py, 2 slots", "2 bare processes"):
        training, runs, last, whole, beside = (float(row[way]) for row in rows)
        assert training < runs < last < whole
        assert beside == pytest.approx(whole - runs, rel=0.5)
    for row in rows[:-1]:
        loss = 100 * (1 - float(row["2 bare processes"]) / float(row["ablate.py, 2 slots"]))
        assert float(row["loss of throughput %"]) == pytest.approx(loss, abs=0.2, rel=1e-3)  # table.csv has four digits


@pytest.mark.slow
def test_plan_and_table_of_many_runs_are_timed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = measured(tmp_path, "records", "--counts", "100", "200", capsys=capsys)
    assert [row["runs"] for row in rows] == ["100", "200"]
    for row in rows:
        parts = float(row["plan s"]) + float(row["records, tables, figures, report s"])
        assert float(row["in all s"]) == pytest.approx(parts, rel=0.01)
        assert float(row["ms a run"]) == pytest.approx(1000 * parts / int(row["runs"]), rel=0.01)


@pytest.mark.slow
def test_a_study_is_compared_with_a_plain_multirun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = noise_images(tmp_path / "images", train=68, size=(32, 32))
    monkeypatch.setattr(bench_peer, "COUNTS", {"train": 64, "val": 4, "test": 4})
    own, usual = measured(tmp_path, "peer", "--root", root, "--epochs", "1", "--seeds", "1", capsys=capsys)
    assert float(usual["ratio"]) == pytest.approx(float(usual["wall-clock s"]) / float(own["wall-clock s"]), rel=0.01)
    assert all(0 <= float(row["mean test accuracy"]) <= 1 for row in (own, usual))
    monkeypatch.setattr(bench_peer, "COUNTS", {"train": 68, "val": 4, "test": 4})
    with pytest.raises(SystemExit, match=r"error: bench peer: --root .*: train/one has too few images for 72"):
        bench.main(["peer", "--root", root])
