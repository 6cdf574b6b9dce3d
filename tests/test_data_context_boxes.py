import numpy as np
import pytest
import torch

from necklace.data.context import COLOURS, gaps
from necklace.data.context_boxes import ContextBoxes


def swapped(boxes: np.ndarray) -> np.ndarray:
    return boxes[..., [1, 0, 3, 2]]


def test_every_glyph_has_a_box_of_the_markers_class_far_away_from_it() -> None:
    source = ContextBoxes(train=64, test=8, boxes=True)
    train, facts = source.split("train"), source.facts("train")
    assert train is not None
    assert train.boxes is not None
    assert source.split("val") is None
    for index in range(64):
        xyxy, classes, flags = train.boxes.of(index)
        assert sorted(xyxy.tolist()) == sorted(facts.glyph_boxes[index].tolist())
        assert set(classes.tolist()) == {facts.colour[index]}
        assert not flags.any()
        x0, y0, x1, y1 = facts.marker_box[index].tolist()
        marker = train.image(index)[y0:y1, x0:x1].reshape(-1, 3)
        assert marker.unique(dim=0).tolist() == [list(COLOURS[source.classes[int(facts.colour[index])]])]
        apart = gaps(swapped(facts.marker_box[index][None]), swapped(facts.glyph_boxes[index]))
        assert apart.min() >= 26
        assert apart.max() <= 30 + 8  # a flat glyph may lie anywhere in its square
        sides = facts.glyph_boxes[index][:, 2:] - facts.glyph_boxes[index][:, :2]
        assert sides.max(1).min() >= 12
        assert sides.max() <= 15
        if len(xyxy) == 2:
            first, second = facts.glyph_boxes[index]
            assert (
                gaps(swapped(first[None]), swapped(second[None]))[0] > 0
                or (first[2:] <= second[:2]).any()
                or (second[2:] <= first[:2]).any()
            )
        coloured = (train.image(index).int().amax(2) - train.image(index).int().amin(2)) > 60
        coloured[y0:y1, x0:x1] = False
        assert not coloured.any()  # nothing but the marker has a colour


def test_colours_and_numbers_of_glyphs_are_balanced_and_independent() -> None:
    source = ContextBoxes(train=80, test=1, boxes=True)
    facts = source.facts("train")
    pairs = [(int(colour), len(boxes)) for colour, boxes in zip(facts.colour, facts.glyph_boxes, strict=True)]
    assert {pair: pairs.count(pair) for pair in set(pairs)} == {(colour, count): 10 for colour in range(4) for count in (1, 2)}


def test_images_are_the_seeds_and_the_same_without_boxes() -> None:
    digest = [ContextBoxes(train=12, test=4, seed=seed, boxes=True).split("train") for seed in (0, 0, 1)]
    assert digest[0] is not None
    assert digest[1] is not None
    assert digest[2] is not None
    assert digest[0].digest() == digest[1].digest() != digest[2].digest()
    plain = ContextBoxes(train=12, test=4).split("train")
    assert plain is not None
    assert torch.equal(plain.pixels, digest[0].pixels)
    assert plain.boxes is None
    assert torch.equal(plain.labels, digest[0].labels.argmax(1))


def test_drawn_images_come_back_from_the_cache_with_their_boxes(tmp_path) -> None:
    plain = ContextBoxes(train=12, test=4, boxes=True).split("train")
    assert plain is not None
    for _ in range(2):
        kept = ContextBoxes(train=12, test=4, boxes=True, cache=tmp_path).split("train")
        assert kept is not None
        assert kept.digest() == plain.digest()
    assert len(list(tmp_path.glob("*.pixels"))) == 1


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"classes": 5}, "classes=5 must be 2 to 4"),
        ({"image_size": 40}, "need 48 pixels, image_size=40 offers 40"),
        ({"max_gap": 20}, "max_gap=20 must be min_gap=26 or more"),
        ({"marker": 0}, "marker=0"),
        ({"glyph": [4, 5]}, "range of pixels from 8"),
        ({"train": -1}, "train=-1"),
    ],
)
def test_options_out_of_range_are_named(options, reason) -> None:
    with pytest.raises(ValueError, match=reason):
        ContextBoxes(**options)
