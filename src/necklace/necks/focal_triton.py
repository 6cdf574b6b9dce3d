"""The levels of focal modulation on a GPU, by Triton kernels that fuse convolution, GELU and gated sum, forward and backward.

Off unless switched on: the rule when they are used has to come from measurements (`necklace bench necks --device cuda` switches
them on for a way of its own). Triton comes with torch for CUDA; elsewhere it is not imported, and the plain form computes.
"""

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from necklace.necks.depthwise import transformed

ROWS, COLUMNS = 32, 64  # a program's tile: positions and channels
CHUNK = 2048  # positions that a program sums up for the weight's gradient
DTYPES = (torch.float32, torch.bfloat16, torch.float16)

_on = False


@contextmanager
def switched_on() -> Iterator[None]:
    """Inside, levels are computed by the kernels wherever these apply."""
    global _on
    before, _on = _on, True
    try:
        yield
    finally:
        _on = before


@cache
def missing() -> str | None:
    """What the kernels lack on this machine, in words; None where they can be compiled."""
    if find_spec("triton") is None:
        return "triton is not installed; torch for CUDA comes with it"
    if not (os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")):
        return "there is no C compiler, which Triton needs to start a kernel; set CC to one"
    return None


def applies(z: Tensor, gates: Tensor, weights: Sequence[Tensor]) -> bool:
    """Whether the kernels are switched on and can compute these levels, in this process and right now.

    Args:
        z: Level 0 [B, C, h, w].
        gates: [B, n, h, w].
        weights: Of each level, [C, 1, k, k].
    """
    if not _on or z.device.type != "cuda" or transformed() or forward_ad._current_level >= 0 or missing():
        return False
    # Under autocast a map has its type already, and the kernels sum in fp32 whatever the weights' type.
    same = torch.is_autocast_enabled("cuda") or all(weight.dtype == z.dtype for weight in weights)
    near = all(tensor.device == z.device for tensor in (gates, *weights))
    small = z.shape[0] * max(z.stride(0), z.numel() // max(1, z.shape[0])) < 2**31  # places are 32-bit numbers
    return same and near and small and z.dtype in DTYPES and gates.dtype == z.dtype and z.numel() > 0


def levels(z: Tensor, gates: Tensor, weights: Sequence[Tensor], global_context: bool) -> Tensor:
    """The gated sum of all contexts; it cannot be differentiated twice, which torch then says.

    Args:
        z: Level 0 [B, C, h, w], of any layout; one by channels is not copied.
        gates: [B, n, h, w].
        weights: Of each level, [C, 1, k, k].
        global_context: Whether the map's mean is a context.

    Returns:
        [B, C, h, w], by channels.
    """
    return _Levels.apply(global_context, z, gates, *weights)


def _kernels() -> Any:
    from necklace.necks import focal_kernels  # here: it imports Triton

    return focal_kernels


class _Levels(torch.autograd.Function):
    """`levels`."""

    @staticmethod
    def forward(ctx: Any, global_context: bool, z: Tensor, gates: Tensor, *weights: Tensor) -> Tensor:
        kernels = _kernels()
        start, start_stride = _by_position(z)
        gates, gate_stride = _by_position(gates)
        total, outputs, context, stride = _dense(z), [], start, start_stride
        for level, weight in enumerate(weights):
            u, found = _dense(z), _dense(z)
            kernels.forward_level[_grid(z)](
                context, stride, _taps(weight), gates, gate_stride, level, u, found, total, *_sizes(z),
                kernel=weight.shape[-1], first=level == 0, rows=ROWS, columns=COLUMNS,
            )  # fmt: skip
            outputs.append(u)
            context, stride = found, z.shape[1]
        mean = None
        if global_context:
            mean = context.mean((2, 3), keepdim=True)
            total.addcmul_(F.gelu(mean), gates[:, len(weights) :])
        ctx.save_for_backward(mean, start, gates, *weights, *outputs)
        ctx.levels = len(weights)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        kernels = _kernels()
        mean, start, gates, *rest = ctx.saved_tensors
        weights, outputs = rest[: ctx.levels], rest[ctx.levels :]
        needed = ctx.needs_input_grad[1:]
        grad, grad_stride = _by_position(grads[0].to(start.dtype))
        gates, gate_stride = _by_position(gates)
        grid, sizes = _grid(start), _sizes(start)
        of_gates = torch.empty_like(gates)
        of_mean = grad  # not read without a mean
        if mean is not None:
            of_gates[:, ctx.levels :] = (grad.float() * F.gelu(mean).float()).sum(1, keepdim=True)
            of_global = (grad.float() * gates[:, ctx.levels :].float()).sum((2, 3), keepdim=True)
            slope = torch.ops.aten.gelu_backward(of_global, mean.float())
            of_mean = (slope / (start.shape[2] * start.shape[3])).contiguous()
        of_weights: list[Tensor | None] = [None] * ctx.levels
        above = grad  # not read at the top
        for level in reversed(range(ctx.levels)):
            top = level == ctx.levels - 1
            next_weight = weights[level if top else level + 1]
            of_u = _dense(start)
            of_gate = torch.empty((grid[1], sizes[0]), dtype=torch.float32, device=start.device)
            kernels.backward_level[grid](
                above, _taps(next_weight), of_mean, grad, grad_stride, outputs[level], gates, gate_stride, level, of_u, of_gate,
                *sizes, kernel=next_weight.shape[-1], has_next=not top, has_mean=top and mean is not None,
                rows=ROWS, columns=COLUMNS,
            )  # fmt: skip
            of_gates[:, level] = of_gate.sum(0).view(start.shape[0], *start.shape[2:])
            if needed[2 + level]:
                below = outputs[level - 1] if level else start
                of_weights[level] = _weight_gradient(of_u, below, weights[level], activated=level > 0)
            above = of_u
        of_z = None
        if needed[0]:
            of_z = _dense(start)
            kernels.input_gradient[grid](
                above, _taps(weights[0]), of_z, *sizes, kernel=weights[0].shape[-1], rows=ROWS, columns=COLUMNS
            )
        return None, of_z, of_gates if needed[1] else None, *of_weights


def _weight_gradient(of_u: Tensor, below: Tensor, weight: Tensor, activated: bool) -> Tensor:
    """The gradient [C, 1, k, k] of a level's weight; `below` is its input, or the convolution's output that it is GELU of."""
    kernels = _kernels()
    below, stride = _by_position(below)
    count, channels, height, width = _sizes(of_u)
    chunk = min(CHUNK, -(-count // ROWS) * ROWS)
    taps, chunks = weight.shape[-1] ** 2, -(-count // chunk)
    parts = torch.empty((chunks, taps, channels), dtype=torch.float32, device=of_u.device)
    kernels.weight_gradient[taps, -(-channels // COLUMNS), chunks](
        of_u, below, stride, parts, count, channels, height, width, chunk,
        kernel=weight.shape[-1], activated=activated, rows=ROWS, columns=COLUMNS,
    )  # fmt: skip
    return parts.sum(0).T.reshape(weight.shape).to(weight.dtype)


def _by_position(tensor: Tensor) -> tuple[Tensor, int]:
    """A map, copied where it does not lie position by position, and the elements from one position to the next."""
    batch, channels, height, width = tensor.shape
    steps = [(size, tensor.stride(axis), inner) for size, axis, inner in ((width, 3, 1), (height, 2, width))]
    steps.append((batch, tensor.stride(0), height * width))
    stride = next((step // inner for size, step, inner in steps if size > 1), channels)
    regular = all(size == 1 or step == stride * inner for size, step, inner in steps)
    if regular and (channels == 1 or tensor.stride(1) == 1):
        return tensor, stride
    return _dense(tensor).copy_(tensor), channels


def _dense(like: Tensor) -> Tensor:
    """An empty map of the same shape that lies position by position."""
    batch, channels, height, width = like.shape
    return like.new_empty((batch, height, width, channels)).permute(0, 3, 1, 2)


def _taps(weight: Tensor) -> Tensor:
    """A weight [C, 1, k, k] as [k * k, C]."""
    return weight.detach().flatten(1).T.contiguous()


def _sizes(z: Tensor) -> tuple[int, int, int, int]:
    return z.shape[0] * z.shape[2] * z.shape[3], z.shape[1], z.shape[2], z.shape[3]


def _grid(z: Tensor) -> tuple[int, int]:
    count, channels, _, _ = _sizes(z)
    return -(-count // ROWS), -(-channels // COLUMNS)
