"""The self-attention block against torch's encoder layer, and at its options."""

import pytest
import torch
from torch import nn

from necklace.necks import SelfAttention


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (6, 5)])
def test_equals_torchs_encoder_layer(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 4, 32, dropout=0.0, activation="gelu", batch_first=True, norm_first=True)
    for parameter in layer.parameters():
        parameter.data.uniform_(-1, 1)
    state = layer.state_dict()
    names = {"in_proj_": "qkv.", "out_proj.": "proj.", "linear1.": "mlp.fc1.", "linear2.": "mlp.fc2."}
    renamed = {}
    for name, value in state.items():
        name = name.removeprefix("self_attn.")
        for theirs, own in names.items():
            name = name.replace(theirs, own)
        renamed[name] = value[..., None, None] if value.ndim == 2 else value
    ours = SelfAttention(8)
    ours.load_state_dict(renamed)
    x = torch.randn(3, 8, *size)
    want = layer(x.flatten(2).mT).mT.reshape_as(x)
    torch.testing.assert_close(ours(x), want, rtol=1e-4, atol=1e-4)


def test_positions_are_not_told_apart() -> None:
    """Without positional encoding, positions in another order give the same outputs in that order."""
    torch.manual_seed(0)
    neck, x, order = SelfAttention(8), torch.randn(2, 8, 3, 4), torch.randperm(12)
    shuffled = x.flatten(2)[:, :, order].reshape_as(x)
    torch.testing.assert_close(neck(shuffled), neck(x).flatten(2)[:, :, order].reshape_as(x), rtol=1e-4, atol=1e-5)


def test_each_position_sees_all_others() -> None:
    torch.manual_seed(0)
    neck, x = SelfAttention(8), torch.randn(1, 8, 4, 4)
    changed = x.clone()
    changed[:, :, 3, 3] = torch.randn(8)
    assert (neck(x) != neck(changed)).any(1).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [({"heads": 0}, "heads=0"), ({"mlp_ratio": 0}, "mlp_ratio=0"), ({"out_channels": 4}, "out_channels=4")],
)
def test_errors(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SelfAttention(**{"channels": 8, **options})
