"""Pools as a chain: the maxima of parallel pools bit for bit, and their gradients where no two values are equal."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from necklace.necks import SPP, SPPF, pools
from necklace.necks.pools import with_pools

LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


@pytest.fixture(scope="module", autouse=True)
def _small_maps_too() -> Iterator[None]:
    """By the fast way, which leaves them to torch otherwise."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pools, "LEAST", 0)
        yield


def parallel(x: Tensor, sizes: list[int]) -> Tensor:
    return torch.cat([x, *(F.max_pool2d(x, size, 1, size // 2) for size in sizes)], dim=1)


def distinct(*shape: int, seed: int = 0) -> Tensor:
    count = torch.Size(shape).numel()
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed)).reshape(shape) / count - 0.5


@given(
    shape=st.tuples(st.integers(1, 3), st.integers(1, 5), st.integers(1, 12), st.integers(1, 12)),
    sizes=st.lists(st.sampled_from([1, 3, 5, 7, 9, 13, 15]), min_size=1, max_size=4),
    layout=st.sampled_from(list(LAYOUTS)),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float64]),
    at_once=st.sampled_from([1, 500, 2**18]),
    ties=st.booleans(),
)
@settings(max_examples=120, deadline=None)
def test_maxima_are_bitwise_those_of_parallel_pools(
    shape: tuple[int, ...], sizes: list[int], layout: str, dtype: torch.dtype, at_once: int, ties: bool
) -> None:
    x = distinct(*shape)
    x = (x * 4).round() if ties else x
    x = x.to(dtype).contiguous(memory_format=LAYOUTS[layout])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pools, "AT_ONCE", at_once)
        y = with_pools(x, sizes)
    want = parallel(x, sizes)
    assert torch.equal(y, want)
    assert y.stride() == want.stride()
    x.requires_grad_()
    assert torch.equal(with_pools(x, sizes), want)


def test_nan_and_infinity_are_kept() -> None:
    x = distinct(2, 3, 9, 8).contiguous(memory_format=torch.channels_last)
    x[0, 1, 4, 4], x[1, 0, 0, 0], x[1, 2] = torch.nan, torch.inf, -torch.inf
    y = with_pools(x, [5, 9])
    torch.testing.assert_close(y, parallel(x, [5, 9]), rtol=0, atol=0, equal_nan=True)
    assert y.isnan().sum() == 1 + 25 + 72


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("size", [(1, 1), (4, 7), (20, 20)])
def test_gradients_are_those_of_parallel_pools_where_no_two_values_are_equal(layout: str, size: tuple[int, int]) -> None:
    weights = distinct(2, 12, *size, seed=1).double()
    grads = []
    for way in (with_pools, parallel):
        x = distinct(2, 3, *size).double().contiguous(memory_format=LAYOUTS[layout]).requires_grad_()
        (way(x, [5, 9, 13]) * weights).sum().backward()
        grads.append(x.grad)
    torch.testing.assert_close(*grads, rtol=1e-12, atol=1e-12)


def test_with_ties_a_gradient_goes_to_an_equal_value() -> None:
    values = distinct(1, 2, 12, 12).mul(6).round()
    weights = distinct(1, 6, 12, 12, seed=1).double()
    grads = []
    for way in (with_pools, parallel):
        x = values.double().requires_grad_()
        (way(x, [5, 9]) * weights).sum().backward()
        assert x.grad is not None
        grads.append(x.grad)
    assert not torch.allclose(*grads), "the two would then agree on ties, and the words in pools.py be wrong"
    for channel in range(2):
        for value in values[0, channel].unique():
            own = [grad[0, channel][values[0, channel] == value].sum() for grad in grads]
            assert torch.isclose(*own, rtol=1e-12, atol=1e-12)


def test_spp_and_sppf_have_the_same_gradients_even_with_ties() -> None:
    necks = []
    for kind in (SPP, SPPF):
        torch.manual_seed(0)
        necks.append(kind(6))
    x = distinct(2, 6, 9, 11).mul(3).round()
    for neck in necks:
        neck(x).square().sum().backward()
    for one, two in zip(*(neck.parameters() for neck in necks), strict=True):
        assert one.grad is not None
        assert two.grad is not None
        assert torch.equal(one.grad, two.grad)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("training", [True, False])
def test_the_neck_is_bitwise_its_definition(layout: str, training: bool) -> None:
    torch.manual_seed(0)
    neck = SPP(8, kernel_sizes=[9, 3, 13]).train(training)
    x = distinct(3, 8, 10, 9).contiguous(memory_format=LAYOUTS[layout])
    with torch.no_grad():
        assert torch.equal(neck(x), neck.cv2(parallel(neck.cv1(x), [9, 3, 13])))
    y = neck(x.requires_grad_())
    assert torch.equal(y, neck.cv2(parallel(neck.cv1(x), [9, 3, 13])))


@pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")
def test_transforms_see_plain_pools() -> None:
    x = distinct(3, 2, 6, 7).contiguous(memory_format=torch.channels_last)
    want = parallel(x, [5, 9])
    assert torch.equal(torch.func.vmap(lambda image: with_pools(image[None], [5, 9])[0])(x), want)
    traced: Any = torch.jit.trace(lambda x: with_pools(x, [5, 9]), x[:, :, :2])  # at another height than it is used at
    assert torch.equal(traced(x), want)
    compiled = torch.compile(lambda x: with_pools(x, [5, 9]), backend="eager", fullgraph=True)
    assert torch.equal(compiled(x), want)
    tangent = torch.func.jvp(lambda x: with_pools(x, [5, 9]), (x,), (torch.ones_like(x),))[1]
    assert torch.equal(tangent, torch.ones_like(want))
