from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from necklace.data.augment import Augmentation, normalise
from necklace.streams import torch_generator


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
)
@settings(max_examples=60, deadline=None)
def test_any_shape_keeps_its_shape_and_the_same_draw(count, height, width, padding, cutout, flip) -> None:
    batch = images(count, height, width)
    augment = Augmentation(flip, padding, cutout)
    first = augment(batch, torch_generator(1, "augment", 2, 3))
    assert first.shape == batch.shape
    assert first.dtype == torch.uint8
    assert torch.equal(first, augment(batch, torch_generator(1, "augment", 2, 3)))
    allowed = set(batch.unique().tolist()) | ({128} if cutout else set())
    assert set(first.unique().tolist()) <= allowed


def test_nothing_is_done_when_nothing_is_asked_for() -> None:
    batch = images()
    assert torch.equal(Augmentation()(batch, torch_generator(0, "augment")), batch)


@pytest.mark.parametrize("option", [{"crop_padding": -1}, {"cutout": -2}])
def test_a_negative_size_is_named(option: dict[str, Any]) -> None:
    (name,) = option
    with pytest.raises(ValueError, match=rf"data\.augment\.{name}=-"):
        Augmentation(**option)


def test_normalise_by_hand_and_in_channels_last() -> None:
    batch, mean, std = images(), (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
    result = normalise(batch, mean, std)
    expected = (batch.permute(0, 3, 1, 2).double() / 255 - torch.tensor(mean).view(3, 1, 1).double()) / torch.tensor(std).view(
        3, 1, 1
    )
    assert torch.allclose(result, expected.float(), atol=1e-6)
    assert result.is_contiguous(memory_format=torch.channels_last)
