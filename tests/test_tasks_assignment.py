import math

import pytest
import torch
from torch import Tensor

from necklace.boxes.truth import COUNTS, CROWD, IGNORED
from necklace.data.boxes import Targets
from necklace.heads.dense import Dense
from necklace.tasks import assignment
from necklace.tasks.assignment import FLOOR, LEAST, TOP, assign, paired_iou


def predictions(images: int = 3, classes: int = 2, seed: int = 0, sides: tuple[int, int] = (40, 56)) -> Dense:
    """Random predictions at the points of two levels."""
    generator = torch.Generator().manual_seed(seed)
    points, strides = [], []
    for stride in (8, 16):
        rows, columns = (math.ceil(side / stride) for side in sides)
        grid = torch.cartesian_prod(torch.arange(rows), torch.arange(columns)).flip(1)
        points.append((grid + 0.5) * stride)
        strides.append(torch.full((len(grid),), float(stride)))
    place, step = torch.cat(points), torch.cat(strides)
    logits = torch.randn(images, len(place), classes, generator=generator) - 1
    away = (torch.randn(images, len(place), 4, generator=generator) * 0.5 + 0.7).exp() * step[:, None]
    boxes = torch.cat([place - away[..., :2], place + away[..., 2:]], 2)
    return Dense(logits, boxes, place, step)


def targets(boxes: list[list[list[float]]], classes: list[list[int]], flags: list[list[int]] | None = None) -> Targets:
    """The true boxes of some images, a list each."""
    flat = [box for own in boxes for box in own]
    image = [number for number, own in enumerate(boxes) for _ in own]
    kinds = [flag for own in flags for flag in own] if flags else [COUNTS] * len(flat)
    return Targets(
        torch.tensor(flat).reshape(-1, 4),
        torch.tensor([value for own in classes for value in own], dtype=torch.int64),
        torch.tensor(kinds, dtype=torch.uint8),
        torch.tensor(image, dtype=torch.int64),
        len(boxes),
    )


# Overlapping ones, one twice, a large one, one without a point inside, ignored ones, and an image without any.
MANY = targets(
    [
        [[3, 5, 30, 28], [10, 8, 44, 36], [10, 8, 44, 36], [0, 0, 56, 40]],
        [],
        [[13, 13, 15, 15], [2, 2, 3, 3], [30, 10, 50, 34], [31, 12, 52, 30]],
    ],
    [[0, 1, 0, 1], [], [0, 1, 1, 0]],
    [[COUNTS, COUNTS, COUNTS, IGNORED], [], [COUNTS, COUNTS, CROWD, COUNTS]],
)


def iou_of(a: list[float], b: list[float]) -> float:
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    both = max(0.0, width) * max(0.0, height)
    return both / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both)


def slowly(scores: Tensor, boxes: Tensor, points: Tensor, true: Targets) -> dict[tuple[int, int], tuple[int, float]]:
    """(image, point) to (true box, score that is due): the paper's rule, a box and a point at a time."""
    claims: dict[tuple[int, int], tuple[float, int, float]] = {}
    for number, (box, label, flag, image) in enumerate(zip(*(part.tolist() for part in true[:4]), strict=True)):
        if flag != COUNTS:
            continue
        within = [p for p, (x, y) in enumerate(points.tolist()) if box[0] < x < box[2] and box[1] < y < box[3]]
        if not within:
            x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
            within = [min(range(len(points)), key=lambda p: (points[p, 0].item() - x) ** 2 + (points[p, 1].item() - y) ** 2)]
        found = []
        for p in within:
            overlap = iou_of(boxes[image, p].tolist(), box)
            t = max(scores[image, p, label].item(), LEAST) ** 0.5 * max(overlap, LEAST) ** 6
            found.append((t, p, overlap))
        for t, p, overlap in sorted(found, reverse=True)[:TOP]:
            if overlap > claims.get((image, p), (-1.0, 0, 0.0))[0]:
                claims[image, p] = overlap, number, t
    due = {}
    for place, (_, number, t) in claims.items():
        own = [(other[2], other[0]) for other in claims.values() if other[1] == number]
        due[place] = number, t / max(t for t, _ in own) * max(FLOOR, max(overlap for _, overlap in own))
    return due


@pytest.mark.parametrize("seed", range(4))
def test_points_go_to_boxes_as_the_papers_rule_says(seed: int) -> None:
    outputs = predictions(seed=seed)
    scores = outputs.scores.sigmoid()
    found = assign(scores, outputs.boxes, outputs.points, MANY)
    expected = slowly(scores, outputs.boxes, outputs.points, MANY)
    count = len(outputs.points)
    assert [divmod(place, count) for place in found.place.tolist()] == sorted(expected)
    assert len(expected) > 20
    for place, box, score in zip(found.place.tolist(), found.box.tolist(), found.score.tolist(), strict=True):
        assert expected[divmod(place, count)] == (box, pytest.approx(score, rel=1e-4))
    assert found.score.min() > 0
    assert found.score.max() <= 1


def test_boxes_looked_at_a_few_at_a_time_are_assigned_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    outputs = predictions()
    whole = assign(outputs.scores.sigmoid(), outputs.boxes, outputs.points, MANY)
    monkeypatch.setattr(assignment, "PAIRS", 100)
    parts = assign(outputs.scores.sigmoid(), outputs.boxes, outputs.points, MANY)
    assert all(torch.equal(a, b) for a, b in zip(whole, parts, strict=True))


def test_an_image_is_assigned_whatever_it_is_batched_with() -> None:
    outputs = predictions()
    together = assign(outputs.scores.sigmoid(), outputs.boxes, outputs.points, MANY)
    count, first = len(outputs.points), 0
    for image in range(3):
        own = MANY.image == image
        alone = MANY.kept(own)._replace(image=torch.zeros(int(own.sum()), dtype=torch.int64), count=1)
        found = assign(outputs.scores[image : image + 1].sigmoid(), outputs.boxes[image : image + 1], outputs.points, alone)
        here = together.place // count == image
        assert torch.equal(found.place, together.place[here] - image * count)
        assert torch.equal(found.box + first, together.box[here])
        assert torch.equal(found.score, together.score[here])
        first += int(own.sum())


def test_without_boxes_that_count_nothing_is_assigned() -> None:
    outputs = predictions()
    for none in (targets([[], [], []], [[], [], []]), MANY._replace(flags=torch.full_like(MANY.flags, IGNORED))):
        found = assign(outputs.scores.sigmoid(), outputs.boxes, outputs.points, none)
        assert len(found.place) == len(found.box) == len(found.score) == 0


def test_iou_of_pairs() -> None:
    first = torch.tensor([[0.0, 0, 2, 2], [0, 0, 1, 1], [5, 5, 5, 5]])
    second = torch.tensor([[1.0, 1, 3, 3], [2, 2, 3, 3], [5, 5, 5, 5]])
    torch.testing.assert_close(paired_iou(first, second), torch.tensor([1 / 7, 0, 0]))
