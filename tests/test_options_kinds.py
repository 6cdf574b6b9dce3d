from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import pytest
import torch

from necklace.options.kinds import either, kind_of, list_of, number, one_of, shown, whole


@pytest.mark.parametrize(
    ("annotation", "good", "bad"),
    [
        (int, [0, -3], [True, 1.0, "1", None, [1]]),
        (float, [0, 1.5], [float("nan"), float("inf"), True, "1"]),
        (bool, [True], [0, "true"]),
        (str, ["a", ""], [1, None]),
        (str | Path, ["a"], [1]),
        (int | None, [1, None], [1.5]),
        (Literal["a", "b"], ["a"], ["c", 1]),
        (Sequence[int], [[], [1]], [1, [1.5], "12", None]),
        (tuple[float, float], [[0, 1]], [[0], [0, 1, 2]]),
        (float | torch.Tensor, [1], ["1", None]),
        (int | Sequence[int], [1, [1]], [1.5, ["a"]]),
        (Mapping[str, Any] | None, [{}, None], [[], 1]),
    ],
)
def test_an_annotation_says_which_values_are_taken(annotation: Any, good: list[Any], bad: list[Any]) -> None:
    kind = kind_of(annotation)
    assert kind is not None
    assert [value for value in good if not kind.accepts(value)] == []
    assert [value for value in bad if kind.accepts(value)] == []
    assert kind.words


@pytest.mark.parametrize("annotation", [Any, torch.Tensor, "Unknown", Any | None, type(whole)])
def test_an_annotation_that_does_not_tell_takes_all(annotation: Any) -> None:
    assert kind_of(annotation) is None


def test_kinds_in_words() -> None:
    assert either(whole(1), one_of(None)).words == "a whole number from 1 or null"
    assert number(above=0, high=1).words == "a number above 0 up to 1"
    assert list_of(number(0), 3).words == "a list of 3 values, each a number from 0"
    assert [shown(value) for value in (None, True, [1, None], {"a": 0.5}, "")] == ["null", "true", "[1,null]", "{a:0.5}", "''"]
    assert len(shown("x" * 500)) == 80
