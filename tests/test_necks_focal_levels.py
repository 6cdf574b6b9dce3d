"""The fast way of gathering contexts against the plain one, which `parts` takes: values, gradients, memory, and its limits."""

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn import functional as F

from necklace.necks import FocalModulation, depthwise
from necklace.necks.focal_levels import aggregated
from tests.test_necks_focal import DW_CONVNET, redraw

LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


@pytest.fixture(scope="module", autouse=True)
def _small_maps_too() -> Iterator[None]:
    """By the fast way, which leaves them to torch otherwise."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(depthwise, "LEAST", 0)
        yield


OTHER: list[dict[str, Any]] = [
    {"gating": False},
    {"aggregate": "top"},
    {"context": "avg_pool"},
    {"context": "none"},
    DW_CONVNET,
]


def drawn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def neck(channels: int = 6, *, dtype: torch.dtype = torch.float64, **options: Any) -> FocalModulation:
    module = FocalModulation(channels, **options)
    redraw(module)
    return module.to(dtype)


def plain(module: FocalModulation, x: Tensor) -> Tensor:
    query, _, _, modulator = module.parts(x)
    if query is None:
        return module.proj(module.ln(module.q(F.gelu(modulator))))
    return module.proj(module.ln(query * modulator if module.interaction == "multiply" else query + modulator))


def results(module: FocalModulation, way: Callable[[Tensor], Tensor], x: Tensor, grad: Tensor) -> list[Tensor]:
    """Output, and the gradients of the input and of each weight."""
    x = x.detach().requires_grad_()
    y = way(x)
    return [y.detach(), *torch.autograd.grad(y, (x, *module.parameters()), grad)]


def assert_close(found: list[Tensor], want: list[Tensor], tolerance: float) -> None:
    for one, two in zip(found, want, strict=True):
        assert (one - two).abs().max() <= tolerance * two.abs().max().clamp(min=1), (one.shape, (one - two).abs().max())


def level(module: FocalModulation, number: int) -> Any:
    return module.focal_layers[number]


def is_fast(module: FocalModulation, x: Tensor) -> bool:
    _, z, gates = module._project(x)
    chosen: Any = module._chosen()
    y = aggregated(z, gates, module.focal_layers, recompute=module.recompute, **chosen)
    return y.grad_fn is not None and "_Levels" in y.grad_fn.name()


def finished_is_fast(module: FocalModulation, x: Tensor) -> bool:
    """Whether the levels beside a finished global context come from the function: they are added to it."""
    _, z, gates = module._project(x)
    chosen: Any = module._chosen() | {"recompute": module.recompute, "finish": module._finish}
    y: Any = aggregated(z, gates, module.focal_layers, **chosen)
    return "_Levels" in y.grad_fn.next_functions[0][0].name()


def saved_bytes(module: FocalModulation, x: Tensor) -> int:
    """Bytes that are kept for backward, beside input and weights; each memory counts once."""
    given = {tensor.untyped_storage().data_ptr() for tensor in (x, *module.parameters())}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in given:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        y = module(x)
    assert y.requires_grad
    return sum(kept.values())


@given(
    kernels=st.lists(st.sampled_from([1, 3, 5, 7, 9, 13]), min_size=1, max_size=4),
    shape=st.tuples(st.integers(1, 3), st.integers(1, 9), st.integers(1, 9), st.integers(1, 9)),
    layouts=st.tuples(*[st.sampled_from(list(LAYOUTS))] * 2),
    dtype=st.sampled_from([torch.float64, torch.float32]),
    options=st.fixed_dictionaries(
        {
            "global_context": st.booleans(),
            "recompute": st.booleans(),
            "normalize_modulator": st.booleans(),
            "use_postln_in_modulation": st.booleans(),
            "bias": st.booleans(),
            "interaction": st.sampled_from(["multiply", "add"]),
        }
    ),
    finished=st.sampled_from(
        [{}, {}, {"global_scale": 144}, {"global_norm": "batch"}, {"global_norm": "batch", "global_scale": 2}]
    ),
    training=st.booleans(),
)
@settings(max_examples=80, deadline=None)
def test_outputs_and_gradients_are_those_of_the_plain_form(
    kernels: list[int],
    shape: tuple[int, int, int, int],
    layouts: tuple[str, str],
    dtype: torch.dtype,
    options: dict[str, Any],
    finished: dict[str, Any],
    training: bool,
) -> None:
    # A norm over the batch needs two images, and passes rounding on many times larger where these are nearly equal.
    finished = finished if options["global_context"] and (shape[0] > 1 or "global_norm" not in finished) else {}
    module = neck(shape[1], kernels=kernels, ln_eps=0.1, dtype=dtype, **options, **finished).train(training)
    if module.context_norm is not None:
        module.context_norm.eps = 0.1
    x = drawn(*shape, dtype=dtype).contiguous(memory_format=LAYOUTS[layouts[0]])
    grad = drawn(*shape, seed=1, dtype=dtype).contiguous(memory_format=LAYOUTS[layouts[1]])
    assert finished_is_fast(module, x) if finished else is_fast(module, x)
    tolerance = 1e-12 if dtype == torch.float64 else 1e-5
    want = results(module, lambda x: plain(module, x), x, grad)
    assert_close(results(module, module, x, grad), want, tolerance)
    with torch.no_grad():
        assert_close([module(x)], want[:1], tolerance)
    with torch.inference_mode():
        assert_close([module(x)], want[:1], tolerance)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_larger_layer_in_fp32(layout: str) -> None:
    torch.manual_seed(0)
    module = FocalModulation(64, focal_level=3, focal_window=5)
    x = drawn(4, 64, 20, 20, dtype=torch.float32).contiguous(memory_format=LAYOUTS[layout])
    grad = drawn(4, 64, 20, 20, seed=1, dtype=torch.float32)
    exact = copy.deepcopy(module).double()
    want = results(exact, lambda x: plain(exact, x), x.double(), grad.double())
    found = results(module, module, x, grad)
    for one, two in zip(found, want, strict=True):
        assert (one - two).abs().max() <= 1e-5 * two.abs().max()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("o", [{}, {"kernels": [5, 9, 3]}, {"global_context": False}, *OTHER], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_recompute_changes_no_bit_and_keeps_less(o: dict[str, Any], layout: str, dtype: torch.dtype) -> None:
    modules = [neck(19, recompute=recompute, dtype=torch.float32, **o) for recompute in (False, True)]
    x = drawn(2, 19, 7, 6, dtype=torch.float32).contiguous(memory_format=LAYOUTS[layout])
    grad = drawn(2, 19, 7, 6, seed=1, dtype=torch.float32)
    found = []
    for module in modules:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
            assert is_fast(module, x) == (o not in OTHER)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
            way = results(module, lambda x, module=module: module(x).float(), x, grad)
        found.append(way)
    for one, two in zip(*found, strict=True):
        assert torch.equal(one, two)
    x.requires_grad_()
    kept, less = (saved_bytes(module, x) for module in modules)
    assert less < kept


def test_what_is_kept() -> None:
    """In maps of the input's size: plain 9 (of timm as well), fast 7, recomputed 5; the gates and means add little."""
    x = drawn(2, 32, 20, 20, dtype=torch.float32).requires_grad_()
    fast, less = (saved_bytes(neck(32, recompute=recompute, dtype=torch.float32), x) for recompute in (False, True))
    size = x.numel() * x.element_size()
    assert fast / size == pytest.approx(7, abs=0.2)
    assert less / size == pytest.approx(5, abs=0.2)


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("global_context", [False, True])
def test_second_derivatives(recompute: bool, global_context: bool) -> None:
    module = neck(3, kernels=[5, 3], recompute=recompute, global_context=global_context)
    x = drawn(2, 3, 4, 5).requires_grad_()
    names, weights = zip(*module.named_parameters(), strict=True)

    def way(x: Tensor, *weights: Tensor) -> Tensor:
        return torch.func.functional_call(module, dict(zip(names, weights, strict=True)), (x,))

    assert is_fast(module, x)
    assert torch.autograd.gradcheck(way, (x, *weights), fast_mode=True)
    assert torch.autograd.gradgradcheck(way, (x, *weights), fast_mode=True)


@pytest.mark.parametrize("options", [{}, {"global_norm": "batch", "global_scale": 2}])
def test_a_gradient_penalty_is_that_of_the_plain_form(options: dict[str, Any]) -> None:
    module = neck(4, kernels=[5, 3], dtype=torch.float64, **options).eval()
    found = []
    for way in (module, lambda x: plain(module, x)):
        x = drawn(2, 4, 6, 5).requires_grad_()
        (of_x,) = torch.autograd.grad(way(x).square().sum(), x, create_graph=True)
        found.append(torch.autograd.grad(of_x.square().sum(), (x, *module.parameters()), allow_unused=True))
    for one, two in zip(*found, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("frozen", ["f", "focal_layers.0", "focal_layers", ""])
def test_frozen_parts_get_no_gradient(frozen: str) -> None:
    module = neck(kernels=[5, 3])
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(not name.startswith(frozen) if frozen else False)
    x = drawn(2, 6, 5, 5).requires_grad_(frozen != "f")
    wanted = [tensor for tensor in (x, *module.parameters()) if tensor.requires_grad]
    found, want = (torch.autograd.grad(way(x).square().sum(), wanted) for way in (module, lambda x: plain(module, x)))
    assert_close(list(found), list(want), 1e-12)


@pytest.mark.parametrize("options", [{}, {"global_norm": "batch", "global_scale": 2}])
@pytest.mark.parametrize("recompute", [False, True])
def test_autocast_is_as_near_to_fp32_as_the_plain_form(recompute: bool, options: dict[str, Any]) -> None:
    module = neck(16, kernels=[3, 7], recompute=recompute, dtype=torch.float32, **options)
    x, grad = (drawn(3, 16, 9, 9, seed=seed, dtype=torch.float32) for seed in (0, 1))
    exact = copy.deepcopy(module).double()
    want = results(exact, lambda x: plain(exact, x), x.double(), grad.double())
    errors = []
    for way in (module, lambda x: plain(module, x)):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = results(module, lambda x, way=way: way(x).float(), x, grad)
        assert all(tensor.dtype == torch.float32 for tensor in found)
        errors.append([((one - two).norm() / two.norm()).item() for one, two in zip(found, want, strict=True)])
    assert all(one <= 1.3 * two + 1e-3 for one, two in zip(*errors, strict=True)), errors
    assert max(errors[0]) < 0.05


def test_hooks_on_a_level_are_heard() -> None:
    module = neck(dtype=torch.float32)
    x = drawn(1, 6, 5, 5, dtype=torch.float32)
    for layer in (level(module, 0), level(module, 1)[0], level(module, 1)[1]):
        heard: list[nn.Module] = []
        for register in (layer.register_forward_hook, layer.register_forward_pre_hook):
            handle = register(lambda module, *_, heard=heard: heard.append(module))
            module(x)
            handle.remove()
        assert heard == [layer, layer]
        assert is_fast(module, x)


def test_a_level_that_somebody_replaced_is_used() -> None:
    module = neck(dtype=torch.float32)
    x = drawn(1, 6, 5, 5, dtype=torch.float32)
    nn.utils.parametrizations.weight_norm(level(module, 0)[0])
    level(module, 1)[1] = nn.ReLU()
    assert not is_fast(module, x)
    torch.testing.assert_close(module(x), plain(module, x))
    level(module, 1)[1] = nn.GELU(approximate="tanh")
    torch.testing.assert_close(module(x), plain(module, x))


def test_recomputing_counts_a_batch_once() -> None:
    both: list[dict[str, Any]] = [{}, {"context": "avg_pool"}]
    for options in both:  # by the function, and by torch's checkpoint
        module = neck(recompute=True, global_norm="batch", dtype=torch.float32, **options)
        module(drawn(3, 6, 5, 5, dtype=torch.float32)).sum().backward()
        assert module.context_norm is not None
        assert module.context_norm.num_batches_tracked == 1


@pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")
@pytest.mark.parametrize("recompute", [False, True])
def test_transforms_see_the_plain_form(recompute: bool) -> None:
    module = neck(kernels=[5, 3], recompute=recompute, dtype=torch.float32)
    x = drawn(2, 6, 5, 7, dtype=torch.float32)
    want = plain(module, x)
    weights = {name: tensor.detach() for name, tensor in module.named_parameters()}

    def summed(weights: dict[str, Tensor]) -> Tensor:
        return torch.func.functional_call(module, weights, (x,)).square().sum()

    found = torch.func.grad(summed)(weights)
    for name, gradient in zip(weights, torch.autograd.grad(want.square().sum(), list(module.parameters())), strict=True):
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(torch.func.vmap(lambda image: module(image[None])[0])(x), want)
    traced: Any = torch.jit.trace(module, x[:1, :, :3])
    torch.testing.assert_close(traced(x), want)
    torch.testing.assert_close(torch.compile(module, backend="eager", fullgraph=True)(x), want)
    torch.testing.assert_close(torch.export.export(module, (x,)).module()(x), want)
    if not recompute:  # a checkpoint has no forward-mode derivative
        with forward_ad.dual_level():
            tangent = forward_ad.unpack_dual(module(forward_ad.make_dual(x, torch.ones_like(x)))).tangent
        same = torch.func.jvp(lambda x: plain(module, x), (x,), (torch.ones_like(x),))[1]
        torch.testing.assert_close(tangent, same, rtol=1e-4, atol=1e-5)


def test_backward_twice_and_a_changed_weight() -> None:
    module = neck(dtype=torch.float32)
    x = drawn(1, 6, 5, 5, dtype=torch.float32).requires_grad_()
    y = module(x).sum()
    (first,) = torch.autograd.grad(y, x, retain_graph=True)
    (second,) = torch.autograd.grad(y, x, retain_graph=True)
    assert torch.equal(first, second)
    with torch.no_grad():
        level(module, 0)[0].weight.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        torch.autograd.grad(y, x)


def test_small_maps_take_the_plain_form(monkeypatch: pytest.MonkeyPatch) -> None:
    module, x = neck(dtype=torch.float32), drawn(2, 6, 5, 5, dtype=torch.float32)
    assert is_fast(module, x)
    monkeypatch.setattr(depthwise, "LEAST", x.numel() + 1)
    assert not is_fast(module, x)
    torch.testing.assert_close(module(x), plain(module, x), rtol=0, atol=0)
