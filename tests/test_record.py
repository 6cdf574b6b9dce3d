import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from necklace.record import pack_bits, read_record, unpack_bits, write_record


@given(st.lists(st.booleans(), max_size=70))
def test_bits_survive_packing(bits: list[bool]) -> None:
    packed = pack_bits(np.array(bits, dtype=bool))
    assert unpack_bits(packed, len(bits)).tolist() == bits


def test_bits_of_another_length_are_refused() -> None:
    with pytest.raises(ValueError, match="1 bytes of correctness bits cannot hold 9 images"):
        unpack_bits(pack_bits(np.ones(8, dtype=bool)), 9)


def test_a_record_is_read_back_whole_and_strictly(train_run: Callable, tmp_path: Path) -> None:
    record, folder = train_run()
    path = folder / "record.json"
    assert read_record(path) == record
    content = json.loads(path.read_text())
    for damage, words in (
        (lambda c: c.pop("metrics"), "damaged.json: metrics is missing"),
        (lambda c: c.update(extra=1), "damaged.json: extra: 1: is not known here"),
        (lambda c: c.update(schema=0), "damaged.json: schema: 0: not a record of a schema that is known here"),
        (lambda c: c.update(schema=99), "damaged.json: schema: 99: not a record of a schema that is known here"),
        (lambda c: c.update(epochs="2"), "damaged.json: epochs: '2': Input should be a valid integer"),
        (lambda c: c["metrics"].update({"test/acc": "0.9"}), r"damaged.json: metrics.test/acc: '0.9': .*valid number"),
        (lambda c: c.update(code="abc"), "damaged.json: code: 'abc': "),
        (lambda c: c.update(neck_input=[8, None]), r"damaged.json: neck_input.1: None: "),
    ):
        damaged = json.loads(json.dumps(content))
        damage(damaged)
        (tmp_path / "damaged.json").write_text(json.dumps(damaged))
        with pytest.raises(ValueError, match=words) as error:
            read_record(tmp_path / "damaged.json")
        assert "\n" not in str(error.value)
    for text in (path.read_text()[:-9], "[]", "\x00"):
        (tmp_path / "damaged.json").write_text(text)
        with pytest.raises(ValueError, match=r"not a record|not JSON"):
            read_record(tmp_path / "damaged.json")


def test_the_metrics_agree_with_the_bits(train_run: Callable) -> None:
    record, _ = train_run()
    correct = unpack_bits(record.test_correct, record.data["images"]["test"])
    assert record.metrics["test/acc"] == pytest.approx(correct.mean(), abs=1e-6)
    assert 0 < correct.mean() < 1
    assert isinstance(correct, np.ndarray)


def test_a_nan_is_not_written_and_leaves_nothing_behind(train_run: Callable, tmp_path: Path) -> None:
    record, _ = train_run()
    record.metrics["test/acc"] = float("nan")
    with pytest.raises(ValueError, match="JSON compliant"):
        write_record(record, tmp_path / "record.json")
    assert not list(tmp_path.glob("*record*"))
