"""FocalModulation: each position's query is modulated by contexts gathered level by level and weighted by gates.

Paper: Yang et al., Focal Modulation Networks, NeurIPS 2022, https://arxiv.org/abs/2203.11926
Reference: microsoft/FocalNet, classification/focalnet.py; timm, models/focalnet.py (NCHW; LayerNorm `norm`, eps 1e-6).
Licence: the reference is MIT (Copyright (c) 2022 Microsoft), timm's is Apache-2.0. Written anew from the formula:

    q, z_0, gates = f(x);  z_l = GELU(dwconv_l(z_{l-1})), l = 1..L;  z_{L+1} = GELU(mean over the map of z_L)
    y = dropout(proj(q * h(sum_l gates_l * z_l)))

Deviations from the reference, none of which changes a number at its default:
* [B, C, h, w] throughout, so `f` and `proj` are 1x1 convolutions; a load hook takes the official 2-D weights and
  timm's `norm`.
* Nothing is stored during forward (the reference keeps `self.gates` and `self.modulator` alive, graph and all);
  `parts` hands them out instead.
* Even kernels, which fail there with a shape mismatch at the first batch, are an error when the module is built.
* `ln_eps`, `kernels`, `gating`, `global_context`, `aggregate`, `interaction`, `context` are ours: they repeat the
  paper's ablations, for which the reference has no code. How each is read stands at the option.
* Weights start as torch initialises them, as the reference's bare module does. Its whole network then redraws `f` and
  `proj` from a normal distribution with deviation 0.02 and sets their biases to zero.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from necklace.necks import options


class FocalParts(NamedTuple):
    """What FocalModulation computes on its way, in the order of `context_names` where there is one for each context.

    Attributes:
        query: [B, C, h, w]; None with interaction="dw_convnet", whose q is a layer after the modulator.
        contexts: The aggregated contexts: [B, C, h, w] for a level, [B, C, 1, 1] for the global one, which comes last.
        gates: [B, len(contexts), h, w], raw linear outputs (unbounded, signed); None without gating.
        modulator: [B, C, h, w].
    """

    query: Tensor | None
    contexts: list[Tensor]
    gates: Tensor | None
    modulator: Tensor


class ChannelLayerNorm(nn.LayerNorm):
    """LayerNorm over the channels of each position of [B, C, h, w]."""

    def forward(self, input: Tensor) -> Tensor:
        """Normalise [B, C, h, w] over C."""
        return super().forward(input.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


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
    # A YAML names every option, so one that stands at its default cannot be told from one that nobody set.
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
    """Turn official and timm's weights into ours; `state_dict` is load_state_dict's own copy, never the caller's."""
    for name in (f"{prefix}f.weight", f"{prefix}proj.weight"):
        if name in state_dict and state_dict[name].ndim == 2:
            state_dict[name] = state_dict[name][:, :, None, None]
    # Without an `ln` of ours a stray `norm` keeps its name, so that the error names what the file really holds.
    if isinstance(module.get_submodule("ln"), ChannelLayerNorm):
        for name in ("weight", "bias"):
            if f"{prefix}norm.{name}" in state_dict and f"{prefix}ln.{name}" not in state_dict:
                state_dict[f"{prefix}ln.{name}"] = state_dict.pop(f"{prefix}norm.{name}")


class FocalModulation(nn.Module):
    """Focal modulation with the options of the reference and of the paper's ablations.

    Attributes:
        out_channels: Width of the output, equal to the input's.
        kernels: Kernel size of each local level; with context="none" one None for each.
        context_names: Name of each aggregated context, in the order of the gates, such as ("level1 k3", "level2 k5",
            "global").
    """

    def __init__(
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
        aggregate: Literal["all", "top"] = "all",
        interaction: Literal["multiply", "add", "dw_convnet"] = "multiply",
        context: Literal["conv", "avg_pool", "none"] = "conv",
        out_channels: int | None = None,
    ) -> None:
        """Build the neck; every value that is not allowed, and every contradiction, is a ValueError.

        Args:
            channels: Width of the input and the output.
            focal_window: Kernel size of the first level.
            focal_level: Number L of local levels. 0 leaves the global context alone (the paper's global pool only).
            focal_factor: What the kernel size grows by from level to level. The reference sets no default for window
                and level in this module; FocalNet-T uses window 3 with 2 levels (SRF) or 3 (LRF).
            kernels: Kernel size of each level, in place of the three options before, which are then to stay at their
                defaults (3, 2, 2) or to agree with the list.
            bias: Whether `f` and `h` (and the `q` of dw_convnet) have a bias; `proj` always has one.
            proj_drop: Dropout after `proj`.
            use_postln_in_modulation: LayerNorm over the channels of what goes into `proj`.
            normalize_modulator: Divide the aggregated context by the number of contexts.
            ln_eps: Epsilon of that LayerNorm. Weights trained with timm want 1e-6; the weights do not tell.
            gating: Weight each context by its gate at each position; without, the contexts are summed as they are.
            global_context: Whether the map's mean is a context. Without it its gate goes too.
            aggregate: "all" contexts, or of the local ones the "top" (last) only. The paper's row says "top
                level only"; our reading: the last local level, since the global context alone has a row of its own,
                and the global one stays beside it as long as `global_context` says so.
            interaction: How query and modulator meet: "multiply" q * m; "add" q + m; "dw_convnet" has no query and
                applies a 1x1 convolution q after the modulator, y = proj(q(GELU(h(z_L)))). The paper gives
                q(GELU(h(z_L))); `proj` stays, since its cost in the paper's table is that of four C x C layers.
            context: What gathers a level's context: depth-wise "conv"; "avg_pool" of the same size, stride 1, mean
                over what lies inside the map; "none": each position by itself, each level the GELU of the one before.
            out_channels: None or `channels`; this neck keeps its width.
        """
        super().__init__()
        self.out_channels = options.same_width(options.integer("channels", channels), out_channels)
        options.choice("aggregate", aggregate, ("all", "top"))
        options.choice("interaction", interaction, ("multiply", "add", "dw_convnet"))
        options.choice("context", context, ("conv", "avg_pool", "none"))
        self.gating = options.flag("gating", gating)
        self.global_context = options.flag("global_context", global_context)
        self.normalize_modulator = options.flag("normalize_modulator", normalize_modulator)
        self.top_only, self.interaction = aggregate == "top", interaction
        sizes = _level_kernels(focal_window, focal_level, focal_factor, kernels)
        if context == "none" and kernels is not None:
            raise ValueError(f"kernels={list(sizes)}: contradicts context='none', which has no kernels; allowed is null")
        if not sizes and not global_context:
            raise ValueError("global_context=False: leaves focal_level=0 without any context; allowed is True")
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
        modulator = self._modulate(self._contexts(z), gates)
        if self.interaction == "dw_convnet":
            y = self.q(self.act(modulator))
        else:
            y = query * modulator if self.interaction == "multiply" else query + modulator
        return self.proj_drop(self.proj(self.ln(y)))

    def parts(self, x: Tensor) -> FocalParts:
        """What forward computes on its way for this input; the module keeps no reference to it.

        Args:
            x: Feature map [B, C, h, w].

        Returns:
            Query, contexts, gates and modulator.
        """
        query, z, gates = self._project(x)
        contexts = list(self._contexts(z))
        modulator = self._modulate(contexts, gates).expand_as(z)
        return FocalParts(query if query.shape[1] else None, contexts, gates if self.gating else None, modulator)

    def extra_repr(self) -> str:
        """The settings that the submodules do not show."""
        return f"contexts={self.context_names}, gating={self.gating}, interaction={self.interaction}"

    def _project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Query [B, C or 0, h, w], level-0 context [B, C, h, w] and gates [B, n or 0, h, w] of x [B, C, h, w]."""
        query, z, gates = torch.split(self.f(x), self.splits, dim=1)
        return query, z, gates

    def _contexts(self, z: Tensor) -> Iterator[Tensor]:
        """The contexts to aggregate; one by one, so that forward need not hold all of them at a time."""
        for number, layer in enumerate(self.focal_layers, 1):
            z = layer(z)
            if not self.top_only or number == len(self.focal_layers):
                yield z
        if self.global_context:
            yield self.act(z.mean(dim=(2, 3), keepdim=True))

    def _modulate(self, contexts: Iterable[Tensor], gates: Tensor) -> Tensor:
        """The modulator [B, C, h, w], or [B, C, 1, 1] where the global context stands alone without a gate."""
        weighted = (c * gates[:, n : n + 1] if self.gating else c for n, c in enumerate(contexts))
        total = next(weighted)
        for context in weighted:
            total = total + context
        return self.h(total / len(self.context_names) if self.normalize_modulator else total)


def _gather(channels: int, kernel: int | None, context: str) -> nn.Module:
    """The operator that gathers a level's context from its neighbours."""
    if kernel is None:
        return nn.Identity()
    if context == "avg_pool":
        return nn.AvgPool2d(kernel, stride=1, padding=kernel // 2, count_include_pad=False)
    return nn.Conv2d(channels, channels, kernel, padding=kernel // 2, groups=channels, bias=False)
