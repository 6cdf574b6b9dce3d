"""The global context block against timm's, and at its options."""

import pytest
import torch
from timm.layers.global_context import GlobalContext as TimmContext

from necklace.necks import GlobalContext


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (6, 5)])
def test_equals_timm(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    timm = TimmContext(8, fuse_add=True, fuse_scale=False, rd_ratio=1 / 4)
    for parameter in timm.parameters():
        parameter.data.uniform_(-1, 1)
    ours = GlobalContext(8)
    ours.load_state_dict(timm.state_dict())
    x = torch.randn(3, 8, *size, requires_grad=True)
    y, want = ours(x), timm(x)
    torch.testing.assert_close(y, want, rtol=1e-5, atol=1e-5)
    weights = torch.randn_like(y)
    pairs = zip(*(torch.autograd.grad(out, (x, *m.parameters()), weights) for out, m in ((y, ours), (want, timm))), strict=True)
    for one, two in pairs:
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-4)


def test_every_position_gets_the_same_context() -> None:
    x = torch.randn(2, 8, 4, 5)
    added = GlobalContext(8)(x) - x
    torch.testing.assert_close(added, added[:, :, :1, :1].expand_as(added), rtol=1e-4, atol=1e-5)
    assert (added[0] != added[1]).any()


def test_at_least_two_hidden_channels() -> None:
    assert GlobalContext(64).mlp_add["fc1"].out_channels == 16
    assert GlobalContext(3, reduction=16).mlp_add["fc1"].out_channels == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [({"reduction": 0}, "reduction=0"), ({"out_channels": 4}, "out_channels=4")],
)
def test_errors(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GlobalContext(8, **options)
