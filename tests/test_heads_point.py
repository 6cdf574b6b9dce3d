import pytest
import torch

from necklace.heads import Point


def test_point_reads_one_position() -> None:
    head, features = Point(4, 3, stride=4, at=(6, 13)), torch.randn(2, 4, 5, 7)
    torch.testing.assert_close(head(features), features[:, :, 1, 3] @ head.fc.weight.T + head.fc.bias)


def test_a_place_outside_the_image_is_named() -> None:
    with pytest.raises(ValueError, match=r"head.at=\[6, 30\]: .*position 1, 7 of a feature map of 5x7"):
        Point(4, 3, stride=4, at=(6, 30))(torch.randn(2, 4, 5, 7))


@pytest.mark.parametrize("at", [(1,), (1, -1), (0, 1.5), (True, 1)])
def test_what_is_no_pixel_is_refused(at: tuple) -> None:
    with pytest.raises(ValueError, match=r"head.at=.* two whole numbers from 0"):
        Point(4, 3, at=at)
