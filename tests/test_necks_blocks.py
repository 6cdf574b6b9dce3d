import torch

from necklace.necks.blocks import ChannelLayerNorm
from tests.test_necks_focal import C, maps, redraw


def test_layer_norm_is_over_channels() -> None:
    norm = ChannelLayerNorm(C)
    redraw(norm)
    x = maps(2, C, 3, 4)
    centred = x - x.mean(1, keepdim=True)
    want = centred / (x.var(1, unbiased=False, keepdim=True) + 1e-5).sqrt()
    want = want * norm.weight[:, None, None] + norm.bias[:, None, None]
    torch.testing.assert_close(norm(x), want)
