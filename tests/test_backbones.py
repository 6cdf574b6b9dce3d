from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file

from necklace.backbones import CifarResNet, TimmBackbone, TorchvisionResNet, receptive_field


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
        (lambda: CifarResNet(depth=9), "backbone.depth=9"),
        (lambda: CifarResNet(width=0), "backbone.width=0"),
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


def test_receptive_field_is_the_theoretical_one() -> None:
    # 1 + sum over layers of (kernel - 1) * stride before it: 3x3 at 1, (2 at 1), (1 at 1, 1 at 2), (1 at 2, 1 at 4).
    assert receptive_field(CifarResNet(8, 2)) == 1 + 2 + 4 + (2 + 4) + (4 + 8) == 25
    assert receptive_field(CifarResNet(20, 2)) == 81
    assert receptive_field(TorchvisionResNet("resnet18", "layer1")) == 1 + 6 + 2 * 2 + 4 * 2 * 4
    assert receptive_field(CifarResNet(20, 2), limit=64) is None


def test_receptive_field_leaves_the_backbone_alone() -> None:
    backbone = CifarResNet(8, 2).train()
    before = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    receptive_field(backbone)
    assert backbone.training
    assert all(torch.equal(before[name], tensor) for name, tensor in backbone.state_dict().items())


def test_pretrained_covers_every_tensor_and_says_so(tmp_path: Path) -> None:
    network = torchvision.models.resnet18()
    path = str(tmp_path / "weights.pth")
    torch.save({"state_dict": network.state_dict()}, path)
    backbone = TorchvisionResNet("resnet18", "layer3", pretrained=path)
    assert backbone.pretrained == (75, 75)
    loaded = backbone.network.get_parameter("layer3.1.conv2.weight")
    assert torch.equal(loaded, network.get_parameter("layer3.1.conv2.weight"))
    assert TorchvisionResNet("resnet18", "layer3").pretrained == (0, 75)


def test_pretrained_that_would_drop_layers_is_an_error(tmp_path: Path) -> None:
    state = torchvision.models.resnet18().state_dict()
    path = str(tmp_path / "weights.safetensors")
    save_file(state, path)
    with pytest.raises(ValueError, match=r"covers 99 of 100 .*conv1.weight \(64, 3, 7, 7\) instead of \(64, 3, 3, 3\)"):
        TorchvisionResNet("resnet18", stem="cifar", pretrained=path)
    backbone = TorchvisionResNet("resnet18", stem="cifar", pretrained=path, pretrained_skip=["conv1"])
    assert backbone.pretrained == (99, 100)
    del state["layer4.0.bn1.running_var"]
    save_file(state, path)
    with pytest.raises(ValueError, match=r"lacks layer4.0.bn1.running_var"):
        TorchvisionResNet("resnet18", pretrained=path)


def test_pretrained_file_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no\.pth: there is no such file"):
        TorchvisionResNet("resnet18", pretrained=str(tmp_path / "no.pth"))
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(ValueError, match="holds no state dict"):
        TorchvisionResNet("resnet18", pretrained=str(tmp_path / "list.pth"))


@pytest.mark.parametrize("name", ["test_resnet", "test_convnext"])
def test_pretrained_timm_weights_load_under_each_wrapper(tmp_path: Path, name: str) -> None:
    full: Any = timm.create_model(name).eval()
    path = str(tmp_path / "weights.safetensors")
    save_file(full.state_dict(), path)
    backbone = TimmBackbone(name, stage=-1, pretrained=path).eval()
    loaded, total = backbone.pretrained
    assert loaded == total > 0
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        (expected,) = full.forward_intermediates(images, indices=1, intermediates_only=True)
        assert torch.allclose(backbone(images), expected, atol=1e-5)
