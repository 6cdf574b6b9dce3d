"""Depth-wise convolution with a fast weight gradient on the CPU, for the contexts of focal modulation.

oneDNN has a fast kernel for the weight gradient of a depth-wise convolution up to a kernel width of 3 only; a wider one takes
several times as long as all else in the layer. So the gradient of a k x k kernel is put together here from slices of k x 3. A
slice is the gradient of a k x 3 kernel on the map shifted by some columns. The shifted maps are views of one buffer, in which
k // 2 columns of zeros follow each row: a view that starts some columns later runs into those zeros and then into the next row,
whose values meet zeros in the output's gradient. So nothing is copied for a slice.

The sum over positions has another order than in torch's own gradient; the two differ by rounding, in fp32 by some 1e-6 of the
largest entry. In half precision the slices are summed in fp32: for those types oneDNN's kernels of wide weights are slower, and
coarser.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

# The widest kernel that oneDNN's fast weight gradient takes.
WIDTH = 3
# Values in a map from which on the slices gain more than their calls cost.
LEAST = 2**14
# Up to this kernel, a convolution of the gradient with the turned weights is faster than oneDNN's gradient of the input.
TURNED = 9


class DepthwiseConv(nn.Conv2d):
    """nn.Conv2d with one k x k filter for each channel, zero padding of k // 2 and no bias; its map keeps its size."""

    def __init__(self, channels: int, kernel: int) -> None:
        """Build the layer.

        Args:
            channels: Channels of the input and the output.
            kernel: Kernel size k, odd.
        """
        super().__init__(channels, channels, kernel, padding=kernel // 2, groups=channels, bias=False)

    def forward(self, input: Tensor) -> Tensor:
        """Filter each channel of [B, C, h, w]."""
        learns = self.weight.requires_grad and torch.is_grad_enabled()
        if learns and self.kernel_size[0] > WIDTH and eager(input, self.weight) and input.numel() >= LEAST:
            return _Convolution.apply(input, self.weight)
        return super().forward(input)


def eager(z: Tensor, *weights: Tensor) -> bool:
    """Whether a map and weights are computed with on the CPU, right now, by nothing that has to see torch's own operators.

    Not so where code is transformed, under forward-mode differentiation, for subclasses of Tensor, and where types do not fit,
    which torch's own operators then say.
    """
    if transformed() or forward_ad._current_level >= 0:
        return False
    # Under autocast a map has its type already, and the weights are cast to it.
    autocast = torch.is_autocast_enabled("cpu")
    if autocast and z.dtype != torch.get_autocast_dtype("cpu"):
        return False
    plain = (Tensor, nn.Parameter)
    return (
        type(z) in plain
        and z.device.type == "cpu"
        and z.is_floating_point()
        and all(type(weight) in plain and weight.device == z.device for weight in weights)
        and (autocast or all(weight.dtype == z.dtype for weight in weights))
    )


def transformed() -> bool:
    """Whether this is torch.compile, torch.export, tracing for TorchScript or ONNX, or torch.func."""
    tracing = torch._C._get_tracing_state() is not None
    return tracing or torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active()


def convolve(z: Tensor, weight: Tensor) -> Tensor:
    """Depth-wise convolution of a map [B, C, h, w] with a weight [C, 1, k, k] of its type, as torch has it."""
    return torch.conv2d(z, weight, None, 1, weight.shape[-1] // 2, 1, weight.shape[0])


def padded(z: Tensor, kernel: int) -> tuple[Tensor, Tensor]:
    """A buffer for `sliced_weight_gradient`, and the part of it that the map has to be written to; all else is zero.

    Args:
        z: A map of the wanted shape [B, C, h, w]. If its type is a half precision, the buffer is fp32.
        kernel: Kernel size k, odd.

    Returns:
        The buffer, flat, and its view [B, C, h, w]: channels_last with gaps.
    """
    batch, channels, height, width = z.shape
    extra = _extra_rows(kernel, height)
    rows, row = height + 2 * extra, (width + kernel // 2) * channels
    buffer = z.new_zeros(batch * rows * row + kernel * channels, dtype=summed_in(z.dtype))
    start = extra * row + kernel // 2 * channels
    return buffer, buffer.as_strided((batch, channels, height, width), (rows * row, 1, row, channels), start)


def sliced_weight_gradient(buffer: Tensor, grad: Tensor, kernel: int) -> Tensor:
    """The gradient [C, 1, k, k] of the weight.

    Args:
        buffer: The buffer of `padded`, with the convolution's input written into its view.
        grad: Gradient of the convolution's output [B, C, h, w], of any layout.
        kernel: Kernel size k, odd and above 3.
    """
    batch, channels, height, width = grad.shape
    extra = _extra_rows(kernel, height)
    rows, columns = height + 2 * extra, width + kernel // 2
    if columns - 2 == width:
        wide = grad.to(buffer.dtype, memory_format=torch.channels_last)
    else:  # as wide as what a k x 3 kernel makes of the buffer's rows
        wide = buffer.new_empty((batch, height, columns - 2, channels)).permute(0, 3, 1, 2)
        wide[..., :width] = grad
        wide[..., width:] = 0
    found = buffer.new_empty((channels, 1, kernel, kernel))
    weight = buffer.new_empty((channels, 1, kernel, WIDTH))
    strides = (rows * columns * channels, 1, columns * channels, channels)
    for column in (*range(0, kernel - WIDTH, WIDTH), kernel - WIDTH):
        shifted = buffer.as_strided((batch, channels, rows, columns), strides, column * channels)
        padding = (kernel // 2 - extra, 0)
        found[..., column : column + WIDTH] = _gradients(wide, shifted, weight, padding, [False, True, False])[1]
    return found


def weight_gradient(grad: Tensor, z: Tensor, weight: Tensor) -> Tensor:
    """The gradient [C, 1, k, k] of the weight, for an output's gradient and an input [B, C, h, w]."""
    kernel = weight.shape[-1]
    if kernel <= WIDTH:
        return _gradients(grad, z, weight, (kernel // 2, kernel // 2), [False, True, False])[1]
    buffer, inside = padded(z, kernel)
    inside.copy_(z)
    return sliced_weight_gradient(buffer, grad, kernel)


def input_gradient(grad: Tensor, z: Tensor, weight: Tensor) -> Tensor:
    """The gradient [B, C, h, w] of the input, for an output's gradient and an input [B, C, h, w]."""
    half = weight.shape[-1] // 2
    if weight.shape[-1] <= TURNED:
        return convolve(grad, weight.flip(2, 3))
    return _gradients(grad, z, weight, (half, half), [True, False, False])[0]


def summed_in(dtype: torch.dtype) -> torch.dtype:
    """The type in which the slices of a map of that type are summed."""
    return torch.float32 if dtype in (torch.bfloat16, torch.float16) else dtype


def _gradients(
    grad: Tensor, z: Tensor, weight: Tensor, padding: tuple[int, int], wanted: list[bool]
) -> tuple[Tensor, Tensor, Tensor]:
    return torch.ops.aten.convolution_backward(
        grad, z, weight, None, [1, 1], list(padding), [1, 1], False, [0, 0], weight.shape[0], wanted
    )


def _extra_rows(kernel: int, height: int) -> int:
    # oneDNN's fast kernel wants a map that is at least as high as the weight; up to that, the buffer has rows of zeros.
    return max(0, (kernel - height + 1) // 2)


class _Convolution(torch.autograd.Function):
    """`convolve`, with the weight's gradient from slices."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(z, weight)
        with torch.autocast("cpu", enabled=False):
            return convolve(z, weight.to(z.dtype))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None]:
        z, weight = ctx.saved_tensors
        if torch.is_grad_enabled():  # for a second derivative, through torch's own operators
            found = iter(gradients_of(convolve(z, weight.to(z.dtype)), (z, weight), ctx.needs_input_grad, grads[0]))
            return next(found), next(found)
        with torch.autocast("cpu", enabled=False):
            needs_z, needs_weight = ctx.needs_input_grad
            cast = weight.to(z.dtype)
            return (
                input_gradient(grads[0], z, cast) if needs_z else None,
                weight_gradient(grads[0], z, cast).to(weight.dtype) if needs_weight else None,
            )


def gradients_of(
    outputs: Tensor | Sequence[Tensor],
    inputs: tuple[Tensor, ...],
    needed: tuple[bool, ...],
    grads: Tensor | Sequence[Tensor],
) -> list[Tensor | None]:
    """The gradients of the needed inputs, which can be differentiated again; None for the others."""
    wanted = [tensor for tensor, need in zip(inputs, needed, strict=True) if need]
    found = iter(torch.autograd.grad(outputs, wanted, grads, create_graph=True))
    return [next(found) if need else None for need in needed]
