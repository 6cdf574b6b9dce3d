"""The levels of focal modulation: contexts of growing windows, and their sum weighted by gates.

    z_l = GELU(dwconv_l(z_{l-1})), l = 1..L;  z_{L+1} = GELU(mean over the map of z_L);  total = sum_l gates_l * z_l

`contexts` and `total` are the plain form, for every option and device. `aggregated` gives the same total, for the official form
on the CPU by one autograd function. That keeps the convolutions' outputs alone, or nothing, where the plain form keeps each
context beside them; in backward it computes the contexts anew, and each gradient in one pass. Forward, it adds each product in
place. Its total and gradients differ from the plain form's by rounding.

A global context that is normalised or scaled (`finish`) is added outside of that function, which then gives the mean as well.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from necklace.necks import depthwise
from necklace.necks.depthwise import (
    WIDTH,
    DepthwiseConv,
    convolve,
    eager,
    gradients_of,
    input_gradient,
    padded,
    sliced_weight_gradient,
    summed_in,
    transformed,
    weight_gradient,
)

Finish = Callable[[Tensor], Tensor]
"""Makes the global context [B, C, 1, 1] of the mean [B, C, 1, 1] of the last level."""


def contexts(
    z: Tensor, layers: nn.ModuleList, *, top_only: bool, global_context: bool, finish: Finish | None = None
) -> Iterator[Tensor]:
    """Yield the contexts to aggregate one by one, so that a caller need not hold all of them at once.

    Args:
        z: Level 0 [B, C, h, w].
        layers: The operator of each level.
        top_only: Leave out all levels but the last.
        global_context: Whether the map's mean [B, C, 1, 1] comes last.
        finish: Makes the context of the mean; None for its GELU.
    """
    for number, layer in enumerate(layers, 1):
        z = layer(z)
        if not top_only or number == len(layers):
            yield z
    if global_context:
        mean = z.mean(dim=(2, 3), keepdim=True)
        yield F.gelu(mean) if finish is None else finish(mean)


def total(found: Iterable[Tensor], gates: Tensor | None) -> Tensor:
    """The sum of contexts, weighted by gates [B, n, h, w] if there are any.

    Returns:
        [B, C, h, w], or [B, C, 1, 1] for the global context alone without gates.
    """
    weighted = iter(found if gates is None else (c * gates[:, n : n + 1] for n, c in enumerate(found)))
    result = next(weighted)
    for context in weighted:
        result = result + context
    return result


def aggregated(
    z: Tensor,
    gates: Tensor | None,
    layers: nn.ModuleList,
    *,
    top_only: bool,
    global_context: bool,
    recompute: bool,
    finish: Finish | None = None,
) -> Tensor:
    """`total` of `contexts`, by the fastest way that there is.

    Args:
        z: Level 0 [B, C, h, w].
        gates: [B, n, h, w]; None to sum without weights.
        layers: The operator of each level.
        top_only: Leave out all levels but the last.
        global_context: Whether the map's mean is a context.
        recompute: Keep nothing but z and gates for backward, and compute the rest again there. Not under torch.compile and
            torch.func, which decide for themselves what is kept.
        finish: Makes the global context of the mean; None for its GELU. It is called once, outside of what is computed again.
    """
    if finish is not None and global_context:
        local, mean = _levels_and_mean(z, gates, layers, top_only, recompute)
        context = finish(mean)
        context = context if gates is None else context * gates[:, -1:]
        return context if local is None else local + context
    if gates is not None and not top_only and _official(layers):
        weights = [parameter for layer in layers for parameter in layer.parameters()]
        if eager(z, *weights) and z.numel() >= depthwise.LEAST:
            if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (z, gates, *weights)):
                return _Levels.apply(global_context, recompute, z, gates, *weights)
            return _without_gradient(z, gates, weights, global_context)

    def plain(z: Tensor, gates: Tensor | None) -> Tensor:
        return total(contexts(z, layers, top_only=top_only, global_context=global_context), gates)

    if recompute and torch.is_grad_enabled() and not transformed():
        return checkpoint(plain, z, gates, use_reentrant=False, preserve_rng_state=False)
    return plain(z, gates)


def _levels_and_mean(
    z: Tensor, gates: Tensor | None, layers: nn.ModuleList, top_only: bool, recompute: bool
) -> tuple[Tensor | None, Tensor]:
    """The gated sum of the levels alone [B, C, h, w], None where there are none, and the mean of the last [B, C, 1, 1]."""
    if not len(layers):
        return None, z.mean((2, 3), keepdim=True)
    gates = None if gates is None else gates[:, :-1]
    if gates is not None and not top_only and _official(layers):
        weights = [parameter for layer in layers for parameter in layer.parameters()]
        if eager(z, *weights) and z.numel() >= depthwise.LEAST:
            if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (z, gates, *weights)):
                return _Levels.apply(None, recompute, z, gates, *weights)
            return _levels_without_gradient(z, gates, weights)

    def plain(z: Tensor, gates: Tensor | None) -> tuple[Tensor, Tensor]:
        found = list(contexts(z, layers, top_only=top_only, global_context=False))
        return total(found, gates), found[-1].mean((2, 3), keepdim=True)

    if recompute and torch.is_grad_enabled() and not transformed():
        return checkpoint(plain, z, gates, use_reentrant=False, preserve_rng_state=False)
    return plain(z, gates)


def _official(layers: nn.ModuleList) -> bool:
    """Whether each level is a depth-wise convolution and a GELU that nobody has hooked, wrapped or replaced."""
    if not len(layers) or nn.modules.module._has_any_global_hook():
        return False
    for layer in layers:
        parts = list(layer.children())
        if type(layer) is not nn.Sequential or [type(part) for part in parts] != [DepthwiseConv, nn.GELU]:
            return False
        if parts[1].approximate != "none" or any(_hooked(part) for part in (layer, *parts)):
            return False
    return True


def _hooked(module: nn.Module) -> bool:
    hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    return any(hooks)


def _without_gradient(z: Tensor, gates: Tensor, weights: Sequence[Tensor], global_context: bool) -> Tensor:
    """The total, with each context written over its convolution's output."""
    result, mean = _levels_without_gradient(z, gates, weights)
    with torch.autocast("cpu", enabled=False):
        return _added(result, F.gelu(mean), gates[:, -1:]) if global_context else result


def _levels_without_gradient(z: Tensor, gates: Tensor, weights: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    result = None
    with torch.autocast("cpu", enabled=False):
        for n, weight in enumerate(weights):
            z = torch.ops.aten.gelu_(convolve(z, weight.to(z.dtype)))
            result = _added(result, z, gates[:, n : n + 1])
        return _some(result), z.mean((2, 3), keepdim=True)


def _added(result: Tensor | None, context: Tensor, gate: Tensor) -> Tensor:
    return context * gate if result is None else result.addcmul_(context, gate)


def _some(result: Tensor | None) -> Tensor:
    assert result is not None  # there is at least one level
    return result


def _differentiable(z: Tensor, gates: Tensor, weights: Iterable[Tensor], global_context: bool | None) -> tuple[Tensor, ...]:
    """The outputs of `_Levels` by operators that can be differentiated twice."""
    found = []
    for weight in weights:
        z = F.gelu(convolve(z, weight.to(z.dtype)))
        found.append(z)
    if global_context is None:
        return total(found, gates), z.mean((2, 3), keepdim=True)
    return (total([*found, F.gelu(z.mean((2, 3), keepdim=True))] if global_context else found, gates),)


class _Levels(torch.autograd.Function):
    """The total of all levels, gated; see the module's words. With None for `global_context` also the last level's mean."""

    @staticmethod
    def forward(ctx: Any, global_context: bool | None, recompute: bool, z: Tensor, gates: Tensor, *weights: Tensor) -> Any:
        ctx.global_context = global_context
        inputs, convolved, result = (z, gates, *weights), [], None
        with torch.autocast("cpu", enabled=False):
            for n, weight in enumerate(weights):
                convolved.append(convolve(z, weight.to(z.dtype)))
                z = F.gelu(convolved[-1])
                result = _added(result, z, gates[:, n : n + 1])
            mean = None if global_context is False else z.mean((2, 3), keepdim=True)
            if global_context:
                result = _added(result, F.gelu(_some(mean)), gates[:, -1:])
        ctx.save_for_backward(mean if global_context else None, *inputs, *([] if recompute else convolved))
        return (_some(result), mean) if global_context is None else _some(result)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        mean, z, gates, *saved = ctx.saved_tensors
        levels = len(ctx.needs_input_grad) - 4
        weights, convolved = saved[:levels], saved[levels:]
        needed = ctx.needs_input_grad[2:]
        if torch.is_grad_enabled():  # for a second derivative
            results = _differentiable(z, gates, weights, ctx.global_context)
            return None, None, *gradients_of(results, (z, gates, *weights), needed, grads)
        with torch.autocast("cpu", enabled=False):
            cast = [weight.to(z.dtype) for weight in weights]
            if not convolved:
                convolved = _convolved(z, cast)
            found = _backward(grads, mean, z, gates, cast, convolved, needed)
            pairs = zip(found[2:], weights, strict=True)
            return None, None, *found[:2], *(g if g is None else g.to(w.dtype) for g, w in pairs)


def _convolved(z: Tensor, weights: list[Tensor]) -> list[Tensor]:
    """The outputs of the levels' convolutions, by the very steps of forward."""
    found = [convolve(z, weights[0])]
    for weight in weights[1:]:
        found.append(convolve(F.gelu(found[-1]), weight))
    return found


def _gelu_into(place: Tensor, z: Tensor) -> None:
    if z.is_contiguous():  # torch (2.14) then writes nothing to a place of another layout, without a word
        place.copy_(F.gelu(z))
    else:
        torch.ops.aten.gelu.out(z, out=place)


def _through_gelu(grad: Tensor, z: Tensor) -> Tensor:
    """The gradient of GELU's input, written over that of its output."""
    if z.is_contiguous() or grad.is_contiguous():  # as in _gelu_into
        return torch.ops.aten.gelu_backward(grad, z)
    return torch.ops.aten.gelu_backward.grad_input(grad, z, grad_input=grad)


def _backward(
    grads: tuple[Tensor, ...],
    mean: Tensor | None,
    start: Tensor,
    gates: Tensor,
    weights: list[Tensor],
    convolved: list[Tensor],
    needed: tuple[bool, ...],
) -> list[Tensor | None]:
    """The gradients of z, gates and each weight, from those of the outputs; None for a weight that needs none."""
    grad, *of_mean = grads
    levels = len(weights)
    of_gates = gates.new_empty(gates.shape)
    of_weights: list[Tensor | None] = [None] * levels
    z, of_z = F.gelu(convolved[-1]), of_mean[0] / (grad.shape[2] * grad.shape[3]) if of_mean else None
    if mean is not None:
        # Sums over channels and over positions, as products of matrices: nothing of a map's size is written.
        flat, gate = grad.flatten(2), gates[:, levels:].flatten(2)
        of_gates[:, levels:] = torch.bmm(F.gelu(mean).flatten(2).mT, flat).view_as(gates[:, levels:])
        of_context = torch.bmm(flat, gate.mT)[..., None]
        of_z = torch.ops.aten.gelu_backward(of_context, mean) / (grad.shape[2] * grad.shape[3])
    for n in reversed(range(levels)):
        gate, weight, kernel = gates[:, n : n + 1], weights[n], weights[n].shape[-1]
        # From here on, z is needed no more.
        torch.sum(z.mul_(grad), 1, keepdim=True, out=of_gates[:, n : n + 1])
        if n < levels - 1:
            of_z = _some(of_z).addcmul_(grad, gate)
        else:
            of_z = grad * gate if of_z is None else torch.addcmul(of_z, grad, gate)
        of_convolved = _through_gelu(of_z, convolved[n])
        if kernel > WIDTH and needed[2 + n] and summed_in(start.dtype) == start.dtype:
            # The level's input is computed into the place where the weight's gradient needs it.
            buffer, z = padded(start, kernel)
            z.copy_(start) if n == 0 else _gelu_into(z, convolved[n - 1])
            of_weights[n] = sliced_weight_gradient(buffer, of_convolved, kernel)
        else:
            z = start if n == 0 else F.gelu(convolved[n - 1])
            if needed[2 + n]:
                of_weights[n] = weight_gradient(of_convolved, z, weight)
        if n or needed[0]:
            of_z = input_gradient(of_convolved, z, weight)
    return [of_z if needed[0] else None, of_gates, *of_weights]
