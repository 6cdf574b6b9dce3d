"""FocalModulation against timm, against plain-torch formulas, and at their error messages."""

import gc
import inspect
import weakref
from typing import Any

import pytest
import torch
from timm.models.focalnet import FocalModulation as TimmModulation
from torch import Tensor, nn
from torch.nn import functional as F

from necklace.necks import FocalBlock, FocalModulation

C = 6
DW_CONVNET: dict[str, Any] = {
    "interaction": "dw_convnet",
    "gating": False,
    "global_context": False,
    "aggregate": "top",
}


def maps(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def redraw(module: nn.Module, seed: int = 1) -> None:
    """Every parameter away from its start value (ones, zeros), so that none can be forgotten unseen."""
    generator = torch.Generator().manual_seed(seed)
    for p in module.parameters():
        p.data.uniform_(-0.5, 0.5, generator=generator)


# Kernels must be odd: an odd factor only where it builds no second level.
GEOMETRIES = [(w, level, 2) for w in (3, 5, 7) for level in range(5)] + [(w, level, 1) for w in (3, 5, 7) for level in (0, 1)]


@pytest.mark.parametrize(("window", "level", "factor"), GEOMETRIES)
@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("postln", [False, True])
def test_equals_timm(window: int, level: int, factor: int, normalize: bool, postln: bool) -> None:
    timm = TimmModulation(C, window, level, factor, use_post_norm=postln, normalize_modulator=normalize)
    redraw(timm)
    ours = FocalModulation(
        C,
        focal_window=window,
        focal_level=level,
        focal_factor=factor,
        use_postln_in_modulation=postln,
        normalize_modulator=normalize,
        ln_eps=1e-6,
    )
    ours.load_state_dict(timm.state_dict())
    x = maps(2, C, 5, 8).requires_grad_()
    t = x.detach().clone().requires_grad_()
    y, want = ours(x), timm(t)
    assert (y - want).abs().max() <= 1e-6
    weights = maps(*y.shape, seed=2)
    (y * weights).sum().backward()
    (want * weights).sum().backward()
    named = {name.replace("norm.", "ln."): p.grad for name, p in timm.named_parameters()}
    assert set(named) == {name for name, _ in ours.named_parameters()}
    torch.testing.assert_close(x.grad, t.grad, rtol=1e-5, atol=1e-6)
    for name, p in ours.named_parameters():
        torch.testing.assert_close(p.grad, named[name], rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (11, 2), (13, 13)])
def test_equals_timm_on_other_sizes(size: tuple[int, int]) -> None:
    timm = TimmModulation(C, 5, 3, use_post_norm=True)
    redraw(timm)
    ours = FocalModulation(C, focal_window=5, focal_level=3, use_postln_in_modulation=True, ln_eps=1e-6)
    ours.load_state_dict(timm.state_dict())
    x = maps(3, C, *size)
    assert (ours(x) - timm(x)).abs().max() <= 1e-6


def test_wrong_ln_eps_moves_the_output() -> None:
    # Small products, as at the start of training: their variance is what eps is added to.
    timm = TimmModulation(C, 3, 2, use_post_norm=True)
    redraw(timm)
    for p in timm.h.parameters():
        p.data.mul_(1e-2)
    right, wrong = (FocalModulation(C, use_postln_in_modulation=True, ln_eps=eps) for eps in (1e-6, 1e-5))
    for ours in (right, wrong):
        ours.load_state_dict(timm.state_dict())
    x = maps(2, C, 6, 6)
    assert (right(x) - timm(x)).abs().max() <= 1e-6
    assert (wrong(x) - timm(x)).abs().max() > 1e-2


def official_state(level: int, kernels: list[int], postln: bool) -> dict[str, Tensor]:
    """A state dict shaped like that of microsoft/FocalNet's module: Linear f and proj, LayerNorm `ln`."""
    shapes = {
        "f.weight": (2 * C + level + 1, C),
        "f.bias": (2 * C + level + 1,),
        "h.weight": (C, C, 1, 1),
        "h.bias": (C,),
    }
    shapes |= {"proj.weight": (C, C), "proj.bias": (C,)}
    shapes |= {f"focal_layers.{n}.0.weight": (C, 1, k, k) for n, k in enumerate(kernels)}
    shapes |= {"ln.weight": (C,), "ln.bias": (C,)} if postln else {}
    return {name: maps(*shape, seed=n) * 0.4 for n, (name, shape) in enumerate(shapes.items())}


def official_formula(s: dict[str, Tensor], x: Tensor, level: int, postln: bool, normalize: bool) -> Tensor:
    """The official module's computation on [B, H, W, C], written from its definition."""
    x = F.linear(x, s["f.weight"], s["f.bias"])
    q, ctx, gates = x[..., :C], x[..., C : 2 * C].permute(0, 3, 1, 2), x[..., 2 * C :].permute(0, 3, 1, 2)
    total = torch.zeros_like(ctx)
    for n in range(level):
        kernel = s[f"focal_layers.{n}.0.weight"]
        ctx = F.gelu(F.conv2d(ctx, kernel, padding=kernel.shape[-1] // 2, groups=C))
        total = total + ctx * gates[:, n : n + 1]
    total = total + F.gelu(ctx.mean(2, keepdim=True).mean(3, keepdim=True)) * gates[:, level:]
    total = total / (level + 1) if normalize else total
    y = q * F.conv2d(total, s["h.weight"], s["h.bias"]).permute(0, 2, 3, 1)
    y = F.layer_norm(y, (C,), s["ln.weight"], s["ln.bias"], eps=1e-5) if postln else y
    return F.linear(y, s["proj.weight"], s["proj.bias"])


@pytest.mark.parametrize("level", [0, 1, 3])
@pytest.mark.parametrize("postln", [False, True])
@pytest.mark.parametrize("prefix", ["", "model.neck."])
def test_official_weights_load(level: int, postln: bool, prefix: str) -> None:
    state = official_state(level, [3, 5, 7][:level], postln)
    x = maps(2, C, 4, 7)
    want = official_formula(state, x.permute(0, 2, 3, 1), level, postln, normalize=True).permute(0, 3, 1, 2)
    ours = FocalModulation(C, focal_level=level, use_postln_in_modulation=postln, normalize_modulator=True)
    root: nn.Module = ours
    for name in reversed(prefix.split(".")[:-1]):
        root = nn.ModuleDict({name: root})
    given = {prefix + name: value for name, value in state.items()}
    root.load_state_dict(given)
    torch.testing.assert_close(ours(x), want, rtol=1e-5, atol=1e-6)
    assert given[f"{prefix}f.weight"].ndim == 2, "the caller's dict is not ours to change"


def test_a_norm_that_we_lack_is_named() -> None:
    timm = TimmModulation(C, 3, 2, use_post_norm=True)
    with pytest.raises(RuntimeError, match=r"Unexpected key.*norm\.weight"):
        FocalModulation(C).load_state_dict(timm.state_dict())


def test_names_are_the_official_ones() -> None:
    ours = FocalModulation(C, use_postln_in_modulation=True)
    assert set(ours.state_dict()) == set(official_state(2, [3, 5], postln=True))


@pytest.mark.parametrize("level", range(5))
def test_parameters_at_512(level: int) -> None:
    want = [1_051_137, 1_056_258, 1_069_571, 1_095_172, 1_137_157][level]
    assert sum(p.numel() for p in FocalModulation(512, focal_level=level).parameters()) == want


def average(x: Tensor, k: int) -> Tensor:
    """Mean over the part of the window that lies inside the map, with F.conv2d on ones."""
    ones = torch.ones(x.shape[1], 1, k, k)
    count = F.conv2d(torch.ones_like(x), ones, padding=k // 2, groups=x.shape[1])
    return F.conv2d(x, ones, padding=k // 2, groups=x.shape[1]) / count


def ablation_formula(m: FocalModulation, x: Tensor, o: dict[str, Any]) -> Tensor:
    """Every ablation option in plain torch, on the weights of `m`."""
    s = m.state_dict()
    kernels = o.get("kernels", [3, 5, 7])
    y = F.conv2d(x, s["f.weight"], s["f.bias"])
    dw = o.get("interaction") == "dw_convnet"
    q, z, gates = (None, y, y[:, :0]) if dw else (y[:, :C], y[:, C : 2 * C], y[:, 2 * C :])
    levels = []
    for n, k in enumerate(kernels):
        if o.get("context") == "avg_pool":
            z = average(z, k)
        elif o.get("context") != "none":
            z = F.conv2d(z, s[f"focal_layers.{n}.0.weight"], padding=k // 2, groups=C)
        z = F.gelu(z)
        levels.append(z)
    used = levels[-1:] if o.get("aggregate") == "top" else levels
    if o.get("global_context", True):
        context = F.gelu(o.get("global_scale", 1) * z.mean((2, 3), keepdim=True))
        if o.get("global_norm") == "batch":
            context = (context - context.mean(0)) / (context.var(0, unbiased=False) + 1e-5).sqrt()
            context = context * s["context_norm.weight"][:, None, None] + s["context_norm.bias"][:, None, None]
        used = [*used, context.expand_as(z)]
    if o.get("gating", True):
        assert gates.shape[1] == len(used)
        used = [c * gates[:, n, None] for n, c in enumerate(used)]
    total = torch.stack(used).sum(0)
    total = total / len(used) if o.get("normalize_modulator") else total
    modulator = F.conv2d(total, s["h.weight"], s["h.bias"])
    if dw:
        y = F.conv2d(F.gelu(modulator), s["q.weight"], s["q.bias"])
    else:
        assert q is not None
        y = q + modulator if o.get("interaction") == "add" else q * modulator
    if o.get("use_postln_in_modulation"):
        y = F.layer_norm(y.permute(0, 2, 3, 1), (C,), s["ln.weight"], s["ln.bias"]).permute(0, 3, 1, 2)
    return F.conv2d(y, s["proj.weight"], s["proj.bias"])


ABLATIONS: list[dict[str, Any]] = [
    {},
    {"kernels": [13]},
    {"kernels": [3, 7, 3]},
    {"gating": False},
    {"global_context": False},
    {"aggregate": "top"},
    {"aggregate": "top", "global_context": False},
    {"aggregate": "top", "gating": False},
    {"interaction": "add"},
    {"interaction": "add", "use_postln_in_modulation": True},
    {"context": "avg_pool"},
    {"context": "avg_pool", "kernels": [13, 3]},
    {"context": "none"},
    {"context": "none", "gating": False, "global_context": False},
    {"gating": False, "global_context": False, "normalize_modulator": True},
    {"global_context": False, "normalize_modulator": True},
    {"aggregate": "top", "normalize_modulator": True},
    {"global_scale": 144},
    {"global_norm": "batch"},
    {"global_norm": "batch", "global_scale": 0.5, "gating": False},
    {"global_norm": "batch", "global_scale": 2.0, "aggregate": "top"},
    DW_CONVNET,
    {**DW_CONVNET, "kernels": [13], "use_postln_in_modulation": True},
]


def build(o: dict[str, Any]) -> FocalModulation:
    m = FocalModulation(C, **({} if "kernels" in o else {"focal_level": 3}), **o)
    redraw(m)
    return m


@pytest.mark.parametrize("o", ABLATIONS, ids=str)
@pytest.mark.parametrize("size", [(1, 1), (6, 9)])
def test_ablations_equal_their_formula(o: dict[str, Any], size: tuple[int, int]) -> None:
    m = build(o)
    x = maps(2, C, *size)
    torch.testing.assert_close(m(x), ablation_formula(m, x, o), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("gating", [True, False])
def test_global_context_alone(gating: bool) -> None:
    m = FocalModulation(C, focal_level=0, gating=gating)
    redraw(m)
    x = maps(2, C, 3, 4)
    s = m.state_dict()
    y = F.conv2d(x, s["f.weight"], s["f.bias"])
    ctx = F.gelu(y[:, C : 2 * C].mean((2, 3), keepdim=True)) * (y[:, 2 * C :] if gating else torch.ones(2, 1, 3, 4))
    want = F.conv2d(y[:, :C] * F.conv2d(ctx, s["h.weight"], s["h.bias"]), s["proj.weight"], s["proj.bias"])
    torch.testing.assert_close(m(x), want, rtol=1e-5, atol=1e-6)
    assert m.context_names == ("global",)


def test_without_context_no_position_sees_another() -> None:
    m = build({"context": "none", "global_context": False})
    x = maps(1, C, 5, 5)
    changed = x.clone()
    changed[:, :, 1, 4] += 1
    assert (m(x) != m(changed)).any(dim=1)[0].nonzero().tolist() == [[1, 4]]


def test_dw_convnet_has_four_linear_layers() -> None:
    m = FocalModulation(C, kernels=[13], bias=False, **DW_CONVNET)
    assert sum(p.numel() for p in m.parameters()) == 4 * C * C + 13 * 13 * C + C  # the last is proj's bias


@pytest.mark.parametrize("o", [*ABLATIONS, {"kernels": None, "focal_level": 0}], ids=str)
def test_parts_recombine_to_forward(o: dict[str, Any]) -> None:
    m = FocalModulation(C, **o)
    redraw(m)
    x = maps(2, C, 4, 5)
    query, contexts, gates, modulator = m.parts(x)
    assert len(contexts) == len(m.context_names)
    assert [c.shape[2:] == (1, 1) for c in contexts] == [name == "global" for name in m.context_names]
    assert modulator.shape == x.shape
    if gates is None:
        total = torch.stack([c.expand_as(x) for c in contexts]).sum(0)
    else:
        assert gates.shape == (2, len(contexts), 4, 5)
        total = torch.stack([c * gates[:, n, None] for n, c in enumerate(contexts)]).sum(0)
    if m.normalize_modulator:
        total = total / len(contexts)
    torch.testing.assert_close(m.h(total), modulator, rtol=1e-5, atol=1e-6)
    if query is None:
        y = m.q(F.gelu(modulator))
    else:
        y = query * modulator if m.interaction == "multiply" else query + modulator
    torch.testing.assert_close(m.proj(m.ln(y)), m(x), rtol=1e-5, atol=1e-6)


def test_context_names() -> None:
    assert FocalModulation(C).context_names == ("level1 k3", "level2 k5", "global")
    assert FocalModulation(C, kernels=[13], global_context=False).context_names == ("level1 k13",)
    assert FocalModulation(C, focal_level=3, aggregate="top").context_names == ("level3 k7", "global")
    assert FocalModulation(C, context="none").context_names == ("level1", "level2", "global")


@pytest.mark.parametrize("o", ABLATIONS, ids=str)
def test_nothing_stays_alive(o: dict[str, Any]) -> None:
    m = build(o)
    x = maps(2, C, 4, 4)
    refs = []
    for layer in m.modules():
        layer.register_forward_hook(lambda _, __, output: refs.append(weakref.ref(output)))
    before = {name: set(vars(layer)) for name, layer in m.named_modules()}
    y, parts = m(x), m.parts(x)
    refs += [weakref.ref(t) for t in (parts.query, *parts.contexts, parts.gates, parts.modulator) if t is not None]
    assert len(refs) > 10
    assert refs[-1]() is parts.modulator
    del y, parts
    gc.collect()
    assert not [ref() for ref in refs if ref() is not None]
    assert {name: set(vars(layer)) for name, layer in m.named_modules()} == before


def test_proj_drop_is_at_the_end() -> None:
    m = FocalModulation(C, proj_drop=0.5)
    x = maps(2, C, 8, 8)
    dropped, kept = m(x), m.eval()(x)
    zero = dropped == 0
    assert 0.3 < zero.float().mean() < 0.7
    torch.testing.assert_close(dropped[~zero], 2 * kept[~zero])


def test_kernels_may_agree_with_the_three_options() -> None:
    a = FocalModulation(C, kernels=[5, 9, 13], focal_window=5, focal_level=3, focal_factor=4)
    assert a.kernels == (5, 9, 13)
    assert FocalModulation(C, kernels=(3, 3)).kernels == (3, 3)
    assert FocalModulation(C, focal_window=7, focal_level=3, focal_factor=0).kernels == (7, 7, 7)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"channels": 0}, ["channels=0", ">= 1"]),
        ({"channels": 8.0}, ["channels=8.0", "integers"]),
        ({"out_channels": 16}, ["out_channels=16", "channels (8)"]),
        ({"focal_window": 0}, ["focal_window=0", ">= 1"]),
        ({"focal_window": True}, ["focal_window=True", "integers"]),
        ({"focal_window": "3"}, ["focal_window='3'", "integers"]),
        ({"focal_window": 4}, ["focal_window=4", "(4, 6)", "odd"]),
        ({"focal_level": -1}, ["focal_level=-1", ">= 0"]),
        ({"focal_level": 2.0}, ["focal_level=2.0", "integers"]),
        ({"focal_level": None}, ["focal_level=None", "integers"]),
        ({"focal_factor": 1}, ["focal_factor=1", "(3, 4)", "even focal_factor"]),
        ({"focal_factor": -2}, ["focal_factor=-2", ">= 0"]),
        ({"kernels": [3, 4]}, ["kernels=[3, 4]", "odd"]),
        ({"kernels": []}, ["kernels=[]", "non-empty"]),
        ({"kernels": 13}, ["kernels=13", "lists"]),
        ({"kernels": "13"}, ["kernels='13'", "lists"]),
        ({"kernels": [3, 7], "focal_window": 5}, ["focal_window=5", "kernels=[3, 7]", "allowed is 3"]),
        ({"kernels": [3, 7], "focal_level": 3}, ["focal_level=3", "kernels=[3, 7]", "allowed is 2"]),
        ({"kernels": [3, 7, 13], "focal_factor": 4}, ["focal_factor=4", "kernels=[3, 7, 13]", "allowed is 2"]),
        ({"kernels": [3], "context": "none"}, ["kernels=[3]", "context='none'", "null"]),
        ({"bias": 1}, ["bias=1", "true and false"]),
        ({"gating": "false"}, ["gating='false'", "true and false"]),
        ({"global_context": None}, ["global_context=None", "true and false"]),
        ({"normalize_modulator": 0}, ["normalize_modulator=0", "true and false"]),
        ({"use_postln_in_modulation": "yes"}, ["use_postln_in_modulation='yes'", "true and false"]),
        ({"proj_drop": 1.0}, ["proj_drop=1.0", ">= 0", "< 1"]),
        ({"proj_drop": -0.1}, ["proj_drop=-0.1", ">= 0"]),
        ({"proj_drop": float("nan")}, ["proj_drop=nan", ">= 0"]),
        ({"proj_drop": True}, ["proj_drop=True", "numbers"]),
        ({"ln_eps": 0.0}, ["ln_eps=0.0", "> 0"]),
        ({"ln_eps": "1e-5"}, ["ln_eps='1e-5'", "numbers"]),
        ({"aggregate": "last"}, ["aggregate='last'", "all, top"]),
        ({"interaction": "sum"}, ["interaction='sum'", "multiply, add, dw_convnet"]),
        ({"context": None}, ["context=None", "conv, avg_pool, none"]),
        ({"global_norm": "layer"}, ["global_norm='layer'", "none, batch"]),
        ({"global_scale": 0}, ["global_scale=0", "> 0"]),
        ({"global_norm": "batch", "global_context": False}, ["global_norm='batch'", "global_context=False", "none"]),
        ({"global_scale": 2.0, "global_context": False}, ["global_scale=2.0", "global_context=False", "1"]),
        ({"focal_level": 0, "global_context": False}, ["global_context=False", "focal_level=0"]),
        ({"focal_level": 0, "aggregate": "top"}, ["aggregate='top'", "focal_level=0"]),
        ({"interaction": "dw_convnet"}, ["gating=True", "global_context=True", "aggregate='all'"]),
        ({**DW_CONVNET, "context": "avg_pool"}, ["interaction='dw_convnet'", "context='avg_pool'", "'conv'"]),
        ({**DW_CONVNET, "gating": True}, ["interaction='dw_convnet'", "gating=True", "False"]),
        ({**DW_CONVNET, "focal_level": 0}, ["focal_level=0", "global_context=False"]),
    ],
    ids=str,
)
@pytest.mark.parametrize("neck", [FocalModulation, FocalBlock])
def test_errors(neck: type, options: dict, words: list[str]) -> None:
    with pytest.raises(ValueError) as error:  # noqa: PT011 (the words are looked for below)
        neck(**{"channels": 8, **options})
    assert all(word in str(error.value) for word in words), str(error.value)


def test_defaults_of_the_three_options_stand_in_one_place() -> None:
    # _level_kernels compares with these defaults to find a contradiction.
    signature = inspect.signature(FocalModulation).parameters
    assert [signature[f"focal_{n}"].default for n in ("window", "level", "factor")] == [3, 2, 2]


def test_global_norm_adds_two_parameters_a_channel_and_draws_nothing() -> None:
    states = []
    for norm in ("none", "batch"):
        torch.manual_seed(0)
        states.append(FocalModulation(C, global_norm=norm).state_dict())
    assert all(torch.equal(states[1][name], value) for name, value in states[0].items())
    assert sum(p.numel() for p in FocalModulation(C, global_norm="batch").parameters()) == 2 * C + sum(
        p.numel() for p in FocalModulation(C).parameters()
    )


def test_global_norm_in_evaluation_uses_what_training_has_seen() -> None:
    m = build({"global_norm": "batch", "global_scale": 3.0})
    x = maps(4, C, 6, 9)
    z = m._project(x)[1]
    for layer in m.focal_layers:
        z = layer(z)
    seen = F.gelu(3.0 * z.mean((2, 3), keepdim=True)).detach()
    m.parts(x)  # looking does not count
    assert m.context_norm is not None
    assert m.context_norm.num_batches_tracked == 0
    m(x)
    mean, variance = 0.1 * seen.mean(0), 0.9 + 0.1 * seen.var(0)
    torch.testing.assert_close(m.context_norm.running_mean, mean.flatten(), rtol=1e-4, atol=1e-6)
    m.eval()
    weight, bias = (p[:, None, None] for p in (m.context_norm.weight, m.context_norm.bias))
    want = (seen - mean) / (variance + 1e-5).sqrt() * weight + bias
    torch.testing.assert_close(m.parts(x).contexts[-1], want, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(m(x[:1]), m(x)[:1], rtol=1e-4, atol=1e-5)


def test_a_training_step_of_one_image_is_a_clear_error() -> None:
    with pytest.raises(ValueError, match="global_norm='batch': a training step of one image"):
        FocalModulation(C, global_norm="batch")(maps(1, C, 4, 4))
