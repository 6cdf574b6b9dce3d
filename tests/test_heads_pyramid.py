import pytest
import torch

from necklace.heads import Pyramid


def test_pyramid_pools_bins_by_hand() -> None:
    features = torch.randn(1, 2, 5, 3)
    vector = Pyramid(2, 3, bins=[1, 2]).pool(features)
    rows, columns = [(0, 3), (2, 5)], [(0, 2), (1, 3)]  # floor(i*a/n) to ceil((i+1)*a/n)
    expected = [features[0, c].max() for c in range(2)]
    expected += [features[0, c, r[0] : r[1], k[0] : k[1]].max() for c in range(2) for r in rows for k in columns]
    assert torch.equal(vector[0], torch.stack(expected))


@pytest.mark.parametrize("bins", [[], [0, 1], [2, 2]])
def test_pyramid_names_wrong_bins(bins: list[int]) -> None:
    with pytest.raises(ValueError, match=r"head\.bins"):
        Pyramid(16, 10, bins=bins)
