from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as transforms

from necklace.data.augment import Augmentation, Share, adjust, normalise, resized_crops
from necklace.seeding import torch_generator


def images(count: int = 6, height: int = 7, width: int = 9) -> torch.Tensor:
    return torch.randint(256, (count, height, width, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def test_flip_is_drawn_per_image() -> None:
    batch = images(400)
    flipped = Augmentation(flip=True)(batch, torch_generator(0, "augment"))
    mirrored = torch.tensor([torch.equal(f, b.flip(1)) for f, b in zip(flipped, batch, strict=True)])
    same = torch.tensor([torch.equal(f, b) for f, b in zip(flipped, batch, strict=True)])
    assert bool((mirrored ^ same).all())
    assert 150 < int(mirrored.sum()) < 250


def test_crop_is_a_window_of_the_reflected_image() -> None:
    batch, padding = images(200), 3
    cropped = Augmentation(crop_padding=padding)(batch, torch_generator(0, "augment"))
    channels_first = batch.permute(0, 3, 1, 2).float()
    padded = F.pad(channels_first, (padding,) * 4, mode="reflect").permute(0, 2, 3, 1).to(torch.uint8)
    height, width = batch.shape[1:3]
    seen = set()
    for window, source in zip(cropped, padded, strict=True):
        found = [
            (y, x)
            for y in range(2 * padding + 1)
            for x in range(2 * padding + 1)
            if torch.equal(window, source[y : y + height, x : x + width])
        ]
        assert len(found) == 1
        seen.update(found)
    assert len(seen) > 40  # of 49: each image has its own offset


def test_cutout_greys_one_square_inside_the_image() -> None:
    batch = torch.zeros(300, 10, 12, 3, dtype=torch.uint8)
    holes = Augmentation(cutout=4)(batch, torch_generator(0, "augment"))
    assert set(holes.unique().tolist()) == {0, 128}
    areas = (holes[..., 0] == 128).sum((1, 2))
    assert int(areas.max()) == 16
    assert int(areas.min()) >= 4  # a corner: half of either side
    assert batch.max() == 0


@given(
    count=st.integers(1, 4),
    height=st.integers(1, 6),
    width=st.integers(1, 6),
    padding=st.integers(0, 9),
    cutout=st.integers(0, 8),
    flip=st.booleans(),
    photometric=st.sampled_from([0.0, 0.3, 1.0]),
    crop_scale=st.sampled_from([1.0, 0.9, 0.2, 1e-3]),
)
@settings(max_examples=80, deadline=None)
def test_any_shape_keeps_its_shape_and_the_same_draw(  # noqa: PLR0913, what hypothesis draws
    count, height, width, padding, cutout, flip, photometric, crop_scale
) -> None:
    batch = images(count, height, width)
    before = batch.clone()
    augment = Augmentation(flip, padding, cutout, photometric, crop_scale)
    first = augment(batch, torch_generator(1, "augment", 2, 3))
    assert first.shape == batch.shape
    assert first.dtype == torch.uint8
    assert torch.equal(batch, before)
    assert torch.equal(first, augment(batch, torch_generator(1, "augment", 2, 3)))
    if not photometric and crop_scale == 1:
        allowed = set(batch.unique().tolist()) | ({128} if cutout else set())
        assert set(first.unique().tolist()) <= allowed


def smooth(count: int, height: int, width: int) -> torch.Tensor:
    """Images in which neighbouring pixels differ little, some of them near black or white."""
    small = torch.rand(count, 3, 4, 4, generator=torch.Generator().manual_seed(1)) * 300 - 20
    large = F.interpolate(small, (height, width), mode="bilinear")
    return large.clamp(0, 255).permute(0, 2, 3, 1).to(torch.uint8)


def test_adjust_is_torchvisions_brightness_contrast_and_saturation_one_by_one() -> None:
    batch = torch.cat([images(20, 11, 13), smooth(20, 11, 13)])
    factors = torch.rand(3, 40, generator=torch.Generator().manual_seed(2)) * 2
    factors[:, 0], factors[:, 1], factors[:, 2] = 0, 1, 2
    adjusted = adjust(batch, *factors)
    assert adjusted.dtype == torch.uint8
    for image, result, (brightness, contrast, saturation) in zip(batch, adjusted, factors.T.tolist(), strict=True):
        # In floating point, as torchvision cuts off the fraction after each of the three steps where it is given bytes.
        expected = transforms.adjust_brightness(image.permute(2, 0, 1) / 255, brightness)
        expected = transforms.adjust_saturation(transforms.adjust_contrast(expected, contrast), saturation)
        assert (expected.permute(1, 2, 0) * 255 - result).abs().max() <= 0.5 + 0.1  # its weights for grey add up to 0.9999
    assert torch.equal(adjusted[1], batch[1])


@given(
    height=st.integers(1, 12),
    width=st.integers(1, 12),
    boxes=st.lists(st.tuples(*[st.floats(0, 1, exclude_max=True)] * 4), min_size=1, max_size=5),
)
@settings(max_examples=100, deadline=None)
def test_resized_crops_are_torchvisions_one_by_one(height, width, boxes) -> None:
    batch = images(len(boxes), height, width)
    placed = []
    for top, left, tall, wide in boxes:
        tall, wide = 1 + int(tall * height), 1 + int(wide * width)
        placed.append([int(top * (height - tall + 1)), int(left * (width - wide + 1)), tall, wide])
    crops = resized_crops(batch, torch.tensor(placed))
    assert crops.shape == batch.shape
    for image, crop, box in zip(batch, crops, placed, strict=True):
        top, left, tall, wide = box
        expected = transforms.resized_crop(
            image.permute(2, 0, 1).double(), top, left, tall, wide, [height, width], InterpolationMode.BILINEAR, antialias=False
        ).permute(1, 2, 0)
        assert (expected - crop).abs().max() <= 0.5 + 1e-3


def test_crop_boxes_have_the_areas_and_aspects_asked_for() -> None:
    # Each pixel says where it is, so an augmented image says where its box begins and ends.
    count, height, width = 2000, 60, 80
    batch = torch.zeros(1, height, width, 3, dtype=torch.uint8)
    batch[0, :, :, 0], batch[0, :, :, 1] = torch.arange(height)[:, None], torch.arange(width)
    crops = Augmentation(crop_scale=0.35)(batch.expand(count, -1, -1, -1), torch_generator(0, "augment"))
    top, bottom = crops[:, 0, 0, 0].double(), crops[:, -1, 0, 0].double()
    left, right = crops[:, 0, 0, 1].double(), crops[:, 0, -1, 1].double()
    tall, wide = (bottom - top + 1) / height, (right - left + 1) / width
    share, aspect = tall * wide, wide / tall
    assert share.min() > 0.35 - 0.03
    assert (share > 0.97).double().mean() == pytest.approx(0.03 / 0.65, abs=0.02)
    assert share.mean() == pytest.approx((1 + 0.35) / 2, abs=0.02)
    assert 3 / 4 - 0.04 < aspect.min() < 0.78
    assert 1.28 < aspect.max() < 4 / 3 + 0.06
    assert aspect.log().mean() == pytest.approx(0, abs=0.01)
    assert top.min() == 0
    assert bottom.max() == height - 1
    assert (top / (height * (1 - tall)).clamp(min=1))[tall < 0.8].mean() == pytest.approx(0.5, abs=0.03)
    assert (left / (width * (1 - wide)).clamp(min=1))[wide < 0.8].mean() == pytest.approx(0.5, abs=0.03)


def test_photometric_factors_are_drawn_per_image() -> None:
    grey = torch.full((2000, 2, 2, 3), 100, dtype=torch.uint8)  # contrast and saturation leave a flat grey as it is
    values = Augmentation(photometric=0.2)(grey, torch_generator(0, "augment"))[:, 0, 0, 0].double()
    assert values.min() == 80
    assert values.max() == 120
    assert values.mean() == pytest.approx(100, abs=1)
    assert values.std() == pytest.approx(40 / 12**0.5, abs=0.5)
    noisy = Augmentation(photometric=0.2)(images(50), torch_generator(0, "augment"))
    assert len(noisy.flatten(1).double().mean(1).unique()) == 50


def test_draws_of_the_other_augmentations_stay_when_a_later_one_is_added() -> None:
    batch = images(40)
    moved = Augmentation(flip=True, crop_padding=2)(batch, torch_generator(0, "augment"))
    generator = torch_generator(0, "augment")
    shifts = torch.randint(-2, 3, (2, 40, 1), generator=generator)
    mirrored = torch.rand(40, 1, generator=generator) < 0.5
    padded = F.pad(batch.permute(0, 3, 1, 2).float(), (2,) * 4, mode="reflect").permute(0, 2, 3, 1).to(torch.uint8)
    for index in range(40):
        y, x = (shifts[:, index, 0] + 2).tolist()
        window = padded[index, y : y + 7, x : x + 9]
        assert torch.equal(moved[index], window.flip(1) if mirrored[index] else window)
    both = Augmentation(flip=True, crop_padding=2, photometric=0.3)(batch, torch_generator(0, "augment"))
    factors = 1 + 0.3 * (2 * torch.rand(3, 40, generator=generator) - 1)
    assert torch.equal(both, adjust(moved, *factors))


def test_nothing_is_done_when_nothing_is_asked_for() -> None:
    batch = images()
    assert torch.equal(Augmentation()(batch, torch_generator(0, "augment")), batch)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("crop_padding", -1),
        ("cutout", -2),
        ("photometric", -0.1),
        ("photometric", 1.5),
        ("photometric", float("nan")),
        ("crop_scale", 0.0),
        ("crop_scale", 1.1),
        ("crop_scale", float("nan")),
    ],
)
def test_a_value_out_of_range_is_named(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"data\.augment\.{name}={value}: must be"):
        Augmentation(**{name: value})


def test_normalise_by_hand_and_in_channels_last() -> None:
    batch, mean, std = images(), (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
    result = normalise(batch, mean, std)
    expected = (batch.permute(0, 3, 1, 2).double() / 255 - torch.tensor(mean).view(3, 1, 1).double()) / torch.tensor(std).view(
        3, 1, 1
    )
    assert torch.allclose(result, expected.float(), atol=1e-6)
    assert result.is_contiguous(memory_format=torch.channels_last)


@given(
    total=st.integers(1, 9),
    world_size=st.integers(1, 4),
    flip=st.booleans(),
    padding=st.integers(0, 3),
    cutout=st.integers(0, 4),
    photometric=st.sampled_from([0.0, 0.5]),
    scale=st.sampled_from([1.0, 0.3]),
)
def test_processes_change_an_image_as_one_does(
    total: int, world_size: int, flip: bool, padding: int, cutout: int, photometric: float, scale: float
) -> None:
    augment = Augmentation(flip, padding, cutout, photometric, scale)
    images = torch.randint(256, (total, 6, 5, 3), dtype=torch.uint8, generator=torch_generator(0, "images"))
    whole = augment(images, torch_generator(0, "augment"))
    for rank in range(min(world_size, total)):
        own = augment(images[rank::world_size], torch_generator(0, "augment"), Share(rank, world_size, total))
        assert torch.equal(own, whole[rank::world_size])
