import io
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from necklace.run import RunFailed
from necklace.table import read_cells, run_table


def shown(root: Path) -> str:
    console = Console(width=200, file=io.StringIO())
    console.print(run_table(read_cells(root), "study"))
    return console.file.getvalue()  # pyright: ignore[reportAttributeAccessIssue]


def test_every_run_is_a_row_the_failed_one_too(train_cell: Callable, tmp_path: Path) -> None:
    record, folder = train_cell("neck=sppf")
    with pytest.raises(RunFailed):
        train_cell("neck=focal", "optimizer.lr=1e30", "schedule=constant")
    started = tmp_path / "runs" / "started_s0_0123456789"
    (started / "checkpoints").mkdir(parents=True)
    (started / "config.yaml").write_text("seed: 0\n")
    stranger = folder / "wandb" / "files"
    stranger.mkdir(parents=True)
    (stranger / "config.yaml").write_text("wandb_version: 1\n")
    assert len(read_cells(tmp_path)) == 3
    text = shown(tmp_path)
    row = next(line for line in text.splitlines() if "sppf" in line)
    assert f"{100 * record.figures['test/acc']:.1f}" in row
    assert f"{record.total('params'):,}" in row
    assert f"{record.cost['neck']['params']:,}" in row
    assert "FAILED" in next(line for line in text.splitlines() if "focal" in line)
    assert "unfinished" in next(line for line in text.splitlines() if "started" in line)


def test_a_damaged_record_is_an_error_not_a_missing_row(train_cell: Callable, tmp_path: Path) -> None:
    _, folder = train_cell()
    (folder / "record.json").write_text("{}")
    with pytest.raises(ValueError, match=str(folder)):
        read_cells(tmp_path)


def test_a_folder_without_runs_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="holds no runs"):
        read_cells(tmp_path)
