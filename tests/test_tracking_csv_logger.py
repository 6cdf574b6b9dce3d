import csv
from collections.abc import Callable
from pathlib import Path

import pytest

from necklace.record import Record


def test_every_epoch_is_in_the_csv_file(train_run: Callable[..., tuple[Record, Path]]) -> None:
    record, folder = train_run("logger=csv", "epochs=2")
    rows = list(csv.DictReader((folder / "csv" / "metrics.csv").read_text().splitlines()))
    values = [float(row["val/acc"]) for row in rows if row["val/acc"]]
    assert len(values) == record.epochs
    assert max(values) == pytest.approx(record.metrics["val/acc"])
