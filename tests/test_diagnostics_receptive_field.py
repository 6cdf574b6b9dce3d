import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from necklace.backbones import CifarResNet, TorchvisionResNet
from necklace.diagnostics.receptive_field import MASS, effective_receptive_field, spread, theoretical_receptive_field
from necklace.model import weights_hash
from necklace.necks import SPPF, FocalModulation
from necklace.seeding import stream


def convolution(kernel: torch.Tensor) -> nn.Conv2d:
    """A convolution of stride 1 with these weights [O, C, k, k] that keeps the size."""
    outputs, inputs, size, _ = kernel.shape
    made = nn.Conv2d(inputs, outputs, size, padding=size // 2, bias=False)
    with torch.no_grad():
        made.weight.copy_(kernel)
    return made


@pytest.mark.parametrize("size", [1, 3, 5, 7])
def test_one_flat_kernel_is_seen_as_it_is(size: int) -> None:
    weights = effective_receptive_field([convolution(torch.ones(1, 1, size, size))], torch.randn(3, 1, 15, 15))
    expected = torch.zeros(15, 15, dtype=torch.double)
    expected[7 - size // 2 : 8 + size // 2, 7 - size // 2 : 8 + size // 2] = 1
    assert torch.equal(weights, expected)
    found = spread(weights)
    assert found
    assert (found.side, found.radius, found.extent) == (size, size / 2, size)
    assert found.corner == (7 - size // 2, 7 - size // 2)


def test_two_stacked_kernels_give_the_triangle_of_luo() -> None:
    flat = convolution(torch.ones(1, 1, 3, 3))
    weights = effective_receptive_field([flat, flat], torch.randn(2, 1, 15, 15))
    side = np.array([1, 2, 3, 2, 1])
    assert np.array_equal(weights[5:10, 5:10].numpy(), np.outer(side, side))
    assert float(weights.sum()) == 81
    found = spread(weights)
    assert found
    # The heaviest square of 4 holds (2 + 3 + 2 + 1)² = 64 of 81.
    assert (found.side, found.extent) == (5, 5)


def test_what_weighs_little_is_in_the_extent_but_not_in_the_radius() -> None:
    kernel = torch.ones(1, 1, 5, 5)
    kernel[0, 0, 2, 2] = 1000
    found = spread(effective_receptive_field([convolution(kernel)], torch.zeros(1, 1, 15, 15)))
    assert found
    assert (found.side, found.corner, found.extent) == (1, (7, 7), 5)


def test_channels_are_summed_before_and_colours_after_the_absolute_value() -> None:
    kernel = torch.randn(4, 3, 3, 3, generator=torch.Generator().manual_seed(0))
    weights = effective_receptive_field([convolution(kernel)], torch.zeros(1, 3, 9, 9))
    assert torch.allclose(weights[3:6, 3:6], kernel.double().sum(0).abs().sum(0), rtol=1e-12, atol=0)


class Square(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x**2


def test_absolute_gradients_are_averaged_over_images_in_any_batches() -> None:
    images = torch.randn(5, 1, 6, 8, generator=torch.Generator().manual_seed(1))
    for batch in (2, 8):
        weights = effective_receptive_field([Square()], images, batch)
        assert float(weights[3, 4]) == pytest.approx(float((2 * images[:, 0, 3, 4].double()).abs().mean()), rel=1e-12)
        assert int((weights > 0).sum()) == 1


def test_batch_norm_joins_nothing_and_the_network_stays_as_it_was() -> None:
    network = nn.Sequential(convolution(torch.ones(3, 3, 3, 3)), nn.BatchNorm2d(3)).train()
    before = weights_hash(network)
    found = spread(effective_receptive_field([network], torch.randn(4, 3, 12, 12)))
    assert found
    assert found.extent == 3
    assert network.training
    assert weights_hash(network) == before
    assert all(p.requires_grad and p.dtype == torch.float32 for p in network.parameters())


@given(st.integers(1, 7), st.integers(1, 7), st.floats(0, 1), st.integers(0, 2**32))
def test_the_spread_is_that_of_trying_every_square(height: int, width: int, filled: float, seed: int) -> None:
    generator = np.random.default_rng(seed)
    weights = generator.pareto(1, (height, width)) * (generator.random((height, width)) < filled)
    found = spread(torch.from_numpy(weights))
    if not weights.any():
        assert found is None
        return
    assert found

    def heaviest(side: int) -> float:
        return max(weights[r : r + side, c : c + side].sum() for r in range(height) for c in range(width))

    # Sums in another order differ in the last digit, which may decide where a square holds exactly 95 %.
    total = weights.sum()
    assert heaviest(found.side) >= MASS * total * (1 - 1e-9)
    assert found.side == 1 or heaviest(found.side - 1) < MASS * total * (1 + 1e-9)
    row, column = found.corner
    inside = weights[row : row + found.side, column : column + found.side].sum()
    assert math.isclose(inside, heaviest(found.side), rel_tol=1e-9, abs_tol=1e-9)
    rows, columns = np.nonzero(weights)
    assert found.box == (rows.min(), columns.min(), rows.max() + 1, columns.max() + 1)


def test_a_gradient_that_is_no_number_is_an_error() -> None:
    with pytest.raises(ValueError, match="not finite"):
        spread(torch.tensor([[0.0, math.nan]]))


@pytest.mark.parametrize(("depth", "theoretical"), [(8, 25), (14, 53), (20, 81)])
def test_a_backbone_sees_nothing_beyond_its_theoretical_field(depth: int, theoretical: int) -> None:
    with stream(0, "backbone"):
        backbone = CifarResNet(depth, width=4)
    assert theoretical_receptive_field(backbone) == theoretical
    # The field's middle is pixel 4 * 12 = 48 of an image that the largest of the fields fits into.
    weights = effective_receptive_field([backbone], torch.randn(4, 3, 96, 96, generator=torch.Generator().manual_seed(depth)))
    found = spread(weights)
    assert found
    assert found.side <= found.extent <= theoretical
    assert found.side > theoretical / 3
    reach = (theoretical - 1) // 2
    outside = torch.ones(96, 96, dtype=torch.bool)
    outside[48 - reach : 49 + reach, 48 - reach : 49 + reach] = False
    assert bool((weights[outside] == 0).all())
    assert bool((weights[~outside] > 0).any())


@pytest.mark.parametrize("neck", [SPPF, lambda channels: FocalModulation(channels, focal_window=7)])
def test_a_neck_with_context_widens_the_field(neck) -> None:
    with stream(0, "model"):
        backbone = CifarResNet(8)
        above = neck(backbone.out_channels)
    images = torch.randn(8, 3, 48, 48, generator=torch.Generator().manual_seed(0))
    alone = spread(effective_receptive_field([backbone], images))
    both = spread(effective_receptive_field([backbone, above], images))
    assert alone
    assert both
    print(alone, both)
    assert both.radius > alone.radius
    assert both.extent > 25 >= alone.extent


def test_receptive_field_is_the_theoretical_one() -> None:
    # 1 + sum over layers of (kernel - 1) * stride before it: 3x3 at 1, (2 at 1), (1 at 1, 1 at 2), (1 at 2, 1 at 4).
    assert theoretical_receptive_field(CifarResNet(8, 2)) == 1 + 2 + 4 + (2 + 4) + (4 + 8) == 25
    assert theoretical_receptive_field(CifarResNet(20, 2)) == 81
    assert theoretical_receptive_field(TorchvisionResNet("resnet18", "layer1")) == 1 + 6 + 2 * 2 + 4 * 2 * 4
    assert theoretical_receptive_field(CifarResNet(20, 2), limit=64) is None


def test_receptive_field_leaves_the_backbone_alone() -> None:
    backbone = CifarResNet(8, 2).train()
    before = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    theoretical_receptive_field(backbone)
    assert backbone.training
    assert all(torch.equal(before[name], tensor) for name, tensor in backbone.state_dict().items())
