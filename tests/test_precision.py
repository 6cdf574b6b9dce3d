import pytest
import torch
from torch import nn

from necklace.precision import autocast

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("precision", "expected"),
    [
        *((mixed, torch.bfloat16) for mixed in ("bf16-mixed", "bf16", "16-mixed", "16", 16)),
        *((plain, torch.float32) for plain in (None, "32-true", "32", 32)),
    ],
)
def test_a_model_computes_in_what_the_precision_mixes(precision: object, expected: torch.dtype) -> None:
    with autocast(precision, CPU):
        assert nn.Linear(2, 2)(torch.ones(1, 2)).dtype == expected
    assert nn.Linear(2, 2)(torch.ones(1, 2)).dtype == torch.float32
