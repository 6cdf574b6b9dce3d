import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from necklace.data.images import ImageSet


def random_images(shapes, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(0, 256, (h, w, 3), generator=generator, dtype=torch.uint8) for h, w in shapes]


def build(shapes, seed=0):
    return ImageSet.build(
        random_images(shapes, seed), list(range(len(shapes))), [f"train/{index}" for index in range(len(shapes))]
    )


SHAPES = [(3, 5), (1, 1), (7, 2), (4000, 10), (10, 400)]


def test_images_are_views_of_the_pixels_at_their_native_size():
    images = build(SHAPES)
    assert len(images) == 5
    assert images.offsets.tolist() == [0, 45, 48, 90, 120090, 132090]
    for index, expected in enumerate(random_images(SHAPES)):
        assert torch.equal(images.image(index), expected)
        assert torch.equal(images.image(index - 5), expected)
    images.image(2)[0, 0, 0] = 7
    assert images.pixels[48] == 7
    with pytest.raises(IndexError, match="image 5 of a set of 5"):
        images.image(5)


def test_resized_to_the_size_that_all_have_is_a_view():
    images = build([(6, 4)] * 3)
    resized = images.resized(6, 4)
    assert resized.shape == (3, 6, 4, 3)
    assert resized.data_ptr() == images.pixels.data_ptr()


def test_resized_leaves_images_of_that_size_untouched_and_the_others_alone():
    images = build([(6, 4), (9, 13), (6, 4), (1, 1)])
    resized = images.resized(6, 4)
    assert torch.equal(resized[0], images.image(0))
    assert torch.equal(resized[2], images.image(2))
    assert (resized[3] == images.image(3)).all()
    assert torch.equal(images.select([1]).resized(6, 4)[0], resized[1])


@pytest.mark.parametrize("size", [(6, 4), (20, 31)])
def test_resized_is_bilinear_with_antialiasing(size):
    images = build([(17, 23), (40, 12)])
    resized = images.resized(*size)
    for index in range(2):
        image = images.image(index).permute(2, 0, 1)[None].double()
        expected = functional.interpolate(image, size=size, mode="bilinear", antialias=True)[0].permute(1, 2, 0)
        # torchvision rounds after each of two passes with fixed-point weights.
        assert (resized[index].double() - expected).abs().max() <= 1.0


def test_resized_in_inference_mode_and_out_of_it():
    images = build([(17, 23), (40, 12), (6, 4)])
    with torch.inference_mode():
        inside = images.resized(6, 4)
    assert torch.equal(inside, images.resized(6, 4))


def test_resized_refuses_a_side_below_one():
    with pytest.raises(ValueError, match="0x4"):
        build([(2, 2)]).resized(0, 4)


def test_digest_is_of_the_content_alone():
    images = build([(3, 5), (2, 2)])
    same = build([(3, 5), (2, 2)])
    assert images.digest() == same.digest()
    assert images.digest() == images.select([0, 1]).digest()
    assert len(images.digest()) == 64
    changed = [
        build([(3, 5), (2, 2)], seed=1),
        images.select([1, 0]),
        images.select([0]),
        ImageSet(images.pixels, images.shapes, images.labels + 1, images.names),
        ImageSet(images.pixels, images.shapes, images.labels, ("train/0", "train/2")),
        ImageSet(images.pixels, images.shapes.flip(1), images.labels, images.names),
    ]
    assert len({images.digest(), *(other.digest() for other in changed)}) == 7


def test_digest_takes_names_that_are_not_utf8():
    images = build([(2, 2)])
    names = ("train/\udcff.jpg",)
    assert ImageSet(images.pixels, images.shapes, images.labels, names).digest() != images.digest()


def test_digest_of_a_stored_set_is_stable():
    images = ImageSet.build([torch.arange(12, dtype=torch.uint8).view(2, 2, 3)], [3], ["train/a.png"])
    assert images.digest() == "da2f3137861f37c2b463594fd16764b9987ccdae68c3e1bad10a6690b31144eb"


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_select_keeps_images_labels_and_names_together(data):
    side = st.integers(1, 5)
    shapes = data.draw(st.lists(st.tuples(side, side), min_size=1, max_size=6))
    if data.draw(st.booleans()):
        shapes = [shapes[0]] * len(shapes)
    indices = data.draw(st.permutations(range(len(shapes))))[: data.draw(st.integers(0, len(shapes)))]
    images = build(shapes)
    chosen = images.select(torch.tensor(indices, dtype=torch.int64))
    assert chosen.labels.tolist() == indices
    assert chosen.names == tuple(f"train/{index}" for index in indices)
    assert all(torch.equal(chosen.image(place), images.image(index)) for place, index in enumerate(indices))


def test_an_empty_set_is_a_set():
    empty = build([])
    assert len(empty) == 0
    assert empty.common_shape is None
    assert empty.resized(4, 4).shape == (0, 4, 4, 3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pixels": torch.zeros(12)}, "uint8"),
        ({"pixels": torch.zeros(11, dtype=torch.uint8)}, "ask for 12 values, pixels hold 11"),
        ({"shapes": torch.tensor([[2, 2]], dtype=torch.int32)}, "shapes must be int64"),
        ({"shapes": torch.tensor([[0, 2]])}, "at least 1x1"),
        ({"labels": torch.tensor([0, 1])}, r"labels must be int64 \[1\]"),
        ({"names": ("a", "b")}, r"shapes must be int64 \[2, 2\]"),
    ],
)
def test_parts_that_do_not_fit_together_are_refused(change, message):
    parts = {
        "pixels": torch.zeros(12, dtype=torch.uint8),
        "shapes": torch.tensor([[2, 2]]),
        "labels": torch.tensor([0]),
        "names": ("a",),
    }
    ImageSet(**parts)
    with pytest.raises(ValueError, match=message):
        ImageSet(**{**parts, **change})


def test_names_must_be_unique():
    with pytest.raises(ValueError, match="unique"):
        ImageSet.build(random_images([(1, 1), (1, 1)]), [0, 1], ["a", "a"])


def test_labels_of_several_classes_are_kept_selected_and_in_the_digest():
    labels = torch.tensor([[1, 0, -1], [0, 0, 0]], dtype=torch.int8)
    images = ImageSet.build(random_images([(2, 3), (4, 1)]), labels, ["a", "b"])
    assert torch.equal(images.labels, labels)
    assert images.select([1, 0]).labels.tolist() == [[0, 0, 0], [1, 0, -1]]
    assert images.digest() != ImageSet.build(random_images([(2, 3), (4, 1)]), labels.abs(), ["a", "b"]).digest()


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (torch.zeros(2, 3, dtype=torch.int64), r"int64 \[2\] or int8 \[2, K\], not torch.int64 \[2, 3\]"),
        (torch.zeros(2, dtype=torch.int8), r"not torch.int8 \[2\]"),
        (torch.zeros(3, 1, dtype=torch.int8), r"not torch.int8 \[3, 1\]"),
        (torch.tensor([[2], [0]], dtype=torch.int8), r"must be 1 \(present\), 0"),
        (torch.tensor([[-128], [0]], dtype=torch.int8), r"must be 1 \(present\), 0"),
    ],
)
def test_other_labels_are_refused(labels, message):
    with pytest.raises(ValueError, match=message):
        ImageSet.build(random_images([(2, 3), (4, 1)]), labels, ["a", "b"])
