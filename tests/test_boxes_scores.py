from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchmetrics.functional.classification import binary_average_precision

from necklace.boxes import ScoreEvidence, resampled
from necklace.boxes.bootstrap import draws
from necklace.tasks.multilabel import eleven_point_precision

NAMES = ["a", "b", "c"]


def drawn(seed: int, images: int, ties: bool) -> tuple[np.ndarray, np.ndarray]:
    """Logits [N, 3] and labels; the last class is shown by no image of some sets."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(0, 6, (images, 3))
    if ties:
        logits = np.round(logits / 4) * 4
    labels = generator.choice([-1, 0, 0, 1], (images, 3))
    labels[:, 2] = np.minimum(labels[:, 2], seed % 2)
    return logits.astype(np.float32), labels.astype(np.int8)


def as_the_task(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """What `tasks/multilabel.py` computes of them."""
    found, elevens = {}, []
    for number, name in enumerate(NAMES):
        known = torch.from_numpy(labels[:, number] >= 0)
        logit = torch.from_numpy(logits[:, number])[known]
        target = torch.from_numpy(labels[:, number])[known].long()
        if target.any():
            found[f"ap/{name}"] = float(binary_average_precision(logit, target))
            elevens.append(float(eleven_point_precision(logit, target)))
    if not found:
        return {"map_classes": 0}
    return found | {"map": float(np.mean(list(found.values()))), "map07": float(np.mean(elevens)), "map_classes": len(elevens)}


@settings(max_examples=40, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32), images=st.integers(1, 40), ties=st.booleans())
def test_equal_to_the_task(seed: int, images: int, ties: bool) -> None:
    logits, labels = drawn(seed, images, ties)
    evidence = ScoreEvidence(torch.from_numpy(logits).sigmoid().numpy(), labels)  # as torchmetrics ranks them
    assert evidence.metrics(NAMES) == pytest.approx(as_the_task(logits, labels), abs=1e-6)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32), images=st.integers(1, 12), ties=st.booleans())
def test_resamples_are_the_repeated_sets(seed: int, images: int, ties: bool) -> None:
    scores, labels = drawn(seed, images, ties)
    weights = draws(images, 5, np.random.default_rng(seed))
    sets = [ScoreEvidence(np.repeat(scores, row, 0), np.repeat(labels, row, 0)).metrics(NAMES) for row in weights]
    for name in ("map", "map07"):
        values = resampled(ScoreEvidence(scores, labels), name, weights)
        np.testing.assert_allclose(values, [each.get(name, np.nan) for each in sets], rtol=0, atol=1e-13)


def test_ones_give_the_metric_bit_for_bit() -> None:
    evidence = ScoreEvidence(*drawn(1, 500, False))
    for name in ("map", "map07"):
        assert set(resampled(evidence, name, np.ones((77, 500), np.int64))) == {evidence.metrics(NAMES)[name]}


def test_by_hand() -> None:
    scores, labels = np.array([[0.9], [0.8], [0.8], [0.1]], np.float32), np.array([[1], [0], [1], [-1]], np.int8)
    found = ScoreEvidence(scores, labels).metrics(["a"])
    # Precision 1 at recall 1/2, then two at once: precision 2/3 at recall 1.
    assert found["map"] == found["ap/a"] == pytest.approx(5 / 6)
    assert found["map07"] == pytest.approx((6 + 5 * 2 / 3) / 11)


def test_the_file_and_the_joining(tmp_path: Path) -> None:
    scores, labels = drawn(1, 20, True)
    evidence = ScoreEvidence(scores, labels)
    digest = evidence.save(tmp_path / "a.npz")
    again = ScoreEvidence.load(tmp_path / "a.npz", digest)
    assert again.metrics(NAMES) == evidence.metrics(NAMES)
    order = np.random.default_rng(0).permutation(20)
    parts = [(part, scores[part], labels[part]) for part in np.array_split(order, 3)]
    assert ScoreEvidence.joined(parts, 20).save(tmp_path / "b.npz") == digest
    with pytest.raises(ValueError, match=r"scores of 13 images \(13 different\) for a split of 20"):
        ScoreEvidence.joined(parts[1:], 20)
    with pytest.raises(ValueError, match=r"scores of 27 images \(20 different\) for a split of 20"):
        ScoreEvidence.joined([*parts, parts[0]], 20)
    ScoreEvidence(scores[::-1].copy(), labels).save(tmp_path / "a.npz")
    with pytest.raises(ValueError, match="its SHA-256 is"):
        ScoreEvidence.load(tmp_path / "a.npz", digest)


@pytest.mark.parametrize(
    ("scores", "labels", "message"),
    [
        (np.zeros((2, 3)), np.zeros((2, 3), np.int8), "`scores` is float64"),
        (np.zeros((2, 3), np.float32), np.zeros((2, 2), np.int8), r"`labels` is int8 \[2, 2\]"),
        (np.zeros(3, np.float32), np.zeros(3, np.int8), r"`scores` is float32 \[3\]"),
        (np.full((1, 1), np.nan, np.float32), np.zeros((1, 1), np.int8), "`scores` holds nan"),
        (np.zeros((1, 1), np.float32), np.full((1, 1), 2, np.int8), "`labels` holds another value"),
        (np.zeros((1, 1), np.float32), np.full((1, 1), -128, np.int8), "`labels` holds another value"),
    ],
)
def test_what_is_wrong_is_named(scores: np.ndarray, labels: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ScoreEvidence(scores, labels)


def test_names_and_metrics() -> None:
    evidence = ScoreEvidence(*drawn(1, 20, True))
    with pytest.raises(ValueError, match="2 names for 3 classes"):
        evidence.metrics(["a", "b"])
    with pytest.raises(ValueError, match="box_map: allowed are map, map07"):
        evidence.precisions("box_map")
