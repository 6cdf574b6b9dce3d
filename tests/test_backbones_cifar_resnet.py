import pytest
import torch

from necklace.backbones import CifarResNet


@pytest.mark.parametrize(("depth", "params"), [(8, 77_392), (20, 271_824)])
def test_cifar_resnet_size(depth: int, params: int) -> None:
    # He et al. count 0.27 M parameters for ResNet-20; the two 1x1 shortcuts of option B add 2,752 and the head is not here.
    backbone = CifarResNet(depth)
    assert sum(p.numel() for p in backbone.parameters()) == params
    convolutions = [m for m in backbone.modules() if isinstance(m, torch.nn.Conv2d) and m.kernel_size == (3, 3)]
    assert len(convolutions) == depth - 1


@pytest.mark.parametrize("size", [(1, 1), (5, 9), (32, 32), (33, 30)])
def test_feature_map_has_the_stated_channels_and_stride(size: tuple[int, int]) -> None:
    backbone = CifarResNet(8, width=4).eval()
    expected = (2, 16, -(-size[0] // 4), -(-size[1] // 4))
    assert backbone(torch.randn(2, 3, *size)).shape == expected


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: CifarResNet(depth=9), "backbone.depth=9"),
        (lambda: CifarResNet(width=0), "backbone.width=0"),
    ],
)
def test_a_wrong_option_is_named(make, words: str) -> None:
    with pytest.raises(ValueError, match="backbone") as error:
        make()
    assert words in str(error.value)
