"""Layers of processes that train together, which compute what one process would with all images of a step.

Most layers look at one image at a time. Two kinds do not: BatchNorm takes its mean and variance over the batch, and dropout
draws for it. Here a BatchNorm takes them over the images of all ranks (on a GPU torch's SyncBatchNorm does; it refuses a CPU),
and dropout draws for all images and uses its rank's share, so that N processes train as one does, but for rounding.

The gradient of BatchNorm is that of Ioffe and Szegedy 2015 (arXiv 1502.03167), with its two sums over all ranks.
"""

from functools import cache
from typing import Any

import torch
from pytorch_lightning.plugins.layer_sync import TorchSyncBatchNorm
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn.modules.batchnorm import _BatchNorm

from necklace.data.augment import WHOLE


@cache
def drops() -> tuple[type[nn.Module], ...]:
    """The layers that multiply their input by a draw."""
    from timm.layers.drop import DropPath  # here: few runs are trained by several processes, and timm takes its time
    from torchvision.ops import StochasticDepth

    return nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, DropPath, StochasticDepth


class SharedDropout(nn.Module):
    """A layer of `drops` that draws for all images of a step.

    Args:
        layer: The layer.

    Attributes:
        share: Which images of the step the next batch has.
    """

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer
        self.share = WHOLE

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map [B, ...] to [B, ...]."""
        if not self.training or self.share.world_size == 1:
            return self.layer(x)
        drawn = self.layer(_ones_of_all(x.detach(), int(self.share.total or len(x))))
        return x * self.share.of(drawn, 0)


def _ones_of_all(x: torch.Tensor, total: int) -> torch.Tensor:
    """Ones for so many images, laid out in memory as x [B, ...] is: draws are made in the order of memory."""
    order = sorted(range(x.ndim), key=lambda axis: -x.stride(axis))
    sizes = [total if axis == 0 else x.shape[axis] for axis in order]
    back = [order.index(axis) for axis in range(x.ndim)]
    return torch.ones(sizes, dtype=x.dtype, device=x.device).permute(back)


def share_dropout(model: nn.Module) -> list[SharedDropout]:
    """Put a SharedDropout in the place of each layer of `drops`, in place.

    Args:
        model: The model.

    Returns:
        All of the model's, which have to be told their `share` before each step.
    """
    for module in list(model.modules()):
        if not isinstance(module, SharedDropout):
            for name, child in list(module.named_children()):
                if isinstance(child, drops()):
                    setattr(module, name, SharedDropout(child))
    return [module for module in model.modules() if isinstance(module, SharedDropout)]


class SharedBatchNorm(_BatchNorm):
    """A BatchNorm over the images of all ranks, on any device; in evaluation, and for one process, it is torch's.

    Args:
        layer: The layer in whose place it stands, with whose parameters and statistics it goes on.
    """

    def __init__(self, layer: _BatchNorm) -> None:
        super().__init__(layer.num_features, layer.eps, layer.momentum, layer.affine, layer.track_running_stats)
        self.weight, self.bias = layer.weight, layer.bias
        for name, buffer in layer.named_buffers(recurse=False):
            setattr(self, name, buffer)
        self.train(layer.training)

    def _check_input_dim(self, input: torch.Tensor) -> None:
        """Nothing: the layer that it replaces was given the same."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Map [B, C, ...] to [B, C, ...].

        Raises:
            ValueError: All ranks together have one value for each channel.
        """
        alone = not torch.distributed.is_initialized() or torch.distributed.get_world_size() == 1
        if alone or not self.training:
            return super().forward(input)
        count, mean, variance = _moments(input)
        if count < 2:
            raise ValueError(
                f"BatchNorm: one value per channel over all ranks, of input {tuple(input.shape)}; at least 2 are needed"
            )
        if self.track_running_stats:
            self._update(count, mean, variance)
        return _Normalised.apply(input, self.weight, self.bias, mean, (variance + self.eps).rsqrt(), count)

    @torch.no_grad()
    def _update(self, count: float, mean: torch.Tensor, variance: torch.Tensor) -> None:
        assert self.num_batches_tracked is not None
        assert self.running_mean is not None
        assert self.running_var is not None
        self.num_batches_tracked.add_(1)
        momentum = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, momentum)
        self.running_var.lerp_(variance * (count / (count - 1)), momentum)


@torch.no_grad()
def _moments(x: torch.Tensor) -> tuple[float, torch.Tensor, torch.Tensor]:
    """The values per channel of x [B, C, ...] over all ranks; their mean and their variance [C]."""
    wide, axes = _precise(x), _axes(x)
    sums = torch.cat([wide.sum(axes), wide.new_tensor([x.numel() / x.shape[1]])])
    torch.distributed.all_reduce(sums)
    count = float(sums[-1])
    mean = sums[:-1] / count
    # From the mean of all, in a second pass: the mean of squares less the square of the mean would lose digits.
    squares = (wide - _wide(mean, x)).square().sum(axes)
    torch.distributed.all_reduce(squares)
    return count, mean, squares / count


class _Normalised(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> torch.Tensor:
        x, weight, bias, mean, scale, ctx.count = arguments
        ctx.save_for_backward(x, weight, mean, scale)
        factor = scale if weight is None else scale * weight
        shift = -mean * factor if bias is None else bias - mean * factor
        return torch.addcmul(_wide(shift, x), _precise(x), _wide(factor, x)).to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, weight, mean, scale = ctx.saved_tensors
        upstream, axes = _precise(gradients[0]), _axes(x)
        unit = (_precise(x) - _wide(mean, x)) * _wide(scale, x)
        ours = torch.stack([(upstream * unit).sum(axes), upstream.sum(axes)])  # DDP adds up those of the ranks itself
        sums = ours.clone()
        torch.distributed.all_reduce(sums)
        factor = scale if weight is None else scale * weight
        of_input = (upstream - _wide(sums[1] / ctx.count, x) - unit * _wide(sums[0] / ctx.count, x)) * _wide(factor, x)
        of_weight, of_bias = (own if asked else None for own, asked in zip(ours, ctx.needs_input_grad[1:3], strict=True))
        return of_input.to(x.dtype), of_weight, of_bias, None, None, None


def _precise(x: torch.Tensor) -> torch.Tensor:
    """Half precision as float32."""
    return x if x.dtype == torch.float64 else x.float()


def _axes(x: torch.Tensor) -> list[int]:
    return [axis for axis in range(x.ndim) if axis != 1]


def _wide(values: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Values of channels [C], to be broadcast over x [B, C, ...]."""
    return values.view(-1, *[1] * (x.ndim - 2))


class SharedLayers(TorchSyncBatchNorm):
    """`trainer.sync_batchnorm=true`: Lightning's plugin, which on a CPU puts a SharedBatchNorm in each BatchNorm's place."""

    def apply(self, model: nn.Module) -> nn.Module:
        """Exchange the layers for the training."""
        return share_batch_norms(model) if _on_cpu(model) else super().apply(model)

    def revert(self, model: nn.Module) -> nn.Module:
        """Exchange torch's back; ours is torch's own layer outside training."""
        return model if _on_cpu(model) else super().revert(model)


def share_batch_norms(model: nn.Module) -> nn.Module:
    """Put a SharedBatchNorm in the place of each BatchNorm of a model, in place."""
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, _BatchNorm) and not isinstance(child, SharedBatchNorm):
                setattr(module, name, SharedBatchNorm(child))
    return model


def _on_cpu(model: nn.Module) -> bool:
    return next(model.parameters()).device.type == "cpu"
