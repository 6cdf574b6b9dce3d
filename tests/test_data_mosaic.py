import pytest
import torch

from necklace.boxes.truth import COUNTS, CROWD, IGNORED
from necklace.data.augment import Augmentation
from necklace.data.boxes import Targets
from necklace.data.mosaic import Layout, draw_layout, mosaic
from necklace.seeding import torch_generator
from tests.test_data_moved_boxes import targets


def images(count: int, height: int, width: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(4)
    return torch.randint(256, (count, height, width, 3), generator=generator, dtype=torch.uint8)


def by_hand(batch: torch.Tensor, before: Targets, layout: Layout, index: int) -> tuple[torch.Tensor, list[list[float]]]:
    """A window onto two rows of two images; x0, y0, x1, y1, class and flag of what it shows."""
    height, width = batch.shape[1:3]
    tiles, (top, left) = layout.tiles[index].tolist(), layout.start[index].tolist()
    whole = torch.cat([torch.cat([batch[tiles[row * 2]], batch[tiles[row * 2 + 1]]], 1) for row in (0, 1)], 0)
    rows = []
    for place, tile in enumerate(tiles):
        own = before.kept(before.image == tile)
        for (x0, y0, x1, y1), label, flag in zip(*(part.tolist() for part in own[:3]), strict=True):
            shift_x, shift_y = place % 2 * width - left, place // 2 * height - top
            corners = [min(max(x0 + shift_x, 0), width), min(max(y0 + shift_y, 0), height)]
            corners += [min(max(x1 + shift_x, 0), width), min(max(y1 + shift_y, 0), height)]
            area = (corners[2] - corners[0]) * (corners[3] - corners[1])
            if corners[0] < corners[2] and corners[1] < corners[3] and (place == 0 or (left, top)[place == 2] or place == 3):
                few = area < 0.3 * (x1 - x0) * (y1 - y0) and flag != CROWD
                rows.append([*corners, label, IGNORED if few else flag])
    return whole[top : top + height, left : left + width], rows


def test_a_mosaic_is_a_window_onto_four_images_of_the_batch() -> None:
    batch, before = images(9, 24, 32), targets(9, 24, 32)
    layout = draw_layout(9, 24, 32, 0.7, torch_generator(0, "augment"))
    made, after, left = mosaic(batch, before, layout)
    assert after.count == 9
    assert bool((after.image.diff() >= 0).all())
    assert left.min() > 0
    assert left.max() <= 1 + 1e-9
    stays = 0
    for index in range(9):
        pixels, rows = by_hand(batch, before, layout, index)
        assert torch.equal(made[index], pixels)
        own = after.kept(after.image == index)
        found = [[*box, label, flag] for box, label, flag in zip(*(part.tolist() for part in own[:3]), strict=True)]
        assert torch.tensor(sorted(found)).reshape(-1, 6) == pytest.approx(torch.tensor(sorted(rows)).reshape(-1, 6), abs=1e-4)
        stays += torch.equal(made[index], batch[index])
    assert 1 <= stays <= 6


def test_what_is_drawn_is_uniform() -> None:
    layout = draw_layout(4000, 10, 20, 0.25, torch_generator(0, "augment"))
    becomes = (layout.tiles != torch.arange(4000)[:, None]).any(1)
    assert becomes.double().mean() == pytest.approx(0.25, abs=0.02)
    start = layout.start[becomes].double()
    assert start.min(0).values.tolist() == [0, 0]
    assert start.max(0).values.tolist() == [10, 20]
    assert (start.mean(0) / torch.tensor([10, 20]) - 0.5).abs().max() < 0.03
    assert not layout.start[~becomes].any()


def test_an_object_cut_by_mosaic_and_crop_counts_by_what_is_left_of_all_of_it() -> None:
    """Half of it in the mosaic, half of that in the crop: a quarter is left, which is ignored."""
    batch = images(2, 20, 20)
    before = Targets(
        torch.tensor([[0.0, 0, 8, 8]]), torch.tensor([0]), torch.tensor([0], dtype=torch.uint8), torch.tensor([0]), 2
    )
    layout = Layout(torch.tensor([[0, 1, 1, 1], [1, 1, 1, 1]]), torch.tensor([[0, 4], [0, 0]]))
    _, after, left = mosaic(batch, before, layout)
    assert after.boxes.tolist() == [[0, 0, 4, 8]]
    assert (left.tolist(), after.flags.tolist()) == ([0.5], [COUNTS])
    from necklace.data.moved_boxes import cropped

    crops = torch.tensor([[4, 0, 16, 16], [0, 0, 20, 20]])
    assert cropped(after, crops, (20, 20), left).flags.tolist() == [IGNORED]
    assert cropped(after, crops, (20, 20)).flags.tolist() == [COUNTS]


def test_mosaics_draw_first_and_change_no_other_draw_of_batches_without_them() -> None:
    batch, before = images(8, 24, 32), targets(8, 24, 32)
    augment = Augmentation(flip=True, crop_scale=0.5, mosaic=1.0)
    made, after = augment.with_boxes(batch, before, torch_generator(0, "augment"))
    generator = torch_generator(0, "augment")
    first, boxes, _ = mosaic(batch, before, draw_layout(8, 24, 32, 1.0, generator))
    again, _ = Augmentation(flip=True, crop_scale=0.5).with_boxes(first, boxes, generator)
    assert torch.equal(made, again)
    assert after.count == 8
    with pytest.raises(ValueError, match=r"data\.augment\.mosaic=1\.5: must be"):
        Augmentation(mosaic=1.5)


def test_a_batch_of_one_or_without_boxes_is_no_special_case() -> None:
    augment = Augmentation(mosaic=1.0, crop_scale=0.5, flip=True)
    made, after = augment.with_boxes(images(1, 8, 8), targets(1, 8, 8), torch_generator(0, "augment"))
    assert made.shape == (1, 8, 8, 3)
    assert (len(after.boxes), after.count) == (0, 1)
