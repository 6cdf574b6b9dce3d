import pytest
import torch

from necklace.backbones import CifarResNet
from necklace.heads import Flatten, Gap, Pyramid


def test_gap_is_the_mean_and_a_linear_layer() -> None:
    head, features = Gap(4, 3), torch.randn(2, 4, 5, 7)
    expected = features.flatten(2).mean(2) @ head.fc.weight.T + head.fc.bias
    assert torch.allclose(head(features), expected, atol=1e-6)


def test_pyramid_pools_bins_by_hand() -> None:
    features = torch.randn(1, 2, 5, 3)
    vector = Pyramid(2, 3, bins=[1, 2]).pool(features)
    rows, columns = [(0, 3), (2, 5)], [(0, 2), (1, 3)]  # floor(i*a/n) to ceil((i+1)*a/n)
    expected = [features[0, c].max() for c in range(2)]
    expected += [features[0, c, r[0] : r[1], k[0] : k[1]].max() for c in range(2) for r in rows for k in columns]
    assert torch.equal(vector[0], torch.stack(expected))


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
                with pytest.raises(ValueError, match=r"built for images of 32x32 .*head=pyramid") as error:
                    flatten(features)
                shown = 4 * -(-size // 4)
                assert f"got images of {shown}x{shown}" in str(error.value)
    assert lengths == {16 * (1 + 4 + 16)}


def test_flatten_needs_a_size() -> None:
    with pytest.raises(ValueError, match=r"data\.size=32"):
        Flatten(16, 10, map_size=None)


@pytest.mark.parametrize("bins", [[], [0, 1], [2, 2]])
def test_pyramid_names_wrong_bins(bins: list[int]) -> None:
    with pytest.raises(ValueError, match=r"head\.bins"):
        Pyramid(16, 10, bins=bins)
