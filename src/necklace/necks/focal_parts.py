"""The intermediate results of focal modulation, apart from the neck, so that readers of gates do not import it."""

from typing import NamedTuple

from torch import Tensor


class FocalParts(NamedTuple):
    """Intermediate results of FocalModulation; contexts and gates are in the order of its `context_names`.

    Attributes:
        query: [B, C, h, w]; None with interaction="dw_convnet", where q is a layer after the modulator.
        contexts: The aggregated contexts: [B, C, h, w] for each level, then [B, C, 1, 1] for the global one.
        gates: [B, len(contexts), h, w], raw linear outputs (unbounded, signed); None without gating.
        modulator: [B, C, h, w].
    """

    query: Tensor | None
    contexts: list[Tensor]
    gates: Tensor | None
    modulator: Tensor
