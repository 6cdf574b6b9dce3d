"""FocalBlock against timm, and its error messages; errors of its focal options are in test_necks_focal.py."""

import pytest
import torch
from timm.models.focalnet import FocalNetBlock as TimmBlock

from necklace.necks import FocalBlock
from tests.test_necks_focal import C, maps, redraw


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"mlp_ratio": 0}, ["mlp_ratio=0", "> 0"]),
        ({"mlp_ratio": 0.01}, ["mlp_ratio=0.01", "channels (8)"]),
        ({"mlp_ratio": float("inf")}, ["mlp_ratio=inf", "> 0"]),
        ({"layerscale": 0.0}, ["layerscale=0.0", "> 0"]),
        ({"layerscale": False}, ["layerscale=False", "numbers"]),
        ({"drop": 1}, ["drop=1", "< 1"]),
    ],
    ids=str,
)
def test_block_errors(options: dict, words: list[str]) -> None:
    with pytest.raises(ValueError) as error:  # noqa: PT011 (the words are looked for below)
        FocalBlock(8, **options)
    assert all(word in str(error.value) for word in words), str(error.value)


@pytest.mark.parametrize("layerscale", [None, 0.3])
@pytest.mark.parametrize("postln", [False, True])
def test_block_equals_timm(layerscale: float | None, postln: bool) -> None:
    timm = TimmBlock(C, 3.0, 3, 5, use_post_norm_in_modulation=postln, layerscale_value=layerscale)
    redraw(timm)
    ours = FocalBlock(
        C,
        mlp_ratio=3.0,
        layerscale=layerscale,
        ln_eps=1e-6,
        focal_level=3,
        focal_window=5,
        use_postln_in_modulation=postln,
    )
    ours.load_state_dict(timm.state_dict())
    x = maps(2, C, 4, 7)
    assert (ours(x) - timm(x)).abs().max() <= 1e-6


def test_block_takes_official_weights() -> None:
    ours = FocalBlock(C)
    redraw(ours)
    official = {}
    for name, value in ours.state_dict().items():
        linear = name.endswith(("f.weight", "proj.weight", "fc1.weight", "fc2.weight"))
        official[name] = value[:, :, 0, 0] if linear else value
    assert {n.split(".")[0] for n in official} == {"norm1", "modulation", "norm2", "mlp", "gamma_1", "gamma_2"}
    other = FocalBlock(C)
    other.load_state_dict(official)
    x = maps(2, C, 3, 3)
    assert torch.equal(other(x), ours(x))


def test_block_starts_close_to_the_identity() -> None:
    torch.manual_seed(0)
    block = FocalBlock(C)
    x = maps(2, C, 5, 5)
    assert 0 < (block(x) - x).abs().max() < 1e-3
    assert block.out_channels == C
