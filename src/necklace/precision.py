"""The arithmetic of a model outside of training: what `trainer.precision` says, as Lightning does it in training."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

MIXED = {"16": torch.float16, "16-mixed": torch.float16, "bf16": torch.bfloat16, "bf16-mixed": torch.bfloat16}


def autocast(precision: Any, device: torch.device) -> AbstractContextManager[object]:
    """Computes in the type that a precision mixes with float32, or changes nothing.

    Args:
        precision: `trainer.precision` of a config.
        device: Where the model is. On a CPU, Lightning mixes bfloat16 where float16 is asked for.
    """
    mixed = MIXED.get(str(precision))
    if mixed is None:
        return nullcontext()
    return torch.autocast(device.type, torch.bfloat16 if device.type == "cpu" else mixed)
