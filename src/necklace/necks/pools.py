"""Maxima over windows of several sizes, each from the one before: the pools of SPP and SPPF.

A pool of size k followed by one of size s equals a pool of size k + s - 1, also at the border, where the padding is -inf. So
pools of sizes 5, 9 and 13 are a chain of three pools of size 5. All ways give the same maxima, bit for bit.

Where two values in a window are equal, torch gives the whole gradient to one of them, and a chain may choose another one than a
single wide pool does. So the gradients of a chain and of parallel pools are equal, up to rounding, where the values in each
window differ; else a gradient may arrive at another place of equal value. With normally distributed maps of 20 x 20 after SiLU
that is nowhere in fp32 and at 0.04 % of the positions in bf16. SPP and SPPF share this code, so between these two even ties
fall alike.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from necklace.necks.depthwise import eager

# Values in a map from which on shifted maps gain more than their calls cost.
LEAST = 2**15
# Bytes of the maps that are worked on at once without gradients; they stay in a core's cache.
AT_ONCE = 2**18


def with_pools(x: Tensor, sizes: Sequence[int]) -> Tensor:
    """A map and its maxima over windows of several sizes, stride 1, side by side.

    Args:
        x: Feature map [B, C, h, w].
        sizes: Window of each pool, in positions; odd, in any order.

    Returns:
        [B, C * (1 + len(sizes)), h, w]: the map, then its pools in the order of `sizes`.
    """
    if not eager(x) or (torch.is_grad_enabled() and x.requires_grad):
        return _chain(x, sizes, _whole)
    # A map that is laid out both ways, such as one of 1 x 1, goes the way that keeps its layout as it is.
    if x.numel() >= LEAST and x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous():
        return _shifted(x, sizes)
    return _chain(x, sizes, _rows_then_columns)


def _chain(x: Tensor, sizes: Sequence[int], pool: Callable[[Tensor, int], Tensor]) -> Tensor:
    """Each pool from the next smaller one."""
    found, done = {1: x}, 1
    for size in sorted(set(sizes) - {1}):
        found[size] = pool(found[done], size - done + 1)
        done = size
    return torch.cat([x, *(found[size] for size in sizes)], dim=1)


def _whole(x: Tensor, size: int) -> Tensor:
    return F.max_pool2d(x, size, 1, size // 2)


def _rows_then_columns(x: Tensor, size: int) -> Tensor:
    return F.max_pool2d(F.max_pool2d(x, (1, size), 1, (0, size // 2)), (size, 1), 1, (size // 2, 0))


def _shifted(x: Tensor, sizes: Sequence[int]) -> Tensor:
    """The chain on a channels_last map, by maxima of shifted maps: a few images at a time, straight into the result."""
    x = x.permute(0, 2, 3, 1)
    batch, height, width, channels = x.shape
    result = x.new_empty(batch, height, width, channels * (1 + len(sizes)))
    count = max(1, min(batch, AT_ONCE // (x.element_size() * channels * height * width)))
    moves = _moves(x[:count], sizes)
    for first in range(0, batch, count):
        place = result[first : first + count].split(channels, dim=3)
        if len(place[0]) < count:
            moves = _moves(x[first:], sizes)
        inside, pools = moves
        place[0].copy_(x[first : first + count])
        inside.copy_(x[first : first + count])
        for positions, maxima in pools:
            for one, two, out in maxima:
                torch.maximum(one, two, out=place[positions[0]] if out is None else out)
            if maxima[-1][2] is not None:
                place[positions[0]].copy_(inside)
            for again in positions[1:]:
                place[again].copy_(place[positions[0]])
    return result.permute(0, 3, 1, 2)


Maxima = list[tuple[Tensor, Tensor, Tensor | None]]
"""Pairs of maps and where their maxima go; None for a place in the result."""


def _moves(x: Tensor, sizes: Sequence[int]) -> tuple[Tensor, list[tuple[list[int], Maxima]]]:
    """All that is done for some images [n, h, w, C], prepared once: a view costs as much time as the maxima of a small map.

    Returns:
        Where the map has to be written, and for each pool its places in the result and its maxima.
    """
    steps = _steps(sizes)
    images, height, width, channels = x.shape
    reach = max([step for _, step in steps], default=1) // 2
    # Their borders stay -inf.
    wide = x.new_full((images, height, width + 2 * reach, channels), -torch.inf)
    high = x.new_full((images, height + 2 * reach, width, channels), -torch.inf)
    inside, between = wide[:, :, reach : reach + width], high[:, reach : reach + height]
    scratch = [x.new_empty(max(wide.numel(), high.numel())) for _ in range(2)]
    pools: list[tuple[list[int], Maxima]] = []
    for number, (positions, step) in enumerate(steps, 1):
        rows = wide.narrow(2, reach - step // 2, width + step - 1)
        columns = high.narrow(1, reach - step // 2, height + step - 1)
        # Into the place where the next pool reads: one among the result's channels is slow to write to.
        out = inside if number < len(steps) else None
        pools.append((positions, _slide(rows, 2, step, between, scratch) + _slide(columns, 1, step, out, scratch)))
    return inside, pools


def _steps(sizes: Sequence[int]) -> list[tuple[list[int], int]]:
    """For each size once, in rising order: its places in the result, and the size of the pool that leads to it."""
    found, done = [], 1
    for size in sorted(set(sizes)):
        found.append(([place for place, other in enumerate(sizes, 1) if other == size], size - done + 1))
        done = size
    return found


def _slide(x: Tensor, dim: int, size: int, out: Tensor | None, scratch: list[Tensor]) -> Maxima:
    """The maxima of `size` positions along `dim`: windows of 2, 4, 8 ... positions, then two that cover the whole size."""
    found: Maxima = []
    length, window = x.shape[dim] - size + 1, 1
    while 2 * window < size:
        shape = [*x.shape[:dim], x.shape[dim] - window, *x.shape[dim + 1 :]]
        target = scratch[len(found) % 2][: math.prod(shape)].view(shape)
        found.append((x.narrow(dim, 0, shape[dim]), x.narrow(dim, window, shape[dim]), target))
        x, window = target, 2 * window
    return [*found, (x.narrow(dim, 0, length), x.narrow(dim, size - window, length), out)]
