from math import log

import numpy as np
import pytest

from necklace.data.context import COLOURS, KINDS, Context, gaps


@pytest.fixture(scope="module")
def drawn():
    context = Context(train=320, test=16)
    images = context.split("train")
    assert images is not None
    return images, context.facts("train")


def test_the_same_seed_gives_the_same_pixels_on_every_machine(drawn):
    # Stored once. If it changes, finished runs on context no longer compare with new ones.
    assert drawn[0].select(range(30)).digest() == "143cfffa248205b16c50063b37fb56de2543df8105d307e60ef5e5cb5531cdd3"
    fewer = Context(train=37, test=0).split("train")
    assert fewer is not None
    assert fewer.digest() == drawn[0].select(range(37)).digest()
    assert Context(train=0, test=0).split("val") is None


def test_seeds_and_splits_differ(drawn):
    sets = [Context(train=16, test=16, seed=1).split("train"), Context(train=16, test=16).split("test")]
    seen = {drawn[0].image(index).numpy().tobytes() for index in range(16)}
    for images in sets:
        assert images is not None
        assert not seen & {images.image(index).numpy().tobytes() for index in range(16)}


def test_label_is_the_sum_and_every_pair_comes_equally_often(drawn):
    images, facts = drawn
    assert images.labels.tolist() == ((facts.kind + facts.colour) % 4).tolist()
    for first, second in (
        (facts.kind, facts.colour),
        (facts.kind, images.labels.numpy()),
        (facts.colour, images.labels.numpy()),
    ):
        table = np.zeros((4, 4), dtype=int)
        np.add.at(table, (first, second), 1)
        assert (table == 20).all()


def test_gap_holds_for_the_boxes_along_one_axis(drawn):
    _, facts = drawn
    found = gaps(facts.glyph_box, facts.marker_box)
    assert found.min() == 26
    # The far axis is x in some images and y in others, and either thing may come first.
    y = facts.marker_box[:, 0] - facts.glyph_box[:, 2], facts.glyph_box[:, 0] - facts.marker_box[:, 2]
    x = facts.marker_box[:, 1] - facts.glyph_box[:, 3], facts.glyph_box[:, 1] - facts.marker_box[:, 3]
    assert all(0.15 < (far >= 26).mean() < 0.35 for far in (*y, *x))


def test_gaps_counts_empty_pixels_along_the_larger_axis():
    boxes = np.array([[0, 0, 4, 4]] * 4)
    others = np.array([[4, 4, 6, 6], [9, 5, 11, 7], [2, 2, 5, 5], [0, 24, 4, 28]])
    assert gaps(boxes, others).tolist() == [0, 5, 0, 20]
    assert gaps(others, boxes).tolist() == [0, 5, 0, 20]


def test_marker_is_a_filled_square_of_its_colour_and_the_only_colour(drawn):
    images, facts = drawn
    for index in range(200):
        image = images.image(index).numpy().astype(int)
        top, left, bottom, right = facts.marker_box[index]
        assert (bottom - top, right - left) == (7, 7)
        assert (image[top:bottom, left:right] == list(COLOURS.values())[facts.colour[index]]).all()
        saturation = image.max(axis=2) - image.min(axis=2)
        saturation[top:bottom, left:right] = 0
        assert saturation.max() <= 10


@pytest.mark.parametrize("size", [48, (50, 64)])
def test_gap_and_boxes_hold_on_the_pixels_themselves(size):
    # Without texture and clutter, whatever is neither background nor marker is the glyph.
    context = Context(train=80, image_size=size, texture=0.0, clutter=0)
    images, facts = context.split("train"), context.facts("train")
    assert images is not None
    palette = np.array(list(COLOURS.values()))
    for index in range(80):
        image = images.image(index).numpy().astype(int)
        colours, counts = np.unique(image.reshape(-1, 3), axis=0, return_counts=True)
        other = (image != colours[counts.argmax()]).any(axis=2)
        marker = (image[:, :, None, :] == palette).all(axis=3).any(axis=2)
        boxes = []
        for mask in (other & ~marker, marker):
            rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
            boxes.append([rows[0], columns[0], rows[-1] + 1, columns[-1] + 1])
        glyph_box, marker_box = np.array(boxes)
        assert gaps(glyph_box[None], marker_box[None]).min() >= 26
        assert marker_box.tolist() == facts.marker_box[index].tolist()
        # The faintest fringe is rounded away: the true box may be a pixel larger than the visible one.
        spare = np.array([1, 1, -1, -1]) * (glyph_box - facts.glyph_box[index])
        assert (spare >= 0).all()
        assert (spare <= 1).all()
        assert 10 <= max(glyph_box[2] - glyph_box[0], glyph_box[3] - glyph_box[1]) <= 15


def test_nothing_but_the_glyph_depends_on_the_kind():
    context = Context()
    for index in range(20):
        images, boxes = zip(*(context._image("train", index, kind, 2) for kind in range(4)), strict=True)
        assert len({marker for _, marker in boxes}) == 1
        hidden = [image.clone() for image in images]
        for image in hidden:
            for (top, left, bottom, right), _ in boxes:
                image[top:bottom, left:right] = 0
        assert all((image == hidden[0]).all() for image in hidden)
        assert not (images[0] == images[1]).all()


def test_nothing_but_the_marker_depends_on_the_colour():
    context = Context()
    for index in range(20):
        images, boxes = zip(*(context._image("test", index, 1, colour) for colour in range(4)), strict=True)
        assert all(pair == boxes[0] for pair in boxes)
        top, left, bottom, right = boxes[0][1]
        for image in images:
            image[top:bottom, left:right] = 0
        assert all((image == images[0]).all() for image in images)


def test_every_feasible_placement_is_as_likely():
    context = Context(image_size=20, marker=2, min_gap=9, glyph=(8, 8))
    feasible = {
        (top, left, marker_top, marker_left): 0
        for top in range(13)
        for left in range(13)
        for marker_top in range(19)
        for marker_left in range(19)
        if gaps(
            np.array([[top, left, top + 8, left + 8]]),
            np.array([[marker_top, marker_left, marker_top + 2, marker_left + 2]]),
        )[0]
        >= 9
    }
    assert len(feasible) == 2 * 6 * 247 - 36
    rng = np.random.default_rng(0)
    draws = 10 * len(feasible)
    for _ in range(draws):
        feasible[context._place(rng, 20, 20, 8)] += 1
    counts = np.array(list(feasible.values()))
    degrees = len(counts) - 1
    chi_square = ((counts - 10) ** 2 / 10).sum()
    assert abs(chi_square - degrees) < 4 * np.sqrt(2 * degrees)


def loss_and_gradients(glyph_logits, colour_logits, facts, labels):
    """Mean cross-entropy of additive logits [4, n] + [4, n], and its gradients."""
    logits = glyph_logits[facts.kind] + colour_logits[facts.colour]
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    shares /= shares.sum(axis=1, keepdims=True)
    rows = np.arange(len(labels))
    loss = -np.log(shares[rows, labels]).mean()
    shares[rows, labels] -= 1
    gradients = np.zeros((2, *glyph_logits.shape))
    np.add.at(gradients[0], facts.kind, shares / len(labels))
    np.add.at(gradients[1], facts.colour, shares / len(labels))
    return loss, gradients


def test_additive_logits_cannot_beat_chance(drawn):
    images, facts = drawn
    labels = images.labels.numpy()
    # The loss is convex in the logits, and flat at zero: log 4 is its minimum ...
    loss, gradients = loss_and_gradients(np.zeros((4, 4)), np.zeros((4, 4)), facts, labels)
    assert loss == pytest.approx(log(4), abs=1e-12)
    np.testing.assert_allclose(gradients, 0, atol=1e-12)
    # ... towards which descent from anywhere leads, ...
    rng = np.random.default_rng(0)
    glyph_logits, colour_logits = rng.normal(size=(2, 4, 4))
    for _ in range(300):
        loss, gradients = loss_and_gradients(glyph_logits, colour_logits, facts, labels)
        glyph_logits, colour_logits = glyph_logits - 4 * gradients[0], colour_logits - 4 * gradients[1]
        assert loss >= log(4) - 1e-12
    assert loss == pytest.approx(log(4), abs=1e-6)
    # ... whereas logits of the pair say it all.
    pairs = np.zeros((4, 4), dtype=int)
    pairs[facts.kind, facts.colour] = labels
    assert (pairs[facts.kind, facts.colour] == labels).all()


@pytest.mark.parametrize("scale", [1e-3, 0.1, 1, 10])
def test_the_bound_is_on_the_loss_and_not_on_the_accuracy(scale):
    kind, colour = np.divmod(np.arange(16), 4)
    centre = np.array([4, 5, 2, 3])  # of each label, on the axis of the sum
    logits = scale * (2 * centre * (kind + colour)[:, None] - centre**2)
    right = (kind + colour) % 4
    assert (logits.argmax(axis=1) == right).sum() == 12
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    assert -np.log((shares / shares.sum(axis=1, keepdims=True))[np.arange(16), right]).mean() > log(4)


def test_hints_show_one_thing_alone_in_half_of_the_training_images():
    context = Context(train=640, test=64, grade="hints")
    images, facts = context.split("train"), context.facts("train")
    assert images is not None
    assert facts.shown.mean(axis=0).tolist() == [0.75, 0.75]
    assert facts.shown.any(axis=1).all()
    labels = images.labels.numpy()
    whole = facts.shown.all(axis=1)
    for alone, part in ((~facts.shown[:, 1], facts.kind), (~facts.shown[:, 0], facts.colour)):
        assert (labels[alone] == part[alone]).all()
        assert np.bincount(labels[alone]).tolist() == [40] * 4
    assert (labels[whole] == ((facts.kind + facts.colour) % 4)[whole]).all()
    joined = Context(train=640, test=64).split("train")
    assert joined is not None
    for index in range(64):
        image, other = images.image(index).numpy().astype(int), joined.image(index).numpy().astype(int)
        differs = (image != other).any(axis=2)
        assert bool(differs.any()) == (not facts.shown[index].all())
        for there, box in zip(facts.shown[index].tolist(), (facts.glyph_box[index], facts.marker_box[index]), strict=True):
            if not there:  # what differs is what is missing
                differs[box[0] : box[2], box[1] : box[3]] = False
        assert not differs.any()
        saturated = (image.max(axis=2) - image.min(axis=2)).max() > 100
        assert saturated == facts.shown[index, 1]
    for name in ("val", "test"):
        split, about = context.split(name), context.facts(name)
        assert split is not None
        assert len(split) == 64
        assert about.shown.all()
        assert split.labels.tolist() == ((about.kind + about.colour) % 4).tolist()


def test_transport_asks_for_the_colour_at_a_corner_that_knows_nothing_of_it():
    context = Context(train=320, test=16, grade="transport")
    images, facts = context.split("train"), context.facts("train")
    assert images is not None
    assert images.labels.tolist() == facts.colour.tolist()
    assert facts.glyph_box[:, 2:].max() <= 15
    assert context.read_within == 12
    assert facts.glyph_box[:, :2].max() < 12
    assert gaps(facts.glyph_box, facts.marker_box).min() >= 26
    # What a window of 26 pixels that reaches into the corner sees does not depend on the colour.
    reach = 12 + 26
    assert facts.marker_box[:, :2].max(axis=1).min() >= reach
    for index in range(20):
        (one, boxes), (other, _) = (context._image("train", index, 1, colour) for colour in (0, 3))
        assert (one[:reach, :reach] == other[:reach, :reach]).all()
        assert (one != other).any()
        assert boxes[1] == tuple(facts.marker_box[index].tolist())


@pytest.mark.parametrize("classes", [2, 3])
def test_fewer_classes(classes):
    context = Context(train=36, classes=classes)
    images, facts = context.split("train"), context.facts("train")
    assert images is not None
    assert context.classes == tuple(str(label) for label in range(classes))
    assert np.bincount(images.labels).tolist() == [36 // classes] * classes
    assert facts.kind.max() == facts.colour.max() == classes - 1
    assert images.labels.tolist() == ((facts.kind + facts.colour) % classes).tolist()


def test_scale_distance_and_marker_are_options():
    context = Context(train=48, image_size=80, marker=9, min_gap=45, glyph=(18, 20), clutter=8)
    images, facts = context.split("train"), context.facts("train")
    assert images is not None
    assert context.min_gap == 45
    assert gaps(facts.glyph_box, facts.marker_box).min() >= 45
    assert (facts.marker_box[:, 2:] - facts.marker_box[:, :2] == 9).all()
    longer = (facts.glyph_box[:, 2:] - facts.glyph_box[:, :2]).max(axis=1)
    assert 16 <= longer.min() <= longer.max() <= 20
    assert len(KINDS) == len(COLOURS) == 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"min_gap": 29}, r"glyph .*15.* min_gap .*29.* marker .*7.* need 51 pixels, image_size=48"),
        ({"image_size": (40, 60)}, r"need 48 pixels, image_size=\(40, 60\) offers 40"),
        ({"marker": 0}, "marker=0"),
        ({"min_gap": -1}, "min_gap=-1"),
        ({"glyph": (15, 10)}, r"glyph=\[15, 10\]"),
        ({"glyph": (4, 10)}, r"glyph=\[4, 10\]"),
        ({"classes": 5}, "classes=5 must be 2 to 4"),
        ({"classes": 1}, "classes=1"),
        ({"grade": "joined"}, "grade=joined must be one of transport, hints, join"),
    ],
)
def test_impossible_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        Context(**options)
