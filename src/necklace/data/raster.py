"""Drawing primitives and random draws that the generated sources (`glyphs`, `context`) share.

Pixels are part of a run's identity, so they must not depend on the machine. Everything is computed from uniform random numbers
with + - * / sqrt, min and max only, which IEEE 754 defines to the last bit: no sine and no sum over pixels, whose rounding
depends on the CPU's vector width, and no drawing library, whose antialiasing depends on its version.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch


def _outline(points: Sequence[tuple[float, float]]) -> np.ndarray:
    """Return the segments `[S, 2, 2]` (start and end, each x and y) of the closed line through `points`."""
    # Six decimals: the last bits of a sine may differ between C libraries, and pixels must not.
    corners = np.round(np.array(points, dtype=np.float64), 6)
    return np.stack([corners, np.roll(corners, -1, axis=0)], axis=1)


def _arc(radius: float, start: float, end: float, steps: int, x: float = 0.0) -> list[tuple[float, float]]:
    """Return points on a circle around (x, 0); angles in degrees, 0 to the right, 90 down."""
    angles = [math.radians(start + (end - start) * step / steps) for step in range(steps + 1)]
    return [(x + radius * math.cos(angle), radius * math.sin(angle)) for angle in angles]


def _heart(step: int) -> tuple[float, float]:
    angle = math.tau * step / 24
    drop = 13 * math.cos(angle) - 5 * math.cos(2 * angle) - 2 * math.cos(3 * angle) - math.cos(4 * angle)
    return 16 * math.sin(angle) ** 3, -drop


def _star(step: int) -> tuple[float, float]:
    angle = math.radians(36 * step - 90)
    radius = 0.4 if step % 2 else 1.0
    return radius * math.cos(angle), radius * math.sin(angle)


_PLUS = [(0.3, -1), (0.3, -0.3), (1, -0.3), (1, 0.3), (0.3, 0.3), (0.3, 1)]

# y points down; `fit` scales each shape, so only proportions matter here.
SHAPES: dict[str, np.ndarray] = {
    "circle": _outline(_arc(1, 0, 345, 23)),
    "square": _outline([(-1, -1), (1, -1), (1, 1), (-1, 1)]),
    "triangle": _outline([(0, -1), (1, 0.8), (-1, 0.8)]),
    "cross": _outline([*_PLUS, *[(-x, -y) for x, y in _PLUS]]),
    "star": _outline([_star(step) for step in range(10)]),
    "diamond": _outline([(0, -1), (0.6, 0), (0, 1), (-0.6, 0)]),
    "hourglass": _outline([(-0.75, -1), (0.75, -1), (-0.75, 1), (0.75, 1)]),
    "heart": _outline([_heart(step) for step in range(24)]),
    "crescent": _outline([*_arc(1, 50, 310, 13), *_arc(0.81, 290, 70, 11, x=0.37)]),
    "arrow": _outline([(-1, -0.28), (0.1, -0.28), (0.1, -0.8), (1, 0), (0.1, 0.8), (0.1, 0.28), (-1, 0.28)]),
}


def _turn(points: np.ndarray, half_tangent: float | np.ndarray) -> np.ndarray:
    """Rotate points `[..., 2]` by an angle given as tan(angle / 2), which needs no sine or cosine."""
    scale = 1 / (1 + half_tangent * half_tangent)
    cosine, sine = (1 - half_tangent * half_tangent) * scale, 2 * half_tangent * scale
    x, y = points[..., 0], points[..., 1]
    return np.stack([x * cosine - y * sine, x * sine + y * cosine], axis=-1)


def fit(shape: np.ndarray, extent: float, width: float, half_tangent: float = 0.0) -> tuple[np.ndarray, float, float]:
    """Scale a shape so that all of its drawn pixels, antialiased fringe included, fill a box.

    Args:
        shape: Segments `[S, 2, 2]`.
        extent: Longer side of the box, in pixels.
        width: Width of the line, in pixels.
        half_tangent: tan(angle / 2) of a rotation applied first.

    Returns:
        Segments `[S, 2, 2]` in pixels inside the box (0, 0, height, width), and this height and width.
    """
    shape = _turn(shape, half_tangent)
    low = shape.min(axis=(0, 1))
    spread = shape.max(axis=(0, 1)) - low
    # draw() colours pixel centres up to half a line and half a pixel away.
    margin = width / 2 + 0.5
    scale = (extent - 2 * margin) / float(spread.max())
    return (shape - low) * scale + margin, float(spread[1]) * scale + 2 * margin, float(spread[0]) * scale + 2 * margin


def draw(image: np.ndarray, segments: np.ndarray, width: float, colour: Sequence[float]) -> tuple[int, int, np.ndarray] | None:
    """Draw a line with antialiasing, in place.

    Args:
        image: float32 `[h, w, 3]`.
        segments: The line, `[S, 2, 2]` in pixels; the centre of the first pixel is at (0.5, 0.5).
        width: Width of the line, in pixels.
        colour: Red, green and blue in [0, 255].

    Returns:
        Row and column of the touched patch and its coverage in [0, 1], float32 `[rows, columns]`; None if it lies outside.
    """
    reach = width / 2 + 0.5
    left, top = (max(0, math.floor(side)) for side in (segments.min(axis=(0, 1)) - reach).tolist())
    right, bottom = (math.ceil(side) for side in (segments.max(axis=(0, 1)) + reach).tolist())
    right, bottom = min(right, image.shape[1]), min(bottom, image.shape[0])
    if right <= left or bottom <= top:
        return None
    starts = segments[:, 0].astype(np.float32)
    along = (segments[:, 1] - segments[:, 0]).astype(np.float32)
    squared = np.maximum(along[:, 0] * along[:, 0] + along[:, 1] * along[:, 1], np.float32(1e-12))
    x = np.arange(left, right, dtype=np.float32)[None, None, :] + np.float32(0.5) - starts[:, 0, None, None]
    y = np.arange(top, bottom, dtype=np.float32)[None, :, None] + np.float32(0.5) - starts[:, 1, None, None]
    along_x, along_y = along[:, 0, None, None], along[:, 1, None, None]
    # Position of the nearest point along each segment, then its distance: [S, rows, columns].
    where = x * (along_x / squared[:, None, None]) + y * (along_y / squared[:, None, None])
    np.minimum(np.maximum(where, 0, out=where), 1, out=where)
    away_x = x - where * along_x
    away_y = y - where * along_y
    away_x *= away_x
    away_y *= away_y
    away_x += away_y
    distance = np.sqrt(away_x.min(axis=0))
    coverage = np.minimum(np.maximum(np.float32(reach) - distance, 0), 1)
    patch = image[top:bottom, left:right]
    patch += coverage[:, :, None] * (np.array(colour, dtype=np.float32) - patch)
    return top, left, coverage


def textured(rng: np.random.Generator, height: int, width: int, base: np.ndarray, texture: float, channels: int) -> np.ndarray:
    """Draw a background: smooth blotches of about nine pixels, and grain, around one colour.

    Args:
        rng: Random generator.
        height: Rows of the image.
        width: Columns of the image.
        base: The colour, `[3]`.
        texture: Amplitude as a share of the full range [0, 255].
        channels: 3 for a separate texture in each channel, 1 for a grey one.

    Returns:
        float32 `[height, width, 3]`.
    """
    image = np.empty((height, width, 3), dtype=np.float32)
    image[:] = base.astype(np.float32)
    spacing = 9.0  # of the knots, in pixels
    knots = (rng.random((int(height / spacing) + 2, int(width / spacing) + 2, channels)) - 0.5).astype(np.float32)
    rows, row_share = np.divmod(np.arange(height) / spacing, 1)
    columns, column_share = np.divmod(np.arange(width) / spacing, 1)
    row, column = rows.astype(np.int64), columns.astype(np.int64)
    down = row_share.astype(np.float32)[:, None, None]
    across = column_share.astype(np.float32)[None, :, None]
    knots = knots[row] + down * (knots[row + 1] - knots[row])
    blotches = knots[:, column] + across * (knots[:, column + 1] - knots[:, column])
    grain = rng.random((height, width, 1), dtype=np.float32) - np.float32(0.5)
    image += np.float32(510 * texture) * blotches
    image += np.float32(255 * texture) * grain
    return image


def scribble(rng: np.random.Generator, image: np.ndarray, length: tuple[float, float], colours: np.ndarray) -> None:
    """Draw clutter in place: for each colour one open stroke or arc at a random place.

    Args:
        rng: Random generator.
        image: float32 `[h, w, 3]`.
        length: Range of their length, in pixels.
        colours: `[strokes, 3]`.
    """
    pieces = 3
    x, y, to_x, to_y, share, bend, thickness = rng.random((7, len(colours)))
    to_x, to_y = to_x - 0.5, to_y - 0.5
    step = (length[0] + share * (length[1] - length[0])) / pieces / np.maximum(np.sqrt(to_x * to_x + to_y * to_y), 1e-6)
    direction = np.stack([to_x * step, to_y * step], axis=-1)
    points = [np.stack([x * image.shape[1], y * image.shape[0]], axis=-1)]
    for _ in range(pieces):
        points.append(points[-1] + direction)
        direction = _turn(direction, (bend - 0.5) * 0.8)
    # [strokes, pieces, start and end, x and y]
    lines = np.stack([np.stack(points[:-1], axis=1), np.stack(points[1:], axis=1)], axis=2)
    for line, width, colour in zip(lines, (1.0 + thickness).tolist(), colours.tolist(), strict=True):
        draw(image, line, width, colour)


def finish(image: np.ndarray) -> torch.Tensor:
    """Round float32 `[h, w, 3]` to a uint8 image of the same shape."""
    return torch.from_numpy((np.minimum(np.maximum(image, 0), 255) + np.float32(0.5)).astype(np.uint8))


def shuffled_blocks(rng: np.random.Generator, kinds: int, count: int) -> np.ndarray:
    """Return int64 `[count]`: each block of `kinds` values contains 0 .. kinds - 1 once, in random order."""
    blocks = -(-count // kinds)
    return np.argsort(rng.random((blocks, kinds)), axis=1, kind="stable").reshape(-1)[:count]


def side(rng: np.random.Generator, sides: tuple[int, int]) -> int:
    """Draw a side length in pixels, uniform over the range, both ends included."""
    return sides[0] + int(rng.random() * (sides[1] - sides[0] + 1))


def size_range(owner: str, image_size: int | Sequence[int]) -> tuple[int, int]:
    """Convert a side length, or a range of side lengths, to (smallest, largest).

    Raises:
        ValueError: It is neither; the message begins with `owner`.
    """
    sides = [image_size] if isinstance(image_size, int) else list(image_size)
    whole = all(isinstance(length, int) and length > 0 for length in sides)
    if len(sides) not in (1, 2) or not whole or sides[0] > sides[-1]:
        raise ValueError(f"{owner}: image_size={image_size} must be a side in pixels, or a range [smallest, largest]")
    return sides[0], sides[-1]


def check_counts(owner: str, **values: float) -> None:
    """Check numbers of images, strokes or pixels, and amplitudes.

    Raises:
        ValueError: A value is negative; the message begins with `owner`.
    """
    for name, value in values.items():
        if value < 0:
            raise ValueError(f"{owner}: {name}={value} must not be negative")
