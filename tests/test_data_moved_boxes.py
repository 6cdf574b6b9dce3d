import pytest
import torch
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as transforms

from necklace.boxes.truth import COUNTS, CROWD, IGNORED
from necklace.data.augment import Augmentation
from necklace.data.boxes import Targets
from necklace.data.moved_boxes import cropped, flipped
from necklace.seeding import torch_generator


def targets(count: int, height: int, width: int, each: int = 6, seed: int = 0) -> Targets:
    """Random boxes: `each` in every image but the first, which has none."""
    generator = torch.Generator().manual_seed(seed)
    total = each * (count - 1)
    ends = torch.rand(total, 2, 2, generator=generator).sort(1).values
    boxes = (ends * torch.tensor([width, height])).view(total, 4)
    boxes[:, 2:] = (boxes[:, 2:] + 0.5).minimum(torch.tensor([width, height]).float())
    boxes[:, :2] = boxes[:, :2].minimum(boxes[:, 2:] - 0.25)
    classes, flags = torch.randint(5, (total,), generator=generator), torch.randint(3, (total,), generator=generator)
    return Targets(boxes, classes, flags.to(torch.uint8), torch.arange(1, count).repeat_interleave(each), count)


def canvas(boxes: torch.Tensor, height: int, width: int) -> tv_tensors.BoundingBoxes:
    return tv_tensors.BoundingBoxes(boxes.double(), format="XYXY", canvas_size=(height, width))  # pyright: ignore[reportCallIssue, reportArgumentType]


@pytest.mark.parametrize(("height", "width"), [(40, 56), (240, 320), (31, 17)])
def test_flips_and_crops_are_torchvisions_on_bounding_boxes(height: int, width: int) -> None:
    before = targets(9, height, width)
    which = torch.tensor([True, False, True] * 3)
    mirrored = flipped(before, which, width)
    generator = torch.Generator().manual_seed(1)
    sizes = torch.stack([torch.randint(1, side + 1, (9,), generator=generator) for side in (height, width)], 1)
    starts = (torch.rand(9, 2, generator=generator) * (torch.tensor([height, width]) - sizes + 1)).long()
    crops = torch.cat([starts, sizes], 1)
    after = cropped(before, crops, (height, width))
    left = 0
    for index in range(9):
        own = before.image == index
        if own.any():
            wanted = transforms.horizontal_flip(canvas(before.boxes[own], height, width)) if which[index] else before.boxes[own]
            assert (mirrored.boxes[own] - wanted).abs().max() < 1e-4
        top, start, tall, wide = crops[index].tolist()
        expected = transforms.resized_crop(canvas(before.boxes[own], height, width), top, start, tall, wide, [height, width])
        sides = expected[:, 2:] - expected[:, :2]
        some = (sides > 0).all(1)
        found = after.kept(after.image == index)
        assert (found.boxes - expected[some]).abs().max() < 1e-4 if some.any() else not len(found.boxes)
        assert torch.equal(found.classes, before.classes[own][some])
        whole = (before.boxes[own][:, 2:] - before.boxes[own][:, :2]).prod(1) * (height / tall) * (width / wide)
        share = (sides.prod(1) / whole)[some]
        was = before.flags[own][some]
        assert torch.equal(found.flags, torch.where((share < 0.3) & (was != CROWD), IGNORED, was).to(torch.uint8))
        left += len(found.boxes)
    assert 0 < left < len(before.boxes)


def test_an_object_of_which_less_than_30_percent_is_left_is_ignored() -> None:
    boxes = torch.tensor([[10, 0, 20, 10], [0, 0, 10, 10], [5, 5, 6, 6.0]])
    before = Targets(boxes, torch.arange(3), torch.zeros(3, dtype=torch.uint8), torch.zeros(3, dtype=torch.int64), 1)
    for start, expected in ((17, {0: COUNTS}), (18, {0: IGNORED}), (8, {0: COUNTS, 1: IGNORED}), (7, {0: COUNTS, 1: COUNTS})):
        after = cropped(before, torch.tensor([[0, start, 20, 10]]), (20, 20))
        assert dict(zip(after.classes.tolist(), after.flags.tolist(), strict=True)) == expected


AUGMENT = {"flip": True, "photometric": 0.3, "crop_scale": 0.4, "cutout": 4}


def test_a_batch_with_boxes_has_the_draws_of_one_without() -> None:
    images = torch.randint(256, (7, 24, 32, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    for names in (["flip"], ["crop_scale"], list(AUGMENT), []):
        augment = Augmentation(**{name: AUGMENT[name] for name in names})
        plain = augment(images, torch_generator(0, "augment"))
        same, after = augment.with_boxes(images, targets(7, 24, 32), torch_generator(0, "augment"))
        assert torch.equal(same, plain)
        assert after.count == 7
        assert bool((after.image.diff() >= 0).all())


def test_boxes_follow_what_they_stand_around() -> None:
    """Bright blocks on black: after any augmentation, the box of a block is where it is bright."""
    count, height, width = 64, 60, 80
    generator = torch.Generator().manual_seed(3)
    images = torch.zeros(count, height, width, 3, dtype=torch.uint8)
    corner = torch.stack(
        [torch.randint(5, 40, (count,), generator=generator), torch.randint(5, 30, (count,), generator=generator)], 1
    )
    boxes = torch.cat([corner, corner + torch.randint(15, 25, (count, 2), generator=generator)], 1)
    for image, (x0, y0, x1, y1) in zip(images, boxes.tolist(), strict=True):
        image[y0:y1, x0:x1] = 255
    before = Targets(
        boxes.float(), torch.zeros(count, dtype=torch.int64), torch.zeros(count, dtype=torch.uint8), torch.arange(count), count
    )
    moved, after = Augmentation(flip=True, crop_scale=0.4).with_boxes(images, before, torch_generator(0, "augment"))
    assert len(after.boxes) > 0.9 * count
    for (x0, y0, x1, y1), index in zip(after.boxes.tolist(), after.image.tolist(), strict=True):
        bright = moved[index, :, :, 0] > 127
        rows, columns = bright.any(1).nonzero().flatten(), bright.any(0).nonzero().flatten()
        if len(rows) and len(columns):
            found = [int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1]
            assert max(abs(a - b) for a, b in zip(found, (x0, y0, x1, y1), strict=True)) <= 1
