import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.ops import batched_nms

from necklace.boxes.truth import COUNTS, IGNORED
from necklace.data.boxes import Targets
from necklace.heads.dense import Dense
from necklace.tasks.detection import MOST, OVERLAP, detection_losses, detections
from tests.test_tasks_assignment import MANY, iou_of, predictions, slowly, targets


def giou(a: list[float], b: list[float]) -> float:
    hull = (max(a[2], b[2]) - min(a[0], b[0])) * (max(a[3], b[3]) - min(a[1], b[1]))
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    overlap = iou_of(a, b)
    union = sum(areas) / (1 + overlap)
    return overlap - (hull - union) / hull


def slow_losses(outputs: Dense, true: Targets) -> list[float]:
    """The loss of each image, a point and a class at a time."""
    scores = outputs.scores.sigmoid()
    assigned = slowly(scores, outputs.boxes, outputs.points, true)
    found = []
    for image in range(true.count):
        total, weight = 0.0, 0.0
        for point, (x, y) in enumerate(outputs.points.tolist()):
            box, due = assigned.get((image, point), (None, 0.0))
            weight += due
            for label in range(scores.shape[2]):
                p = scores[image, point, label].item()
                target = due if box is not None and true.classes[box] == label else 0.0
                ignored = any(
                    owner == image and flag != COUNTS and kind == label and b[0] < x < b[2] and b[1] < y < b[3]
                    for b, kind, flag, owner in zip(*(part.tolist() for part in true[:4]), strict=True)
                )
                if target or not ignored:
                    total += (target - p) ** 2 * -(target * math.log(p) + (1 - target) * math.log(1 - p))
            if box is not None:
                total += 2 * due * (1 - giou(outputs.boxes[image, point].tolist(), true.boxes[box].tolist()))
        found.append(total / max(1.0, weight))
    return found


@pytest.mark.parametrize("seed", range(3))
def test_losses_are_those_of_a_plain_reading_of_the_papers(seed: int) -> None:
    outputs = predictions(seed=seed)
    found = detection_losses(outputs, MANY)
    assert found.tolist() == pytest.approx(slow_losses(outputs, MANY), rel=1e-4)


def test_the_loss_of_an_image_does_not_depend_on_its_batch() -> None:
    outputs = predictions()
    together = detection_losses(outputs, MANY)
    for image in range(3):
        own = MANY.image == image
        alone = MANY.kept(own)._replace(image=torch.zeros(int(own.sum()), dtype=torch.int64), count=1)
        one = outputs._replace(scores=outputs.scores[image : image + 1], boxes=outputs.boxes[image : image + 1])
        torch.testing.assert_close(detection_losses(one, alone)[0], together[image], rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    "true",
    [
        MANY,
        targets([[], [], []], [[], [], []]),
        targets([[[3, 3, 20, 20]], [], []], [[1], [], []]),
        MANY._replace(flags=torch.full_like(MANY.flags, IGNORED)),
        targets([[[0, 0, 0.01, 0.01]], [[55.9, 39.9, 56, 40]], [[0, 0, 56, 40]] * 300], [[0], [1], [1] * 300]),
    ],
)
@pytest.mark.parametrize("scale", [1.0, 60.0])
def test_losses_and_gradients_are_finite(true: Targets, scale: float) -> None:
    """Also without any object, with tiny ones, and where predictions are far off and certain."""
    outputs = predictions()
    scores, boxes = (scale * outputs.scores).requires_grad_(), (outputs.boxes * scale).requires_grad_()
    losses = detection_losses(outputs._replace(scores=scores, boxes=boxes), true)
    assert losses.shape == (3,)
    assert losses.isfinite().all()
    losses.sum().backward()
    for gradient in (scores.grad, boxes.grad):
        assert gradient is None or gradient.isfinite().all()
    assert scores.grad is not None
    assert float(scores.grad.abs().sum()) > 0


def test_a_class_that_is_ignored_somewhere_gets_no_gradient_there() -> None:
    outputs = predictions(1)
    scores = outputs.scores.requires_grad_()
    true = targets([[[0, 0, 20, 20], [24, 8, 50, 36]]], [[1, 0]], [[IGNORED, COUNTS]])
    detection_losses(outputs._replace(scores=scores), true).sum().backward()
    within = (outputs.points < 20).all(1)
    assert scores.grad is not None
    assert torch.equal(scores.grad[0, within, 1], torch.zeros(int(within.sum())))
    assert bool((scores.grad[0, within, 0] != 0).all())
    assert bool((scores.grad[0, ~within, 1] != 0).all())


def test_ten_thousand_boxes_in_an_image_take_bounded_memory() -> None:
    generator = torch.Generator().manual_seed(0)
    corner = torch.rand(10_000, 2, generator=generator) * torch.tensor([50.0, 34.0])
    boxes = torch.cat([corner, corner + 0.5 + 5 * torch.rand(10_000, 2, generator=generator)], 1)
    true = Targets(boxes, torch.arange(10_000) % 2, torch.zeros(10_000, dtype=torch.uint8), torch.zeros(10_000).long(), 1)
    assert detection_losses(predictions(1), true).isfinite().all()


def plainly(scores: Tensor, boxes: Tensor, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """torchvision's own per-class suppression over all points and classes of an image."""
    boxes = boxes.clamp(min=0)
    boxes = torch.stack([boxes[:, 0::2].clamp(max=size[1]), boxes[:, 1::2].clamp(max=size[0])], 2).flatten(1)
    point, classes = (scores > 0.001).nonzero(as_tuple=True)
    value = scores[point, classes]
    best = batched_nms(boxes[point].double(), value.double(), classes, OVERLAP)[:MOST]
    return boxes[point[best]].numpy(), value[best].numpy(), classes[best].numpy()


def test_predictions_are_the_best_boxes_of_each_class_after_suppression() -> None:
    outputs = predictions(4, classes=3)
    for found, scores, boxes in zip(detections(outputs, (40, 56)), outputs.scores.sigmoid(), outputs.boxes, strict=True):
        expected = plainly(scores, boxes, (40, 56))
        for mine, other in zip(found, expected, strict=True):
            np.testing.assert_allclose(mine.numpy(), other, rtol=1e-6, atol=1e-5)
        assert 10 < len(found.scores) <= MOST
        assert float(found.boxes.min()) >= 0
        assert float(found.boxes[:, 2].max()) <= 56
        assert float(found.boxes[:, 3].max()) <= 40


def test_no_score_above_the_least_gives_no_box() -> None:
    outputs = predictions(2)
    found = detections(outputs._replace(scores=torch.full_like(outputs.scores, -20.0)), (40, 56))
    assert [len(one.boxes) for one in found] == [0, 0]
    assert found[0].boxes.shape == (0, 4)
