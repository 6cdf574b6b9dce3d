"""Maps of several strides: the finer ones beside the one that a backbone ends in."""

from collections.abc import Callable, Sequence

import pytest
import torch

from necklace.backbones import Backbone, CifarResNet, FastCnn, TimmBackbone, TorchvisionResNet
from necklace.model import weights_hash
from necklace.seeding import stream

Make = Callable[[Sequence[int] | None], Backbone]
MAKES: dict[str, tuple[Make, list[int]]] = {
    "cifar": (lambda stages: CifarResNet(14, 4, stages), [1, 2, 4]),
    "torchvision": (lambda stages: TorchvisionResNet("resnet18", stages=stages), [8, 16, 32]),
    "torchvision, cifar's stem": (lambda stages: TorchvisionResNet("resnet18", stem="cifar", stages=stages), [2, 4, 8]),
    "timm": (lambda stages: TimmBackbone("test_resnet", stages=stages), [8, 16, 32]),
    "timm, channels last": (
        lambda stages: TimmBackbone("focalnet_tiny_srf", stages=stages),
        [8, 16, 32],
    ),
}


@pytest.mark.parametrize("name", MAKES)
def test_a_backbone_hands_out_finer_maps_and_is_else_the_same(name: str) -> None:
    make, strides = MAKES[name]
    with stream(0, "backbone"):
        plain = make(None).eval()
    with stream(0, "backbone"):
        several = make(strides).eval()
    assert weights_hash(plain) == weights_hash(several)
    assert several.strides == tuple(strides)
    assert (several.out_channels, several.stride) == (plain.out_channels, plain.stride) == (several.channels[-1], strides[-1])
    assert (plain.channels, plain.strides) == ((plain.out_channels,), (plain.stride,))
    images = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        maps, whole = several.stages(images), plain(images)
        assert [tuple(x.shape) for x in maps] == [
            (2, channels, 64 // stride, 96 // stride) for channels, stride in zip(several.channels, strides, strict=True)
        ]
        assert torch.equal(maps[-1], whole)
        assert torch.equal(several(images), whole)
        assert torch.equal(plain.stages(images)[0], whole)


@pytest.mark.parametrize("name", list(MAKES)[:-1])
def test_what_follows_the_last_stage_is_cut(name: str) -> None:
    make, strides = MAKES[name]
    whole, cut = make(strides), make(strides[:2])
    assert cut.out_channels == whole.channels[1]
    assert cut.stride == strides[1]
    images = torch.randn(1, 3, 64, 64)
    sum(x.square().sum() for x in cut.train().stages(images)).backward()  # pyright: ignore[reportAttributeAccessIssue]
    assert [key for key, value in cut.named_parameters() if value.grad is None] == []
    assert sum(value.numel() for value in cut.parameters()) < sum(value.numel() for value in whole.parameters())


def test_a_backbone_without_stages_has_one() -> None:
    backbone = FastCnn(8).eval()
    images = torch.randn(1, 3, 32, 32)
    (only,) = backbone.stages(images)
    assert torch.equal(only, backbone(images))
    assert (backbone.channels, backbone.strides) == ((24,), (4,))


@pytest.mark.parametrize("stages", [[], [3], [8, 4], [2, 2], [64]])
def test_stages_that_there_are_not_are_refused(stages: list[int]) -> None:
    for make, _ in list(MAKES.values())[:-1]:
        with pytest.raises(ValueError, match=r"backbone\.stages=\[.*\]: must be different strides of"):
            make(stages)
