import pytest
import timm
import torch
from torch import nn

from necklace.backbones import TimmBackbone
from necklace.backbones.cutting import Gone, cut_unused
from necklace.model import weights_hash


@pytest.mark.parametrize(
    ("name", "stage"),
    [
        ("tinynet_e", 0),
        ("tinynet_e", 2),
        ("lcnet_035", 1),
        ("mobilenetv3_small_050", 2),
        ("test_efficientnet", 1),
        ("hardcorenas_a", 1),
        ("test_resnet", 1),
        ("test_convnext", 2),
        ("repghostnet_050", 1),
    ],
)
def test_every_weight_that_stays_gets_a_gradient(name: str, stage: int) -> None:
    """And what stays computes what the whole network does, from the same weights."""
    torch.manual_seed(0)
    backbone = TimmBackbone(name, stage=stage)
    torch.manual_seed(0)
    whole = timm.create_model(name, features_only=True, out_indices=(stage,))
    images = torch.randn(2, 3, 64, 64)
    assert torch.equal(backbone.eval()(images), whole.eval()(images)[0])
    own, others = backbone.network.state_dict(), whole.state_dict()
    assert all(torch.equal(value, others[key]) for key, value in own.items())
    backbone.train()(images).square().sum().backward()
    assert [key for key, value in backbone.named_parameters() if value.grad is None] == []


def test_a_network_that_was_right_stays_as_it_is() -> None:
    torch.manual_seed(0)
    backbone = TimmBackbone("test_convnext", stage=1)
    torch.manual_seed(0)
    whole = timm.create_model("test_convnext", features_only=True, out_indices=(1,))
    assert weights_hash(backbone.network) == weights_hash(whole)


class _Odd(nn.Module):
    """An output that is taken by a hook, layers behind it that write over their input, and a shortcut that needs two sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 1)
        self.tail = nn.Sequential(nn.Identity(), nn.Conv2d(4, 8, 3, stride=2), nn.ReLU(inplace=True))
        self.shortcut = nn.Conv2d(4, 8, 3, stride=2)
        self.last = nn.ReLU(inplace=True)
        self.found: list[torch.Tensor] = []
        self.tail[0].register_forward_hook(self._take)

    def _take(self, _module: nn.Module, _inputs: object, output: torch.Tensor) -> None:
        self.found.append(output)

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        self.found.clear()
        x = self.stem(x)
        self.last(self.tail(x) + self.shortcut(x))
        return list(self.found)


def test_what_is_cut_does_not_change_what_is_taken_on_the_way() -> None:
    network = _Odd()
    images = torch.randn(1, 3, 8, 8)
    before = network(images)[0].clone()

    def twin() -> nn.Module:
        with torch.device("meta"):
            return _Odd()

    cut_unused(network, twin, (8, 8))
    after = network(images)[0]
    assert torch.equal(after, before)
    after.sum().backward()
    assert [name for name, value in network.named_parameters() if value.grad is None] == []
    assert isinstance(network.shortcut, Gone)
