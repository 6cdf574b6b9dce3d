"""MeanConcat against its formula in plain torch."""

import torch
from torch.nn import functional as F

from necklace.necks import MeanConcat


def test_equals_its_formula() -> None:
    torch.manual_seed(0)
    neck = MeanConcat(6, out_channels=5)
    x = torch.randn(3, 6, 4, 7)
    weight = neck.cv.conv.weight[:, :, 0, 0]
    for training in (True, False):
        neck.train(training)
        y = torch.einsum("oc,bchw->bohw", weight[:, :6], x) + (x.mean((2, 3)) @ weight[:, 6:].T)[:, :, None, None]
        if training:
            y = (y - y.mean((0, 2, 3), keepdim=True)) / (y.var((0, 2, 3), unbiased=False, keepdim=True) + 1e-5).sqrt()
        else:
            mean, variance = neck.cv.bn.running_mean, neck.cv.bn.running_var
            assert mean is not None
            assert variance is not None
            y = (y - mean[:, None, None]) / (variance[:, None, None] + 1e-5).sqrt()
        torch.testing.assert_close(neck(x), F.silu(y), rtol=1e-4, atol=1e-5)
