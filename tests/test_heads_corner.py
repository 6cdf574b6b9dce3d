import pytest
import torch

from necklace.heads import Corner


@pytest.mark.parametrize(("side", "places"), [(1, 1), (4, 1), (5, 2), (12, 3)])
def test_corner_is_a_mean_over_the_first_positions(side: int, places: int) -> None:
    head, features = Corner(4, 3, stride=4, side=side), torch.randn(2, 4, 5, 7)
    expected = features[:, :, :places, :places].flatten(2).mean(2) @ head.fc.weight.T + head.fc.bias
    torch.testing.assert_close(head(features), expected)


def test_a_corner_of_no_pixels_is_refused() -> None:
    with pytest.raises(ValueError, match=r"head.side=0: must be at least 1 pixel"):
        Corner(4, 3, side=0)
