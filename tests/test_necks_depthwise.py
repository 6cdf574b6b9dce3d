"""The depth-wise convolution's gradients from slices, against torch's own."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from necklace.necks import depthwise
from necklace.necks.depthwise import DepthwiseConv, input_gradient, weight_gradient

LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


@pytest.fixture(scope="module", autouse=True)
def _small_maps_too() -> Iterator[None]:
    """By the fast way, which leaves them to torch otherwise."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(depthwise, "LEAST", 0)
        yield


def drawn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def own_gradients(grad: Tensor, z: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Torch's gradients of input and weight, in fp64."""
    z, weight = z.double().requires_grad_(), weight.double().requires_grad_()
    y = torch.conv2d(z, weight, None, 1, weight.shape[-1] // 2, 1, len(weight))
    of_z, of_weight = torch.autograd.grad(y, (z, weight), grad.double())
    return of_z, of_weight


@given(
    shape=st.tuples(st.integers(1, 3), st.integers(1, 17), st.integers(1, 14), st.integers(1, 14)),
    kernel=st.sampled_from([1, 3, 5, 7, 9, 11, 13, 15]),
    layouts=st.tuples(*[st.sampled_from(list(LAYOUTS))] * 2),
    dtype=st.sampled_from([torch.float64, torch.float32]),
)
@settings(max_examples=150, deadline=None)
def test_gradients_equal_torchs_own(
    shape: tuple[int, int, int, int], kernel: int, layouts: tuple[str, str], dtype: torch.dtype
) -> None:
    z = drawn(*shape, seed=1, dtype=dtype).contiguous(memory_format=LAYOUTS[layouts[0]])
    grad = drawn(*shape, seed=2, dtype=dtype).contiguous(memory_format=LAYOUTS[layouts[1]])
    weight = drawn(shape[1], 1, kernel, kernel, seed=3, dtype=dtype)
    of_z, of_weight = own_gradients(grad, z, weight)
    tolerance = 1e-12 if dtype == torch.float64 else 1e-5
    for found, want in ((input_gradient(grad, z, weight), of_z), (weight_gradient(grad, z, weight), of_weight)):
        assert found.dtype == dtype
        assert (found - want).abs().max() <= tolerance * want.abs().max().clamp(min=1)


def layers(kernel: int = 5, channels: int = 4) -> tuple[DepthwiseConv, nn.Conv2d]:
    torch.manual_seed(0)
    ours = DepthwiseConv(channels, kernel)
    plain = nn.Conv2d(channels, channels, kernel, padding=kernel // 2, groups=channels, bias=False)
    plain.load_state_dict(ours.state_dict())
    return ours, plain


@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_layer_is_torchs_with_another_gradient(kernel: int, layout: str) -> None:
    ours, plain = layers(kernel)
    x = drawn(2, 4, 6, 7, dtype=torch.float32).contiguous(memory_format=LAYOUTS[layout]).requires_grad_()
    y = ours(x)
    assert torch.equal(y, plain(x))
    assert ("_Convolution" in y.grad_fn.name()) == (kernel > 3)
    assert len(ours.state_dict()) == 1
    with torch.no_grad():
        assert torch.equal(ours(x), y)


def test_first_and_second_derivatives() -> None:
    ours = layers()[0].double()
    x = drawn(2, 4, 3, 6).requires_grad_()

    def way(x: Tensor, weight: Tensor) -> Tensor:
        return torch.func.functional_call(ours, {"weight": weight}, (x,))

    weight = ours.weight.detach().requires_grad_()
    assert torch.autograd.gradcheck(way, (x, weight), fast_mode=True)
    assert torch.autograd.gradgradcheck(way, (x, weight), fast_mode=True)


def test_only_what_is_asked_for_is_computed() -> None:
    ours, _ = layers()
    x = drawn(2, 4, 6, 7, dtype=torch.float32)
    ours(x).sum().backward()
    assert ours.weight.grad is not None
    assert x.grad is None
    ours.weight.requires_grad_(False)
    (of_x,) = torch.autograd.grad(ours(x.requires_grad_()).sum(), x)
    assert of_x.abs().sum() > 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_in_half_precision_the_weights_gradient_is_summed_in_fp32(dtype: torch.dtype) -> None:
    ours, plain = layers(channels=16)
    errors = []
    for layer in (ours, plain):
        x = drawn(4, 16, 12, 12, dtype=torch.float32).requires_grad_()
        with torch.autocast("cpu", dtype=dtype):
            y = layer(x.to(dtype))
        assert y.dtype == dtype
        grad = drawn(4, 16, 12, 12, seed=1, dtype=torch.float32).to(dtype)
        y.backward(grad)
        want = own_gradients(grad, x.detach().to(dtype), layer.weight.detach().to(dtype))[1]
        assert layer.weight.grad is not None
        assert layer.weight.grad.dtype == torch.float32
        errors.append(((layer.weight.grad - want).abs().max() / want.abs().max()).item())
    assert errors[0] < 1e-5
    assert errors[0] < errors[1] / 10


@pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")
def test_transforms_see_torchs_own_convolution() -> None:
    ours, plain = layers()
    x = drawn(2, 4, 6, 7, dtype=torch.float32)
    weights: dict[str, Any] = {"weight": ours.weight.detach()}

    def summed(weights: dict[str, Any], layer: nn.Module, x: Tensor) -> Tensor:
        return torch.func.functional_call(layer, weights, (x,)).square().sum()

    found, want = (torch.func.grad(summed)(weights, layer, x)["weight"] for layer in (ours, plain))
    torch.testing.assert_close(found, want)
    each = torch.func.vmap(lambda image: ours(image[None])[0])(x)
    torch.testing.assert_close(each, plain(x))
    traced: Any = torch.jit.trace(ours, x)
    assert "_Convolution" not in str(traced.graph)
    torch.testing.assert_close(torch.compile(ours, backend="eager", fullgraph=True)(x), plain(x))
    tangent = torch.func.jvp(ours, (x,), (x,))[1]
    torch.testing.assert_close(tangent, plain(x))


def test_types_that_do_not_fit_are_torchs_error() -> None:
    with pytest.raises(RuntimeError, match="type"):
        layers()[0](drawn(1, 4, 5, 5))
