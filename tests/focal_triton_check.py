"""Focal modulation's Triton kernels in Triton's interpreter against the plain form in double precision, as numbers in JSON.

A process of its own, started with TRITON_INTERPRET=1: Triton looks at that when it is imported.
"""

import json

import torch
from torch import Tensor
from torch.nn import functional as F

from necklace.necks import focal_triton

# Name to batch, channels, height, width, kernels, whether the mean is a context, type, and the layout of the map.
CASES = {
    "a part of a larger map": (2, 5, 4, 3, (3, 5), True, torch.float32, "part"),
    "several tiles": (2, 70, 5, 7, (3, 5), True, torch.float32, "part"),
    "contiguous, no mean": (1, 3, 6, 6, (5,), False, torch.float32, "contiguous"),
    "one position": (3, 4, 1, 1, (3,), True, torch.float32, "contiguous"),
    "one channel, one row": (2, 1, 1, 9, (3,), True, torch.float32, "part"),
    "a window beyond the map": (1, 4, 2, 3, (7, 9), True, torch.float32, "part"),
    "bfloat16": (2, 8, 4, 4, (3, 5), True, torch.bfloat16, "part"),
}


def plain(z: Tensor, gates: Tensor, weights: list[Tensor], global_context: bool) -> Tensor:
    total = torch.zeros_like(z)
    for level, weight in enumerate(weights):
        z = F.gelu(F.conv2d(z, weight, padding=weight.shape[-1] // 2, groups=len(weight)))
        total = total + z * gates[:, level : level + 1]
    return total + F.gelu(z.mean((2, 3), keepdim=True)) * gates[:, len(weights) :] if global_context else total


def errors(name: str) -> list[float]:
    """The largest error of the output and of each gradient, over its largest entry."""
    batch, channels, height, width, kernels, mean, dtype, layout = CASES[name]
    torch.manual_seed(0)
    gates_count = len(kernels) + mean
    whole = torch.randn(batch, 2 * channels + gates_count, height, width).to(dtype)
    if layout == "part":
        whole = whole.contiguous(memory_format=torch.channels_last)
    weights = [torch.randn(channels, 1, k, k) / k for k in kernels]
    upstream = torch.randn(batch, channels, height, width)
    results = []
    for levels, precision in ((plain, torch.float64), (focal_triton.levels, dtype)):
        x = whole.to(precision).requires_grad_()
        own = [weight.to(torch.float64 if precision == torch.float64 else torch.float32).requires_grad_() for weight in weights]
        _, z, gates = x.split([channels, channels, gates_count], dim=1)
        if layout == "contiguous":
            z, gates = z.contiguous(), gates.contiguous()
        y = levels(z, gates, own, mean)
        results.append([y, *torch.autograd.grad(y, [x, *own], upstream.to(precision))])
    pairs = zip(*results, strict=True)
    return [float(((got.double() - due).abs().max() / due.abs().max()).detach()) for due, got in pairs]


def only_some() -> list[bool]:
    """Which gradients come where just one of the weights needs one."""
    z, gates = torch.randn(1, 2, 3, 3), torch.randn(1, 2, 3, 3)
    weights = [torch.randn(2, 1, 3, 3), torch.randn(2, 1, 3, 3, requires_grad=True)]
    focal_triton.levels(z, gates, weights, False).sum().backward()
    return [tensor.grad is not None for tensor in (z, gates, *weights)]


if __name__ == "__main__":
    print(json.dumps({"errors": {name: errors(name) for name in CASES}, "some": only_some()}))
