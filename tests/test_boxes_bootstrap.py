"""Resamples against sets that really hold their images several times, and the coverage of the interval."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from necklace.boxes import MEASURES, Evidence, ImageBoxes, ScoreEvidence, evidence_of, paired_interval, resampled
from necklace.boxes.bootstrap import draws
from tests.boxes_drawn import drawn, image, large, repeated

BOX, WRONG = (0.0, 0.0, 10.0, 10.0), (50.0, 50.0, 60.0, 60.0)


def joined(images: list[ImageBoxes], classes: int = 3) -> Evidence:
    return Evidence.joined([evidence_of(images, classes)], len(images))


@settings(max_examples=20, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32), images=st.integers(1, 9))
def test_equal_to_the_metrics_of_the_repeated_set(seed: int, images: int) -> None:
    """Scores are equal between images and between copies, within an image they differ."""
    found = drawn(seed, images, 3, 12, unique=True)
    weights = draws(images, 4, np.random.default_rng(seed))
    assert (weights.sum(1) == images).all()
    sets = [joined(repeated(found, row)).metrics(["a", "b", "c"]) for row in weights]
    evidence = joined(found)
    for name in MEASURES:
        values = resampled(evidence, name, weights)
        np.testing.assert_allclose(values, [each.get(name, np.nan) for each in sets], rtol=0, atol=1e-13)


def test_ties_within_an_image_keep_their_order() -> None:
    """All copies of the first of two equal scores come before those of the second, as the module says."""
    evidence = joined([image(0, [(BOX, 0, 0)], [(WRONG, 0, 0.5), (BOX, 0, 0.5)])], 1)
    # wrong, wrong, wrong, right, right, right: 1/2; the other order (wrong, right) three times gives 1/2 as well, but
    # (right, wrong) three times gives 1, 2/3, 3/5 where this gives 1.
    assert resampled(evidence, "box_map12", np.array([[3]])).tolist() == [0.5]
    turned = [(BOX, 0, 0.5), (WRONG, 0, 0.5)]
    assert resampled(joined([image(0, [(BOX, 0, 0)], turned)], 1), "box_map12", np.array([[3]])).tolist() == [1]


def test_ones_give_the_metric_bit_for_bit() -> None:
    for found, classes in ((drawn(3, 30, 3, 14), 3), (large(60, 4, 50, 6), 4)):
        evidence = joined(found, classes)
        metrics = evidence.metrics([str(number) for number in range(classes)])
        for rows in (1, 2, 301):
            weights = np.ones((rows, len(found)), np.int64)
            for name in MEASURES:
                assert resampled(evidence, name, weights).tolist() == [metrics[name]] * rows


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    evidence = joined(large(30, 3, 40, 6))
    weights = draws(30, 50, np.random.default_rng(0))
    whole = resampled(evidence, "box_map", weights)
    monkeypatch.setattr("necklace.boxes.precision._NUMBERS", 1000)
    assert resampled(evidence, "box_map", weights).tolist() == whole.tolist()
    assert resampled(evidence, "box_map", weights.astype(np.uint8)).tolist() == whole.tolist()


def test_a_resample_without_objects_is_undefined() -> None:
    evidence = joined([image(0, [(BOX, 0, 0)], [(BOX, 0, 0.5)]), image(1, [], [(BOX, 0, 0.5)])], 1)
    values = resampled(evidence, "box_map", np.array([[2, 0], [0, 2], [1, 1]]))
    np.testing.assert_array_equal(values, [1, np.nan, 1])
    # Such resamples do not count in an interval; where all are such, there is none.
    assert paired_interval([evidence], [evidence], "box_map", np.random.default_rng(0), 50) == (0, 0)
    nothing = joined([image(0, [], [])], 1)
    assert paired_interval([nothing], [nothing], "box_map", np.random.default_rng(0), 50) is None


def test_an_interval_is_that_of_plain_resampling() -> None:
    first, second = [joined(large(20, 2, 20, 4, seed), 2) for seed in (0, 1)], joined(large(20, 2, 20, 4, 2), 2)
    found = paired_interval(first, [second], "box_map50", np.random.default_rng(5), 300)
    weights = np.random.default_rng(5).multinomial(20, np.full(20, 1 / 20), size=300)
    rows = [resampled(each, "box_map50", weights) for each in (*first, second)]
    assert found == pytest.approx(np.quantile((rows[0] + rows[1]) / 2 - rows[2], [0.025, 0.975]))


def test_runs_on_different_images_are_refused() -> None:
    one, other = joined(drawn(0, 5, 3)), joined(drawn(0, 6, 3))
    for row, baseline in (([one], [other]), ([], [one]), ([one], [])):
        with pytest.raises(ValueError, match="allowed are runs on the same images"):
            paired_interval(row, baseline, "box_map", np.random.default_rng(0))


def scored(generator: np.random.Generator, images: int) -> tuple[ScoreEvidence, ScoreEvidence]:
    """Two models on the same images: both see how hard an image is, and the first sees the class a little better."""
    labels = (generator.random((images, 2)) < 0.4).astype(np.int8)
    hard = generator.normal(0, 0.7, (images, 1))
    pair = [labels * gain + hard + generator.normal(0, 1, (images, 2)) for gain in (1.6, 1.2)]
    first, second = (ScoreEvidence(each.astype(np.float32), labels) for each in pair)
    return first, second


def detected(generator: np.random.Generator, images: int) -> tuple[Evidence, Evidence]:
    """Two detectors on the same images with one to three objects: the first finds more, and both add wrong boxes."""
    pair: tuple[list[ImageBoxes], list[ImageBoxes]] = ([], [])
    for index in range(images):
        boxes = [(20.0 * n, 0.0, 20.0 * n + 10, 10.0) for n in range(generator.integers(1, 4))]
        easy = generator.uniform(0.2, 1)
        for gain, found in zip((0.9, 0.75), pair, strict=True):
            right = [(box, 0, float(generator.beta(3, 2))) for box in boxes if generator.random() < gain * easy]
            wrong = [(WRONG, 0, float(generator.beta(2, 3))) for _ in range(generator.poisson(0.8))]
            found.append(image(index, [(box, 0, 0) for box in boxes], right + wrong))
    return joined(pair[0], 1), joined(pair[1], 1)


@pytest.mark.parametrize(("draw", "metric", "truth_of"), [(detected, "box_map50", 4000), (scored, "map", 200_000)])
def test_coverage(draw, metric: str, truth_of: int) -> None:
    """Of 95 % intervals of the difference between two models on 60 images, about 95 % hold that on very many."""
    first, second = draw(np.random.default_rng(1), truth_of)
    ones = np.ones((1, truth_of), np.int64)
    truth = float((resampled(first, metric, ones) - resampled(second, metric, ones))[0])
    held, sets = 0, 120
    for seed in range(sets):
        first, second = draw(np.random.default_rng([seed, 7]), 60)
        interval = paired_interval([first], [second], metric, np.random.default_rng(seed), 300)
        assert interval is not None
        held += interval[0] <= truth <= interval[1]
    # 3 standard deviations of a share of 120 around 95 % are 6 %.
    assert 0.89 * sets <= held < sets
