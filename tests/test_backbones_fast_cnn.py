import pytest
import torch
from torch import nn

from necklace.backbones import FastCnn


def test_size() -> None:
    backbone = FastCnn(64)
    convolutions = 24 * 64 + 64 * 64 + 64 * 192 + 3 * 192 * 192
    assert sum(p.numel() for p in backbone.parameters() if p.requires_grad) == 9 * convolutions + 2 * 64 + 4 * 192
    assert backbone.out_channels == 192


@pytest.mark.parametrize(("size", "expected"), [((5, 9), (1, 2)), ((32, 32), (7, 7)), ((33, 30), (8, 7)), ((64, 48), (15, 11))])
def test_feature_map_has_the_stated_channels_and_size(size: tuple[int, int], expected: tuple[int, int]) -> None:
    backbone = FastCnn(8).eval()
    assert backbone(torch.randn(2, 3, *size)).shape == (2, 24, *expected)
    assert backbone.map_size(*size) == expected


def test_an_image_without_a_position_is_refused() -> None:
    with pytest.raises(ValueError, match="images of 4x9 pixels are too small: the least side is 5"):
        FastCnn(8)(torch.randn(2, 3, 4, 9))


def test_a_small_width_is_named() -> None:
    with pytest.raises(ValueError, match=r"backbone\.width=4: must be at least 8"):
        FastCnn(4)


def test_convolutions_start_as_the_identity() -> None:
    backbone = FastCnn(8)
    wider, same = backbone.groups[0][0], backbone.groups[1][0]  # pyright: ignore[reportIndexIssue]
    x = torch.randn(1, 24, 6, 6)
    torch.testing.assert_close(wider(x), x[:, :8])
    torch.testing.assert_close(same(x[:, :8]), x[:, :8])


def correlated(count: int, seed: int = 0) -> torch.Tensor:
    """Images whose neighbours and channels go together, as in photos."""
    noise = torch.randn(count, 3, 20, 20, generator=torch.Generator().manual_seed(seed))
    mixed = nn.functional.avg_pool2d(noise, 5, stride=1)
    return mixed + 0.5 * mixed.roll(1, 1) + 0.2


def test_whitened_patches_are_uncorrelated_with_variance_one() -> None:
    images = 3 * correlated(64)
    backbone = FastCnn(8)
    backbone.prepare(images.split(24))
    maps = backbone.whitening(images).double()
    rows = maps[:, :12].permute(1, 0, 2, 3).reshape(12, -1)
    torch.testing.assert_close(rows @ rows.T / rows.shape[1], torch.eye(12, dtype=torch.double), atol=0.05, rtol=0)
    torch.testing.assert_close(maps[:, 12:], -maps[:, :12])
    # How the images come in batches does not matter, and neither does an eigenvector's sign.
    again = FastCnn(8)
    again.prepare([images])
    torch.testing.assert_close(again.whitening.weight, backbone.whitening.weight, atol=1e-4, rtol=0)
    assert (backbone.whitening.weight[:12].sum((1, 2, 3)) >= 0).all()


def test_neither_whitening_nor_scales_are_trained() -> None:
    backbone = FastCnn(8)
    backbone.prepare([correlated(8)])
    backbone(correlated(4, seed=1)).square().sum().backward()
    frozen = {name for name, p in backbone.named_parameters() if not p.requires_grad}
    assert frozen == {"whitening.weight"} | {
        f"groups.{name}.weight" for name, m in backbone.groups.named_modules() if isinstance(m, nn.BatchNorm2d)
    }
    assert all(p.grad is not None for p in backbone.parameters() if p.requires_grad)
