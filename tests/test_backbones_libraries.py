import pytest
import torch

from necklace.backbones import TimmBackbone, TorchvisionResNet


@pytest.mark.parametrize("stem", ["imagenet", "cifar"])
@pytest.mark.parametrize("stage", ["layer1", "layer3"])
def test_torchvision_resnet_cut_after_a_stage(stem: str, stage: str) -> None:
    backbone = TorchvisionResNet("resnet18", stage, stem).eval()
    features = backbone(torch.randn(1, 3, 64, 96))
    assert features.shape == (1, backbone.out_channels, 64 // backbone.stride, 96 // backbone.stride)


def test_timm_backbone_hands_out_channels_first() -> None:
    focalnet = TimmBackbone("focalnet_tiny_srf", stage=1).eval()
    assert focalnet(torch.randn(1, 3, 64, 32)).shape == (1, 192, 8, 4) == (1, focalnet.out_channels, 8, 4)
    swin = TimmBackbone("swin_tiny_patch4_window7_224", stage=0, options={"img_size": (56, 84)}).eval()
    assert swin(torch.randn(1, 3, 56, 84)).shape == (1, swin.out_channels, 56 // swin.stride, 84 // swin.stride)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: TorchvisionResNet("resnet19"), "resnet18"),
        (lambda: TorchvisionResNet(stage="layer5"), "layer1, layer2"),
        (lambda: TorchvisionResNet(stem="big"), "imagenet or cifar"),
        (lambda: TimmBackbone("focalnet_tiny"), "focalnet_tiny_lrf"),
        (lambda: TimmBackbone("resnet18", stage=7), "0 to 4"),
    ],
)
def test_a_wrong_option_is_named(make, words: str) -> None:
    with pytest.raises(ValueError, match="backbone") as error:
        make()
    assert words in str(error.value)
