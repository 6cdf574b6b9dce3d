"""FocalModulation: the query of each position is modulated by contexts of growing windows, weighted by gates.

Paper: Yang et al., Focal Modulation Networks, NeurIPS 2022, https://arxiv.org/abs/2203.11926
Reference: microsoft/FocalNet, classification/focalnet.py; timm, models/focalnet.py (NCHW; LayerNorm `norm`, eps 1e-6).
Licence: the reference is MIT (Copyright (c) 2022 Microsoft), timm's is Apache-2.0. Written from the formula:

    q, z_0, gates = f(x);  z_l = GELU(dwconv_l(z_{l-1})), l = 1..L;  z_{L+1} = GELU(mean over the map of z_L)
    y = dropout(proj(q * h(sum_l gates_l * z_l)))

Deviations from the reference, none of which changes the output at the default options:
* [B, C, h, w] throughout, so `f` and `proj` are 1x1 convolutions; a load hook accepts the official 2-D weights and
  timm's `norm`.
* Nothing is stored during forward (the reference keeps `self.gates` and `self.modulator` with their graph alive);
  `parts` returns them instead.
* Even kernels, which fail there with a shape mismatch at the first batch, are an error when the module is built.
* The contexts are gathered and summed by a faster way where there is one (see `focal_levels`), which moves outputs and
  gradients by rounding. `parts` always takes the plain one.
* `global_norm` and `global_scale` are ours: a map's mean is a small context beside the others, which training may never find.
* `ln_eps`, `kernels`, `gating`, `global_context`, `aggregate`, `interaction`, `context` are ours: they reproduce the
  paper's ablations, for which the reference has no code. Each option documents how it reads the paper. `recompute` is ours
  too.
* Weights have torch's default initialisation, as in the reference's bare module. The reference's whole network then
  redraws `f` and `proj` from a normal distribution with standard deviation 0.02 and sets their biases to zero.
"""

from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from necklace.necks import options
from necklace.necks.blocks import ChannelLayerNorm
from necklace.necks.depthwise import DepthwiseConv
from necklace.necks.focal_levels import aggregated, contexts, total
from necklace.necks.focal_parts import FocalParts


def _level_kernels(window: int, level: int, factor: int, kernels: Any) -> tuple[int, ...]:
    """The kernel size of each level, from the three official options or from the explicit list."""
    window = options.integer("focal_window", window)
    level = options.integer("focal_level", level, minimum=0)
    factor = options.integer("focal_factor", factor, minimum=0)
    if kernels is None:
        sizes = tuple(window + factor * k for k in range(level))
        if any(k % 2 == 0 for k in sizes):
            name, value = ("focal_window", window) if window % 2 == 0 else ("focal_factor", factor)
            need = "an odd focal_window" if window % 2 == 0 else "an even focal_factor (or focal_level <= 1)"
            raise ValueError(f"{name}={value}: makes even kernels {sizes}, which cannot be centred; allowed is {need}")
        return sizes
    sizes = options.odds("kernels", kernels)
    # A YAML lists every option, so an option at its default may or may not have been set by the user.
    steps = {b - a for a, b in pairwise(sizes)}
    for name, value, default, agrees in (
        ("focal_window", window, 3, window == sizes[0]),
        ("focal_level", level, 2, level == len(sizes)),
        ("focal_factor", factor, 2, steps <= {factor}),
    ):
        if value != default and not agrees:
            raise ValueError(
                f"{name}={value}: contradicts kernels={list(sizes)}; allowed is {default} (the default) or no kernels"
            )
    return sizes


def _adapt_weights(module: nn.Module, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
    """Convert official and timm weights in place; `state_dict` is the copy that load_state_dict made, not the caller's."""
    for name in (f"{prefix}f.weight", f"{prefix}proj.weight"):
        if name in state_dict and state_dict[name].ndim == 2:
            state_dict[name] = state_dict[name][:, :, None, None]
    # Without an `ln` in this module, `norm` keeps its name, so that the error shows the name that is in the file.
    if isinstance(module.get_submodule("ln"), ChannelLayerNorm):
        for name in ("weight", "bias"):
            if f"{prefix}norm.{name}" in state_dict and f"{prefix}ln.{name}" not in state_dict:
                state_dict[f"{prefix}ln.{name}"] = state_dict.pop(f"{prefix}norm.{name}")


class FocalModulation(nn.Module):
    """Focal modulation with the options of the reference and of the paper's ablations.

    Args:
        channels: Channels of the input and the output.
        focal_window: Kernel size of the first level, in positions.
        focal_level: Number L of local levels. 0 keeps only the global context (the paper's row of global pooling).
        focal_factor: Increase of the kernel size from level to level. The reference sets no default for window
            and level in this module; FocalNet-T uses window 3 with 2 levels (SRF) or 3 (LRF).
        kernels: Kernel size of each level, in place of the three options above, which must then have their defaults
            (3, 2, 2) or agree with the list.
        bias: Whether `f` and `h` (and the `q` of dw_convnet) have a bias; `proj` always has one.
        proj_drop: Dropout rate after `proj`.
        use_postln_in_modulation: Apply LayerNorm over the channels to the input of `proj`.
        normalize_modulator: Divide the aggregated context by the number of contexts.
        ln_eps: Epsilon of that LayerNorm. Weights trained with timm need 1e-6; it is not stored with the weights.
        gating: Weight each context by its gate at each position; without gating, the contexts are summed unweighted.
        global_context: Use the map's mean as a context. Without it, its gate is removed as well.
        global_norm: "batch": BatchNorm (2C parameters) of the global context over the images of the batch, before its gate;
            needs two images or more in each training step. "none": as it is.
        global_scale: Factor on the map's mean, before its GELU; > 0. The number of positions makes it a sum.
        aggregate: "all" local contexts, or only the "top" (last) one. The paper's row is called "top level only";
            we read it as the last local level, since the global context alone has a row of its own. The global
            context is aggregated as well if `global_context` is on.
        interaction: How query and modulator are combined: "multiply" q * m; "add" q + m; "dw_convnet" has no query
            and applies a 1x1 convolution q after the modulator, y = proj(q(GELU(h(z_L)))). The paper gives
            q(GELU(h(z_L))); we keep `proj`, since the cost in the paper's table is that of four C x C layers.
        context: The operator of a level: depth-wise "conv"; "avg_pool" of the same size and stride 1, which averages
            over positions inside the map; "none": no neighbours, each level is the GELU of the one before.
        recompute: Compute the contexts again in backward rather than keep them: less memory, more time, and the same numbers.
        out_channels: None or `channels`; this neck keeps the number of channels.

    Raises:
        ValueError: An option is out of range, or options contradict each other.

    Attributes:
        out_channels: Channels of the output, equal to the input's.
        kernels: Kernel size of each local level, in positions; with context="none" a None for each.
        context_names: Name of each aggregated context, in the order of the gates, such as ("level1 k3", "level2 k5",
            "global").
    """

    def __init__(  # noqa: PLR0913, the options of its config
        self,
        channels: int,
        *,
        focal_window: int = 3,
        focal_level: int = 2,
        focal_factor: int = 2,
        kernels: Sequence[int] | None = None,
        bias: bool = True,
        proj_drop: float = 0.0,
        use_postln_in_modulation: bool = False,
        normalize_modulator: bool = False,
        ln_eps: float = 1e-5,
        gating: bool = True,
        global_context: bool = True,
        global_norm: Literal["none", "batch"] = "none",
        global_scale: float = 1.0,
        aggregate: Literal["all", "top"] = "all",
        interaction: Literal["multiply", "add", "dw_convnet"] = "multiply",
        context: Literal["conv", "avg_pool", "none"] = "conv",
        recompute: bool = False,
        out_channels: int | None = None,
    ) -> None:
        super().__init__()
        self.out_channels = options.same_width(options.integer("channels", channels), out_channels)
        options.choice("aggregate", aggregate, ("all", "top"))
        options.choice("interaction", interaction, ("multiply", "add", "dw_convnet"))
        options.choice("context", context, ("conv", "avg_pool", "none"))
        options.choice("global_norm", global_norm, ("none", "batch"))
        self.global_scale = options.number("global_scale", global_scale, above=0.0)
        self.gating = options.flag("gating", gating)
        self.global_context = options.flag("global_context", global_context)
        self.normalize_modulator = options.flag("normalize_modulator", normalize_modulator)
        self.recompute = options.flag("recompute", recompute)
        self.top_only, self.interaction = aggregate == "top", interaction
        sizes = _level_kernels(focal_window, focal_level, focal_factor, kernels)
        if context == "none" and kernels is not None:
            raise ValueError(f"kernels={list(sizes)}: contradicts context='none', which has no kernels; allowed is null")
        if not sizes and not global_context:
            raise ValueError("global_context=False: leaves focal_level=0 without any context; allowed is True")
        if not global_context and (global_norm != "none" or global_scale != 1):
            wrong = f"global_norm={global_norm!r}" if global_norm != "none" else f"global_scale={global_scale!r}"
            raise ValueError(f"{wrong}: contradicts global_context=False; allowed is {'none' if 'norm' in wrong else 1}")
        if not sizes and self.top_only:
            raise ValueError("aggregate='top': contradicts focal_level=0, which has no local level; allowed is 'all'")
        if interaction == "dw_convnet":
            given = {"gating": gating, "global_context": global_context, "aggregate": aggregate, "context": context}
            needed = {"gating": False, "global_context": False, "aggregate": "top", "context": "conv"}
            wrong = [f"{name}={given[name]!r} (allowed is {needed[name]!r})" for name in needed if given[name] != needed[name]]
            if wrong:
                raise ValueError(f"interaction='dw_convnet': contradicts {', '.join(wrong)}")

        self.kernels: tuple[int | None, ...] = (None,) * len(sizes) if context == "none" else sizes
        names = [f"level{n}" if k is None else f"level{n} k{k}" for n, k in enumerate(self.kernels, 1)]
        local = names[-1:] if self.top_only else names
        self.context_names = (*local, *(("global",) if global_context else ()))

        # f's outputs in the official order: query, context, gates.
        self.splits = [
            channels if interaction != "dw_convnet" else 0,
            channels,
            len(self.context_names) if gating else 0,
        ]
        options.flag("bias", bias)
        self.f = nn.Conv2d(channels, sum(self.splits), kernel_size=1, bias=bias)
        self.h = nn.Conv2d(channels, channels, kernel_size=1, bias=bias)
        if interaction == "dw_convnet":
            self.q = nn.Conv2d(channels, channels, kernel_size=1, bias=bias)
        self.act = nn.GELU()
        self.proj = nn.Conv2d(channels, channels, kernel_size=1)
        self.proj_drop = nn.Dropout(options.number("proj_drop", proj_drop, below=1.0))
        self.focal_layers = nn.ModuleList(nn.Sequential(_gather(channels, k, context), nn.GELU()) for k in self.kernels)
        # Draws nothing, so that all other weights start as they do without it.
        self.context_norm = nn.BatchNorm2d(channels) if global_norm == "batch" else None
        eps = options.number("ln_eps", ln_eps, above=0.0)
        post = options.flag("use_postln_in_modulation", use_postln_in_modulation)
        self.ln = ChannelLayerNorm(channels, eps=eps) if post else nn.Identity()
        self.register_load_state_dict_pre_hook(_adapt_weights)

    def forward(self, x: Tensor) -> Tensor:
        """Modulate the map.

        Args:
            x: Feature map [B, C, h, w].

        Returns:
            Feature map [B, C, h, w].
        """
        query, z, gates = self._project(x)
        finish = self._finish if self._finishes() else None
        summed = aggregated(z, gates, self.focal_layers, recompute=self.recompute, finish=finish, **self._chosen())
        modulator = self._modulate(summed)
        if self.interaction == "dw_convnet":
            y = self.q(self.act(modulator))
        else:
            y = query * modulator if self.interaction == "multiply" else query + modulator
        return self.proj_drop(self.proj(self.ln(y)))

    def parts(self, x: Tensor) -> FocalParts:
        """Compute the intermediate results of forward for this input; the module keeps no reference to them.

        Args:
            x: Feature map [B, C, h, w].

        Returns:
            Query, contexts, gates and modulator.
        """
        query, z, gates = self._project(x)
        finish = partial(self._finish, seen=False) if self._finishes() else None
        found = list(contexts(z, self.focal_layers, finish=finish, **self._chosen()))
        modulator = self._modulate(total(found, gates)).expand_as(z)
        return FocalParts(query if query.shape[1] else None, found, gates, modulator)

    def extra_repr(self) -> str:
        """Settings that are not visible in the submodules."""
        return f"contexts={self.context_names}, gating={self.gating}, interaction={self.interaction}"

    def _project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Query [B, C or 0, h, w], level-0 context [B, C, h, w] and gates [B, n, h, w], if there are any, of x [B, C, h, w]."""
        query, z, gates = torch.split(self.f(x), self.splits, dim=1)
        return query, z, gates if self.gating else None

    def _chosen(self) -> dict[str, bool]:
        """Which contexts are aggregated."""
        return {"top_only": self.top_only, "global_context": self.global_context}

    def _finishes(self) -> bool:
        return self.context_norm is not None or self.global_scale != 1

    def _finish(self, mean: Tensor, seen: bool = True) -> Tensor:
        """The global context [B, C, 1, 1] of the mean of the last level [B, C, 1, 1].

        Unless it is `seen`, the running mean and variance of a norm in training are left as they are.
        """
        context, norm = F.gelu(mean if self.global_scale == 1 else mean * self.global_scale), self.context_norm
        if norm is None:
            return context
        # A norm that several processes share, of another class, sees their images too.
        if self.training and type(norm) is nn.BatchNorm2d and len(context) < 2:
            raise ValueError("global_norm='batch': a training step of one image has no variance; allowed are two or more")
        if self.training and not seen:
            return F.batch_norm(context, None, None, norm.weight, norm.bias, training=True, eps=norm.eps)
        return norm(context)

    def _modulate(self, summed: Tensor) -> Tensor:
        """The modulator [B, C, h, w], or [B, C, 1, 1] for the global context alone without gating."""
        return self.h(summed / len(self.context_names) if self.normalize_modulator else summed)


def _gather(channels: int, kernel: int | None, context: str) -> nn.Module:
    """The operator that computes a level's context at each position from its neighbours."""
    if kernel is None:
        return nn.Identity()
    if context == "avg_pool":
        return nn.AvgPool2d(kernel, stride=1, padding=kernel // 2, count_include_pad=False)
    return DepthwiseConv(channels, kernel)
