import math
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import timm.models.focalnet as timm_focalnet
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from necklace.diagnostics.focal import GateWatch, context_names, focal_layers, focal_parts
from necklace.diagnostics.gate_stats import BINS, DEAD, EDGES, LayerGates, _bins, even_bins, quantile, share_below
from necklace.necks import FocalBlock, FocalModulation

CLASSES = ("ant", "bee", "cat")
SIZES = ((12, 12), (12, 12), (12, 12), (8, 14), (6, 6))
COUNTS = (5, 5, 3, 4, 1)  # the last batch of 12x12 is not full
EXACT = ("mean", "sd", "min", "max", "negative", "mass", "entropy", "contribution", "contribution_share")
LAYERS: dict[str, Callable[[], nn.Module]] = {
    "default": lambda: FocalModulation(8),
    "three levels, normalised": lambda: FocalModulation(8, focal_level=3, normalize_modulator=True),
    "no local level": lambda: FocalModulation(8, focal_level=0),
    "no global context": lambda: FocalModulation(8, global_context=False),
    "one context": lambda: FocalModulation(8, focal_level=1, global_context=False),
    "no gating": lambda: FocalModulation(8, gating=False),
    "global alone, no gating": lambda: FocalModulation(8, focal_level=0, gating=False),
    "top": lambda: FocalModulation(8, aggregate="top"),
    "add": lambda: FocalModulation(8, interaction="add", context="avg_pool"),
    "dw_convnet": lambda: FocalModulation(
        8, interaction="dw_convnet", gating=False, global_context=False, aggregate="top", use_postln_in_modulation=True
    ),
    "block": lambda: FocalBlock(8),
    "timm": lambda: timm_focalnet.FocalModulation(8, focal_window=3, focal_level=2, normalize_modulator=True),
}


def batches(multilabel: bool = False) -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(3)
    made = []
    for (height, width), count in zip(SIZES, COUNTS, strict=True):
        images = torch.randn(count, 3, height, width, generator=generator) * 3
        labels = torch.randint(0, 2, (count,), generator=generator)  # no cat: a class without an image has no row
        if multilabel:
            labels = torch.randint(-1, 2, (count, len(CLASSES)), generator=generator, dtype=torch.int8)
        made.append((images, labels))
    return made


def network(layer: Callable[[], nn.Module]) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1), layer()).eval()


def watched(model: nn.Module, data: Sequence[tuple[torch.Tensor, torch.Tensor]], **references: float) -> dict[str, LayerGates]:
    with GateWatch(model, len(CLASSES), references) as watch, torch.no_grad():
        for images, labels in data:
            watch.batch(images, labels)
            model(images)
    return watch.layers


def stored(model: nn.Module, layer: nn.Module, data: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> list[dict[str, Any]]:
    """Each image by itself: its gates, contributions [n, positions], classes and size, from activations that are kept."""
    images = []
    for x, labels in data:
        kept: list[torch.Tensor] = []
        hook = layer.register_forward_hook(lambda module, args, output, kept=kept: kept.append(args[0]))
        with torch.no_grad():
            model(x)
            parts = focal_parts(layer, kept[0])
        hook.remove()
        for index in range(len(x)):
            height, width = (parts.contexts[0] if parts.gates is None else parts.gates).shape[2:]
            gates = None if parts.gates is None else parts.gates[index].double().numpy().reshape(-1, height * width)
            contributions = []
            for n, context in enumerate(parts.contexts):
                gate = 1.0 if parts.gates is None else parts.gates[index, n].double().numpy()
                norm = np.sqrt(((context[index].double().numpy() * gate) ** 2).sum(0))
                contributions.append(np.broadcast_to(norm, (height, width)).flatten())
            present = {labels[index].item()} if labels.ndim == 1 else set((labels[index] == 1).nonzero().flatten().tolist())
            images.append(
                {"gates": gates, "contributions": np.stack(contributions), "classes": present, "size": tuple(x.shape[2:])}
            )
    return images


def brute_force(images: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The statistics of each context, by plain numpy over all positions at once."""
    contributions = np.concatenate([image["contributions"] for image in images], 1)
    mean = contributions.mean(1)
    rows: list[dict[str, Any]] = [
        {"contribution": mean[n], "contribution_share": mean[n] / mean.sum(), "count": contributions.shape[1]}
        for n in range(len(mean))
    ]
    if images[0]["gates"] is None:
        return rows
    gates = np.concatenate([image["gates"] for image in images], 1)
    size = np.abs(gates)
    shares = size / size.sum(0)
    entropy = -(shares * np.log(shares)).sum(0).mean()
    for n, row in enumerate(rows):
        row |= {"mean": gates[n].mean(), "sd": gates[n].std(), "min": gates[n].min(), "max": gates[n].max()}
        row |= {"negative": (gates[n] < 0).mean(), "mass": size[n].sum() / size.sum(), "entropy": entropy, "values": gates[n]}
    return rows


def splits(images: Sequence[dict[str, Any]]) -> Iterator[tuple[str, str, list[dict[str, Any]]]]:
    yield "all", "", list(images)
    for number, name in enumerate(CLASSES):
        yield "class", name, [image for image in images if number in image["classes"]]
    for height, width in sorted({image["size"] for image in images}):
        yield "size", f"{height}x{width}", [image for image in images if image["size"] == (height, width)]


def assert_within_bin(found: float, values: np.ndarray, q: float) -> None:
    exact = np.quantile(values, q, method="inverted_cdf")
    assert abs(found - exact) <= max(abs(exact) / 16, 2.0**-24)


@pytest.mark.parametrize("multilabel", [False, True])
@pytest.mark.parametrize("name", LAYERS)
def test_statistics_equal_brute_force_over_stored_activations(name: str, multilabel: bool) -> None:
    model, data = network(LAYERS[name]), batches(multilabel)
    ((layer_name, layer),) = focal_layers(model).items()
    reference = 20.0  # makes a good part of the gates "dead"
    found = watched(model, data, **{layer_name: reference})[layer_name].rows(CLASSES)
    images = stored(model, layer, data)
    expected = [(split, value, own) for split, value, own in splits(images) if own]
    assert [(row["split"], row["value"]) for row in found[:: len(context_names(layer))]] == [e[:2] for e in expected]
    assert ("cat" in {row["value"] for row in found}) == multilabel
    rows = iter(found)
    for _, _, own in expected:
        for context, brute in zip(context_names(layer), brute_force(own), strict=True):
            row = next(rows)
            assert row["context"] == context
            assert (row["images"], row["count"], row["nonfinite"]) == (len(own), brute["count"], 0)
            for figure in EXACT:
                assert row[figure] == (pytest.approx(brute[figure], rel=1e-5, abs=1e-7) if figure in brute else None), figure
            if "values" in brute:
                assert row["dead"] == pytest.approx((np.abs(brute["values"]) < DEAD * reference).mean(), abs=1e-12)
                for q in (5, 25, 50, 75, 95):
                    assert_within_bin(row[f"q{q:02}"], brute["values"], q / 100)
            else:
                assert row["dead"] is row["q50"] is None


def test_the_first_pass_measures_dead_gates_against_its_own_rms() -> None:
    model, data = network(lambda: FocalModulation(8, focal_level=1)), batches()
    layer = model.get_submodule("1")
    assert isinstance(layer, FocalModulation)
    with torch.no_grad():
        layer.f.weight[-1] *= 1e-5  # the global gate: all of it dead
        layer.f.bias[-1] = 0.0  # pyright: ignore[reportOptionalSubscript]
    first = watched(model, data)["1"]
    rms = math.sqrt(np.concatenate([image["gates"] for image in stored(model, layer, data)], 1).__pow__(2).mean())
    assert first.rms() == pytest.approx(rms, rel=1e-9)
    local, everywhere = [row["dead"] for row in first.rows(CLASSES)[:2]]
    assert everywhere == 1.0
    later = watched(model, data, **{"1": rms})["1"].rows(CLASSES)
    assert later[1]["dead"] == 1.0
    values = np.abs(np.concatenate([image["gates"][0] for image in stored(model, layer, data)]))
    assert (values < DEAD * rms * 15 / 16).mean() <= local <= (values < DEAD * rms * 17 / 16).mean()


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=40), st.sampled_from([0.0, 0.05, 0.3, 0.5, 0.95, 1.0]))
def test_bins_hold_their_values_and_quantiles_lie_in_the_right_one(numbers: list[float], q: float) -> None:
    values = torch.tensor(numbers, dtype=torch.float64)
    single = values.float().double().numpy()  # a double within a rounding of an edge may fall to either side of it
    bins = _bins(values).numpy()
    assert (single >= np.where(bins == 0, -np.inf, EDGES[bins])).all()
    assert (single <= np.where(bins == BINS - 1, np.inf, EDGES[bins + 1])).all()
    counts = np.bincount(bins, minlength=BINS)
    found = quantile(counts, q, single.min(), single.max())
    exact = np.quantile(single, q, method="inverted_cdf")
    if abs(exact) < 2.0**16:
        assert abs(found - exact) <= max(abs(exact) / 16, 2.0**-23)
    assert single.min() <= found <= single.max()
    magnitude = float(EDGES[700])
    assert share_below(counts, magnitude) == pytest.approx(((bins >= BINS - 700) & (bins < 700)).mean(), abs=1e-12)


def test_edges_are_a_sixteenth_of_an_octave_apart() -> None:
    positive = EDGES[len(EDGES) // 2 :]
    assert (positive[0], positive[-1]) == (2.0**-24, 2.0**16)
    assert all(0.03 < b / a - 1 <= 1 / 16 for a, b in pairwise(positive))


@pytest.mark.parametrize("multilabel", [False, True])
def test_the_states_of_two_ranks_merge_to_that_of_one(multilabel: bool) -> None:
    model, data = network(lambda: FocalModulation(8)), batches(multilabel)
    whole = watched(model, data, **{"1": 0.5})["1"]
    # Images go round the ranks, and one of them never sees an image of 6x6.
    parts = [[(x[rank::2], y[rank::2]) for x, y in data if len(x) > rank] for rank in (0, 1)]
    first, second = (watched(model, part, **{"1": 0.5})["1"] for part in parts)
    assert "6x6" not in {row["value"] for row in second.rows(CLASSES)}
    second.merge(first)
    for mine, one in zip(second.rows(CLASSES), whole.rows(CLASSES), strict=True):
        assert mine.keys() == one.keys()
        for name in one:
            assert mine[name] == (pytest.approx(one[name], rel=1e-5) if isinstance(one[name], float) else one[name]), name
    for mine, one in zip(second.histograms().values(), whole.histograms().values(), strict=True):
        assert mine.sum() == one.sum()


def test_hand_set_weights_have_the_mass_that_the_formula_gives() -> None:
    gates, context = [3.0, -1.0, 0.5], 2.0
    layer = FocalModulation(4, context="none")
    with torch.no_grad():
        layer.f.weight.zero_()
        layer.f.bias.copy_(torch.tensor([0.0] * 4 + [context] * 4 + gates))  # pyright: ignore[reportOptionalMemberAccess]
    with GateWatch(layer, 1) as watch, torch.no_grad():
        watch.batch(torch.zeros(2, 3, 6, 6), torch.zeros(2, dtype=torch.long))
        layer(torch.randn(2, 4, 3, 3))
    rows = watch.layers[""].rows(["thing"])[:3]
    shares = [3 / 4.5, 1 / 4.5, 0.5 / 4.5]
    gelu: Callable[[float], float] = lambda x: x * 0.5 * (1 + math.erf(x / math.sqrt(2)))  # noqa: E731
    levels = [gelu(context), gelu(gelu(context)), gelu(gelu(gelu(context)))]
    norms = [abs(gate) * level * math.sqrt(4) for gate, level in zip(gates, levels, strict=True)]
    for row, gate, share, norm in zip(rows, gates, shares, norms, strict=True):
        assert row["mass"] == pytest.approx(share, rel=1e-6)
        assert row["entropy"] == pytest.approx(-sum(s * math.log(s) for s in shares), rel=1e-6)
        assert (row["mean"], row["sd"], row["min"], row["max"], row["q50"]) == (gate, 0.0, gate, gate, gate)
        assert (row["negative"], row["dead"], row["count"]) == (float(gate < 0), 0.0, 18)
        assert row["contribution"] == pytest.approx(norm, rel=1e-6)
        assert row["contribution_share"] == pytest.approx(norm / sum(norms), rel=1e-6)


@given(st.lists(st.floats(-1e3, 1e3, width=32), min_size=2, max_size=60).filter(lambda numbers: min(numbers) < max(numbers)))
def test_even_bins_hold_every_value_once(numbers: list[float]) -> None:
    values = torch.tensor(numbers, dtype=torch.float64)
    counts = np.bincount(_bins(values).numpy(), minlength=BINS)
    found, edges = even_bins(counts, min(numbers), max(numbers))
    assert len(edges) == len(found) + 1 == 65
    assert (edges[0], edges[-1]) == (min(numbers), max(numbers))
    assert found.sum() == pytest.approx(len(numbers), rel=1e-12)
    assert found.min() >= 0
