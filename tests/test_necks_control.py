"""The controls: nothing, and parameters without context."""

import pytest
import torch
from torch.nn import functional as F

from necklace.necks import ConvNeck, NoNeck


def test_no_neck_is_the_identity() -> None:
    x = torch.randn(2, 3, 4, 5)
    neck = NoNeck(3)
    assert neck(x) is x
    assert neck.out_channels == 3
    assert not list(neck.parameters())


def test_conv_equals_its_formula() -> None:
    torch.manual_seed(0)
    neck = ConvNeck(5, width=7, out_channels=4).double()
    for cv in (neck.cv1, neck.cv2):
        cv.bn.weight.data.uniform_(0.5, 1.5)
        cv.bn.bias.data.normal_()
    x = torch.randn(3, 5, 4, 6, dtype=torch.float64)
    want = x
    for cv in (neck.cv1, neck.cv2):  # in training mode, so BatchNorm takes the batch's own statistics
        want = torch.einsum("oi,bihw->bohw", cv.conv.weight[:, :, 0, 0], want)
        want = (want - want.mean((0, 2, 3), keepdim=True)) / (want.var((0, 2, 3), unbiased=False, keepdim=True) + 1e-5).sqrt()
        want = F.silu(want * cv.bn.weight[:, None, None] + cv.bn.bias[:, None, None])
    torch.testing.assert_close(neck(x), want)


def test_conv_sees_one_position_only() -> None:
    torch.manual_seed(0)
    neck = ConvNeck(4).eval()
    x = torch.randn(1, 4, 5, 5)
    changed = x.clone()
    changed[:, :, 2, 3] += 1
    moved = (neck(x) != neck(changed)).any(dim=1)[0]
    assert moved.nonzero().tolist() == [[2, 3]]


@pytest.mark.parametrize(("channels", "width"), [(8, None), (8, 3), (512, 200)])
def test_parameters_follow_the_documented_formula(channels: int, width: int | None) -> None:
    w = width or channels
    assert sum(p.numel() for p in ConvNeck(channels, width).parameters()) == w * (2 * channels + 2) + 2 * channels


@pytest.mark.parametrize(
    ("neck", "options", "words"),
    [
        (NoNeck, {"channels": 0}, ["channels=0", ">= 1"]),
        (NoNeck, {"channels": "8"}, ["channels='8'", "integers"]),
        (ConvNeck, {"channels": 0}, ["channels=0", ">= 1"]),
        (ConvNeck, {"channels": 8, "width": 0}, ["width=0", ">= 1"]),
        (ConvNeck, {"channels": 8, "width": True}, ["width=True", "integers"]),
        (ConvNeck, {"channels": 8, "width": 8.0}, ["width=8.0", "integers"]),
        (ConvNeck, {"channels": 8, "out_channels": -1}, ["out_channels=-1", ">= 1"]),
    ],
)
def test_errors(neck: type, options: dict, words: list[str]) -> None:
    with pytest.raises(ValueError) as error:  # noqa: PT011 (the words are looked for below)
        neck(**options)
    assert all(word in str(error.value) for word in words), str(error.value)
