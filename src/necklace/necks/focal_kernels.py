"""Triton kernels of focal modulation's levels; this imports Triton, so `focal_triton` imports it where they are used.

Maps lie in memory position by position: the channels of a position are neighbours, and `stride` elements lead from one to
the next. So some channels of a larger map need no copy. A program computes a tile of positions x channels, and loads for
each tap of the window the tile that lies there. Sums are taken in fp32, in a fixed order and without atomics.
"""

# Triton reads these functions itself, and its types are its own.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportIndexIssue=false, reportOperatorIssue=false
# pyright: reportCallIssue=false, reportOptionalOperand=false, reportPossiblyUnboundVariable=false
# ruff: noqa: PLR0913

import triton
import triton.language as tl

ROOT_HALF = tl.constexpr(0.7071067811865476)
ROOT_TWO_PI = tl.constexpr(0.3989422804014327)  # 1 / sqrt(2 pi)


@triton.jit
def gelu(u):
    """GELU by the error function, as torch's default."""
    return u * 0.5 * (1.0 + tl.math.erf(u * ROOT_HALF))


@triton.jit
def gelu_slope(u):
    """The derivative of GELU."""
    return 0.5 * (1.0 + tl.math.erf(u * ROOT_HALF)) + u * ROOT_TWO_PI * tl.exp(-0.5 * u * u)


@triton.jit
def convolved(
    z, stride, weight, position, channel, count, channels, height, width,
    kernel: tl.constexpr, turned: tl.constexpr, rows: tl.constexpr, columns: tl.constexpr,
):  # fmt: skip
    """A tile of a depth-wise convolution, with the window turned by 180 degrees for the input's gradient."""
    x = position % width
    y = (position // width) % height
    total = tl.zeros((rows, columns), dtype=tl.float32)
    for tap in range(kernel * kernel):
        down = tap // kernel - kernel // 2
        right = tap % kernel - kernel // 2
        there = (position < count) & (y + down >= 0) & (y + down < height) & (x + right >= 0) & (x + right < width)
        place = (position + down * width + right)[:, None] * stride + channel[None, :]
        value = tl.load(z + place, mask=there[:, None] & (channel < channels)[None, :], other=0.0).to(tl.float32)
        own = kernel * kernel - 1 - tap if turned else tap
        total += value * tl.load(weight + own * channels + channel, mask=channel < channels, other=0.0).to(tl.float32)[None, :]
    return total


@triton.jit
def forward_level(
    z, z_stride, weight, gates, gate_stride, level, u, context, total, count, channels, height, width,
    kernel: tl.constexpr, first: tl.constexpr, rows: tl.constexpr, columns: tl.constexpr,
):  # fmt: skip
    """U = convolution of z; context = GELU(u); total (+)= gate * context. u, context and total are dense."""
    position = tl.program_id(0) * rows + tl.arange(0, rows)
    channel = tl.program_id(1) * columns + tl.arange(0, columns)
    inside = (position < count)[:, None] & (channel < channels)[None, :]
    place = position[:, None] * channels + channel[None, :]
    rounded = convolved(
        z, z_stride, weight, position, channel, count, channels, height, width, kernel, False, rows, columns
    ).to(u.dtype.element_ty)  # fmt: skip
    tl.store(u + place, rounded, mask=inside)
    found = gelu(rounded.to(tl.float32)).to(context.dtype.element_ty)
    tl.store(context + place, found, mask=inside)
    gate = tl.load(gates + position * gate_stride + level, mask=position < count, other=0.0).to(tl.float32)
    result = gate[:, None] * found.to(tl.float32)
    if not first:
        result += tl.load(total + place, mask=inside, other=0.0).to(tl.float32)
    tl.store(total + place, result.to(total.dtype.element_ty), mask=inside)


@triton.jit
def backward_level(
    of_next, weight, of_mean, grad, grad_stride, u, gates, gate_stride, level, of_u, of_gate, count, channels, height, width,
    kernel: tl.constexpr, has_next: tl.constexpr, has_mean: tl.constexpr, rows: tl.constexpr, columns: tl.constexpr,
):  # fmt: skip
    """The gradient of a level's convolution, and of its gate: a row of sums for each block of channels.

    The context's gradient comes from the level above, through its convolution; at the top from the map's mean, if that is a
    context; and from the gated sum.
    """
    position = tl.program_id(0) * rows + tl.arange(0, rows)
    channel = tl.program_id(1) * columns + tl.arange(0, columns)
    inside = (position < count)[:, None] & (channel < channels)[None, :]
    place = position[:, None] * channels + channel[None, :]
    if has_next:
        of_context = convolved(
            of_next, channels, weight, position, channel, count, channels, height, width, kernel, True, rows, columns
        )  # fmt: skip
    elif has_mean:
        image = position // (height * width)
        of_context = tl.load(of_mean + image[:, None] * channels + channel[None, :], mask=inside, other=0.0).to(tl.float32)
    else:
        of_context = tl.zeros((rows, columns), dtype=tl.float32)
    of_total = tl.load(grad + position[:, None] * grad_stride + channel[None, :], mask=inside, other=0.0).to(tl.float32)
    value = tl.load(u + place, mask=inside, other=0.0).to(tl.float32)
    gate = tl.load(gates + position * gate_stride + level, mask=position < count, other=0.0).to(tl.float32)
    of_context += of_total * gate[:, None]
    tl.store(of_u + place, (of_context * gelu_slope(value)).to(of_u.dtype.element_ty), mask=inside)
    tl.store(of_gate + tl.program_id(1) * count + position, tl.sum(of_total * gelu(value), 1), mask=position < count)


@triton.jit
def input_gradient(
    of_u, weight, of_z, count, channels, height, width,
    kernel: tl.constexpr, rows: tl.constexpr, columns: tl.constexpr,
):  # fmt: skip
    """The gradient of the first level's input."""
    position = tl.program_id(0) * rows + tl.arange(0, rows)
    channel = tl.program_id(1) * columns + tl.arange(0, columns)
    found = convolved(of_u, channels, weight, position, channel, count, channels, height, width, kernel, True, rows, columns)
    inside = (position < count)[:, None] & (channel < channels)[None, :]
    tl.store(of_z + position[:, None] * channels + channel[None, :], found.to(of_z.dtype.element_ty), mask=inside)


@triton.jit
def weight_gradient(
    of_u, z, z_stride, parts, count, channels, height, width, chunk,
    kernel: tl.constexpr, activated: tl.constexpr, rows: tl.constexpr, columns: tl.constexpr,
):  # fmt: skip
    """The gradient of a tap of the weight, over a chunk of positions: parts [chunks, taps, channels]."""
    tap = tl.program_id(0)
    channel = tl.program_id(1) * columns + tl.arange(0, columns)
    number = tl.program_id(2)
    down = tap // kernel - kernel // 2
    right = tap % kernel - kernel // 2
    total = tl.zeros((rows, columns), dtype=tl.float32)
    for start in range(0, chunk, rows):
        position = number * chunk + start + tl.arange(0, rows)
        x = position % width
        y = (position // width) % height
        there = (position < count) & (y + down >= 0) & (y + down < height) & (x + right >= 0) & (x + right < width)
        mask = there[:, None] & (channel < channels)[None, :]
        place = (position + down * width + right)[:, None] * z_stride + channel[None, :]
        value = tl.load(z + place, mask=mask, other=0.0).to(tl.float32)
        if activated:  # what is kept is the convolution's output of the level below
            value = gelu(value).to(z.dtype.element_ty).to(tl.float32)
        total += value * tl.load(of_u + position[:, None] * channels + channel[None, :], mask=mask, other=0.0).to(tl.float32)
    taps = kernel * kernel
    tl.store(parts + (number * taps + tap) * channels + channel, tl.sum(total, 0), mask=channel < channels)
