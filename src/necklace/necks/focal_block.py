"""FocalBlock: FocalModulation in the residual form that FocalNet trains.

Paper: Yang et al., Focal Modulation Networks, NeurIPS 2022, https://arxiv.org/abs/2203.11926
Reference: microsoft/FocalNet, classification/focalnet.py (FocalNetBlock); timm, models/focalnet.py.
Licence: the reference is MIT (Copyright (c) 2022 Microsoft), timm's is Apache-2.0. Written from the definition.

    x = x + gamma_1 * modulation(norm1(x));  x = x + gamma_2 * mlp(norm2(x))

Official defaults: mlp_ratio 4, drop 0, LayerScale off in FocalNet-T/S/B and 1e-4 where it is on, stochastic depth
rising to 0.1 and more over a network's blocks, LayerNorm eps 1e-5.

Deviations:
* LayerScale is on at 1e-4 by default: the block starts close to the identity, so it can follow a trained backbone
  without disturbing its features. `layerscale: null` is FocalNet-T/S/B.
* No stochastic depth: it is meant for a deep stack, and a neck is one block.
* Pre-norm only (`use_postln`, of the large models, is not implemented).
* The dropout of the modulation is `proj_drop`, that of the MLP `drop`; the reference uses one value for both.
* [B, C, h, w] throughout; a load hook takes the official 2-D weights and timm's names (`ls1.gamma`).
"""

from typing import Any

import torch
from torch import Tensor, nn

from necklace.necks import options
from necklace.necks.blocks import MLP, ChannelLayerNorm
from necklace.necks.focal import FocalModulation


def _adapt_weights(module: nn.Module, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
    """Convert official and timm weights in place; `state_dict` is the copy that load_state_dict made, not the caller's."""
    for name in (f"{prefix}mlp.fc1.weight", f"{prefix}mlp.fc2.weight"):
        if name in state_dict and state_dict[name].ndim == 2:
            state_dict[name] = state_dict[name][:, :, None, None]
    for number in (1, 2):
        if f"{prefix}ls{number}.gamma" in state_dict:
            state_dict[f"{prefix}gamma_{number}"] = state_dict.pop(f"{prefix}ls{number}.gamma")


class FocalBlock(nn.Module):
    """Norm, focal modulation, LayerScale, residual; norm, MLP, LayerScale, residual.

    `block.modulation.parts(block.norm1(x))` returns the intermediate results of its modulation for the input x.
    """

    def __init__(
        self,
        channels: int,
        *,
        mlp_ratio: float = 4.0,
        layerscale: float | None = 1e-4,
        drop: float = 0.0,
        ln_eps: float = 1e-5,
        **focal: Any,
    ) -> None:
        """Build the neck.

        Args:
            channels: Channels of the input and the output.
            mlp_ratio: Hidden channels of the MLP, in multiples of `channels`.
            layerscale: Initial scale of the residual branches; None for no LayerScale.
            drop: Dropout rate in the MLP.
            ln_eps: Epsilon of every LayerNorm. Weights trained with timm need 1e-6.
            **focal: Options of FocalModulation.

        Raises:
            ValueError: An option is out of range.
        """
        super().__init__()
        hidden = int(options.integer("channels", channels) * options.number("mlp_ratio", mlp_ratio, above=0.0))
        if hidden < 1:
            raise ValueError(
                f"mlp_ratio={mlp_ratio!r}: leaves the MLP without channels; allowed are numbers >= 1 / channels ({channels})"
            )
        eps = options.number("ln_eps", ln_eps, above=0.0)
        scale = None if layerscale is None else options.number("layerscale", layerscale, above=0.0)
        self.norm1 = ChannelLayerNorm(channels, eps=eps)
        self.modulation = FocalModulation(channels, ln_eps=eps, **focal)
        self.norm2 = ChannelLayerNorm(channels, eps=eps)
        self.mlp = MLP(channels, hidden, options.number("drop", drop, below=1.0))
        self.gamma_1 = None if scale is None else nn.Parameter(torch.full((channels,), scale))
        self.gamma_2 = None if scale is None else nn.Parameter(torch.full((channels,), scale))
        self.out_channels = self.modulation.out_channels
        self.register_load_state_dict_pre_hook(_adapt_weights)

    def forward(self, x: Tensor) -> Tensor:
        """Run the block.

        Args:
            x: Feature map [B, C, h, w].

        Returns:
            Feature map [B, C, h, w].
        """
        x = x + _scaled(self.modulation(self.norm1(x)), self.gamma_1)
        return x + _scaled(self.mlp(self.norm2(x)), self.gamma_2)


def _scaled(x: Tensor, gamma: Tensor | None) -> Tensor:
    """Scale [B, C, h, w] by gamma [C]; no gamma leaves it unchanged."""
    return x if gamma is None else x * gamma[:, None, None]
