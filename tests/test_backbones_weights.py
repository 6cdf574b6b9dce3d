from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file

from necklace.backbones import TimmBackbone, TorchvisionResNet


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
