import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from necklace.record import pack_bits, read_record, unpack_bits, write_record, write_whole


@given(st.lists(st.booleans(), max_size=70))
def test_bits_survive_packing(bits: list[bool]) -> None:
    packed = pack_bits(torch.tensor(bits, dtype=torch.bool))
    assert unpack_bits(packed, len(bits)).tolist() == bits


def test_bits_of_another_length_are_refused() -> None:
    with pytest.raises(ValueError, match="1 bytes of correctness bits cannot hold 9 images"):
        unpack_bits(pack_bits(torch.ones(8, dtype=torch.bool)), 9)


def test_a_record_is_read_back_whole_and_strictly(train_cell: Callable, tmp_path: Path) -> None:
    record, folder = train_cell()
    path = folder / "record.json"
    assert read_record(path) == record
    content = json.loads(path.read_text())
    for damage, words in (
        (lambda c: c.pop("figures"), r"missing \['figures'\]"),
        (lambda c: c.update(extra=1), r"unknown \['extra'\]"),
        (lambda c: c.update(schema=0), r"schema: 0"),
    ):
        damaged = json.loads(json.dumps(content))
        damage(damaged)
        (tmp_path / "damaged.json").write_text(json.dumps(damaged))
        with pytest.raises(ValueError, match=words):
            read_record(tmp_path / "damaged.json")
    for text in (path.read_text()[:-9], "[]", "\x00"):
        (tmp_path / "damaged.json").write_text(text)
        with pytest.raises(ValueError, match="not a record"):
            read_record(tmp_path / "damaged.json")


def test_the_figures_agree_with_the_bits(train_cell: Callable) -> None:
    record, _ = train_cell()
    correct = unpack_bits(record.test_correct, record.data["images"]["test"])
    assert record.figures["test/acc"] == pytest.approx(correct.mean(), abs=1e-6)
    assert 0 < correct.mean() < 1
    assert isinstance(correct, np.ndarray)


def test_a_nan_is_not_written_and_leaves_nothing_behind(train_cell: Callable, tmp_path: Path) -> None:
    record, _ = train_cell()
    record.figures["test/acc"] = float("nan")
    with pytest.raises(ValueError, match="JSON compliant"):
        write_record(record, tmp_path / "record.json")
    assert not list(tmp_path.glob("*record*"))


def test_write_whole_replaces_or_leaves(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_whole(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_whole(path, "new \udc80")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
    write_whole(path, "new")
    assert path.read_text() == "new"
