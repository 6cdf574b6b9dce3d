"""Images with boxes and detections, drawn for tests: ties, duplicates, crowds, empty images, classes without objects."""

import dataclasses
from fractions import Fraction

import numpy as np

from necklace.boxes import COUNTS, ImageBoxes

Box = tuple[float, float, float, float]


def image(
    index: int,
    true: list[tuple[Box, int, int]],
    found: list[tuple[Box, int, float]],
) -> ImageBoxes:
    """An image from (box, class, flag) of its objects and (box, class, score) of its detections."""
    return ImageBoxes(
        index=index,
        height=480,
        width=640,
        true_boxes=np.array([box for box, _, _ in true], np.float32).reshape(-1, 4),
        true_classes=np.array([number for _, number, _ in true], np.int64),
        flags=np.array([flag for _, _, flag in true], np.uint8),
        boxes=np.array([box for box, _, _ in found], np.float32).reshape(-1, 4),
        scores=np.array([score for _, _, score in found], np.float32),
        classes=np.array([number for _, number, _ in found], np.int64),
    )


def drawn(seed: int, images: int, classes: int, most: int = 8, unique: bool = False) -> list[ImageBoxes]:
    """Images whose detections are objects' boxes, moved a little, and others; many are equal.

    Boxes lie on a grid, so that overlaps are equal, areas are 32 * 32 and 96 * 96, and IoUs are 0.5 exactly. `unique` makes all
    scores of an image different; scores of different images are still equal.
    """
    generator = np.random.default_rng(seed)
    sides = np.array([8, 16, 32, 40, 64, 96, 128])
    result = []
    for index in range(images):
        number, found = generator.integers(0, most, 2)
        corners = generator.integers(0, 12, (number, 2)) * 16
        boxes = np.concatenate([corners, corners + generator.choice(sides, (number, 2))], 1).astype(np.float32)
        labels = generator.integers(0, max(1, classes - 1), number)  # the last class has detections alone
        flags = generator.choice([0, 0, 0, 0, 1, 2], number)
        guesses = generator.integers(0, 8, (found, 2)) * 24
        others = np.concatenate([guesses, guesses + generator.choice(sides, (found, 2))], 1).astype(np.float32)
        guessed = generator.integers(0, classes, found)
        if number:
            near = generator.integers(0, number, found)
            close = generator.random(found) < 0.8
            moved = boxes[near] + generator.choice([0, 0, 0, 4, 8], (found, 4)) * generator.choice([-1, 1], (found, 4))
            moved[:, 2:] = np.maximum(moved[:, 2:], moved[:, :2])
            others[close], guessed[close] = moved[close], labels[near][close]
        scores = generator.permutation(20)[:found] / 20 if unique else generator.choice([0.1, 0.3, 0.5, 0.7, 0.9], found)
        result.append(
            ImageBoxes(index, 480, 640, boxes, labels, flags.astype(np.uint8), others, scores.astype(np.float32), guessed)
        )
    return result


def repeated(images: list[ImageBoxes], weights: np.ndarray) -> list[ImageBoxes]:
    """The set in which each image really is there as often as its weight says; copies stand one after the other."""
    copies = [each for each, weight in zip(images, weights, strict=True) for _ in range(weight)]
    return [dataclasses.replace(each, index=number) for number, each in enumerate(copies)]


def large(images: int, classes: int, detections: int, objects: float, seed: int = 0) -> list[ImageBoxes]:
    """A set like a real one's: most objects found, the scores of right detections higher, the rest anywhere."""
    generator = np.random.default_rng(seed)
    result = []
    for index in range(images):
        number = generator.poisson(objects)
        corners = generator.uniform(0, 500, (number, 2))
        boxes = np.concatenate([corners, corners + generator.uniform(10, 140, (number, 2))], 1).astype(np.float32)
        labels = generator.integers(0, classes, number)
        corners = generator.uniform(0, 500, (detections, 2))
        others = np.concatenate([corners, corners + generator.uniform(10, 140, (detections, 2))], 1)
        guessed = generator.integers(0, classes, detections)
        scores = generator.uniform(0, 0.6, detections)
        close = min(2 * number, detections // 2)
        if number:
            near = generator.integers(0, number, close)
            others[:close] = boxes[near] + generator.normal(0, 4, (close, 4))
            guessed[:close] = labels[near]
            scores[:close] += generator.uniform(0, 0.4, close)
        others[:, 2:] = np.maximum(others[:, 2:], others[:, :2] + 1)
        flags = np.full(number, COUNTS, np.uint8)
        result.append(
            ImageBoxes(index, 640, 640, boxes, labels, flags, others.astype(np.float32), scores.astype(np.float32), guessed)
        )
    return result


def exactly(value: float, *fraction: int) -> bool:
    """Whether a value is a fraction to 1e-12."""
    return abs(value - Fraction(*fraction)) < 1e-12
