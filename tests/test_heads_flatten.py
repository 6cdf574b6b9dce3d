import pytest
import torch

from necklace.backbones import CifarResNet
from necklace.heads import Flatten, Pyramid


def test_cnn_with_fc_takes_one_size_and_pyramid_takes_all() -> None:
    """The claim of SPP-net: pooling into fixed bins frees a CNN with fully connected layers from one input size."""
    backbone = CifarResNet(8, 4).eval()
    flatten = Flatten(16, 10, map_size=(8, 8), stride=4, hidden=32)
    pyramid = Pyramid(16, 10, bins=[1, 2, 4])
    lengths = set()
    with torch.no_grad():
        for size in range(16, 65):
            features = backbone(torch.randn(1, 3, size, size))
            lengths.add(pyramid.pool(features).shape[1])
            assert pyramid(features).shape == (1, 10)
            if -(-size // 4) == 8:
                assert flatten(features).shape == (1, 10)
            else:
                with pytest.raises(ValueError, match=r"built for images of about 32x32 .*head=pyramid") as error:
                    flatten(features)
                shown = 4 * -(-size // 4)
                assert f"got images of about {shown}x{shown}" in str(error.value)
    assert lengths == {16 * (1 + 4 + 16)}


def test_flatten_needs_a_size() -> None:
    with pytest.raises(ValueError, match=r"data\.size=32"):
        Flatten(16, 10, map_size=None)
