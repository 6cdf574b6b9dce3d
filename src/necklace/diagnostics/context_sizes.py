"""How large the contexts of focal layers are, and how much of the label reaches the head, before and after training.

The modulator of focal modulation is h(sum of gate * context). A context whose root mean square is a small part of the others',
and of h's bias, hardly moves it at the start, whatever its gate. Models are in evaluation mode: before training, a BatchNorm
has seen no image and leaves its input as it is.

How much of the label is in the pooled features (the mean over the map, of the backbone's output and of the neck's): the
variance between the labels' means over the whole variance, both summed over the channels (eta squared). Labels drawn at random
have (K - 1) / (N - 1) on the mean, for K labels and N images.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from torch import Tensor, nn

from necklace.diagnostics.focal import context_names, focal_layers, focal_parts
from necklace.inference.trained_run import TrainedRun
from necklace.model import Model
from necklace.plotting import COLOURS, GREY, MARKERS, WIDTH, fitted_lines, plain_style

MOST = 600  # images of val that are looked at
STAGES = ("before", "after")


def context_sizes(run: TrainedRun) -> dict[str, Any]:
    """Magnitudes and shares of a run, over the first `MOST` images of val.

    Args:
        run: A run of images with one label each.

    Returns:
        `images`: how many; `by_chance`: the label's share if labels were drawn at random; `layers`: layer to stage to the root
        mean square of each context, of each gate * context (`gated`) and of `h.bias`, None where there is none; `label_share`:
        part (backbone, neck) to stage to the label's share of the variance. Stages are `before` and `after` training.

    Raises:
        ValueError: An image may have several labels.
    """
    val = run.data.splits["val"]
    if val.labels.ndim != 1 or run.models["after"].dense:
        raise ValueError(f"{run.folder}: its images have no single label, whose share of the features' variance could be taken")
    found: dict[str, Any] = {"images": 0, "layers": {}, "label_share": {"backbone": {}, "neck": {}}}
    for stage, model in run.models.items():
        sums, pooled, labels = _pass(run, model)
        for name, layer in sums.items():
            found["layers"].setdefault(name, {})[stage] = layer
        for part, features in pooled.items():
            found["label_share"][part][stage] = _short(label_share(features, labels))
        found["images"] = len(labels)
        found["by_chance"] = _short((len(labels.unique()) - 1) / max(1, len(labels) - 1))
    return found


def label_share(features: Tensor, labels: Tensor) -> float:
    """The variance between the labels' means over the whole one, of features [N, C] and labels int64 [N]; 0 without any."""
    centred = features.double() - features.double().mean(0)
    between = sum(
        float(centred[labels == label].mean(0).square().sum()) * int((labels == label).sum()) for label in labels.unique()
    )
    whole = float(centred.square().sum())
    return between / whole if whole else 0.0


def _pass(run: TrainedRun, model: Model) -> tuple[dict[str, dict[str, Any]], dict[str, Tensor], Tensor]:
    """One pass over val: each layer's magnitudes, the pooled features of backbone and neck, and the labels."""
    layers = focal_layers(model)
    inputs: dict[str, Tensor] = {}

    def caught(name: str) -> Any:
        return lambda _, given: inputs.update({name: given[0]})

    hooks = [layer.register_forward_pre_hook(caught(name)) for name, layer in layers.items()]
    squares: dict[str, list[Tensor]] = {name: [] for name in layers}
    pooled: dict[str, list[Tensor]] = {"backbone": [], "neck": []}
    labels: list[Tensor] = []
    try:
        with torch.inference_mode():
            for batch in run.data.eval_batches("val"):
                batch = run.data.prepare(batch, augment=False)
                features = model.backbone(batch.images)
                pooled["backbone"].append(features.mean((2, 3)))
                pooled["neck"].append(model.neck(features).mean((2, 3)))
                labels.append(batch.labels)
                for name, layer in layers.items():
                    squares[name].append(_squares(layer, inputs[name]))
                if sum(map(len, labels)) >= MOST:
                    break
    finally:
        for hook in hooks:
            hook.remove()
    found = {name: _magnitudes(layer, torch.cat(squares[name])) for name, layer in layers.items()}
    return found, {part: torch.cat(parts) for part, parts in pooled.items()}, torch.cat(labels)


def _squares(layer: nn.Module, x: Tensor) -> Tensor:
    """Mean squares over channels and positions of each context, and of each gated one: [B, 2, contexts]."""
    parts = focal_parts(layer, x)
    plain = [context.double().square().mean((1, 2, 3)) for context in parts.contexts]
    gates = parts.gates
    gated = plain
    if gates is not None:
        gated = [(c * gates[:, n : n + 1]).double().square().mean((1, 2, 3)) for n, c in enumerate(parts.contexts)]
    return torch.stack([torch.stack(plain, 1), torch.stack(gated, 1)], 1)


def _magnitudes(layer: nn.Module, squares: Tensor) -> dict[str, Any]:
    plain, gated = squares.mean(0).sqrt()
    names = context_names(layer)
    bias = getattr(getattr(layer, "h", None), "bias", None)
    return {
        "contexts": {name: _short(float(value)) for name, value in zip(names, plain, strict=True)},
        "gated": {name: _short(float(value)) for name, value in zip(names, gated, strict=True)},
        "h.bias": None if bias is None else _short(float(bias.detach().double().square().mean().sqrt())),
    }


def draw_context_sizes(rows: Sequence[tuple[str, Mapping[str, Any]]]) -> Figure:
    """Draw the magnitudes of the contexts, and the label's share of the variance.

    Args:
        rows: A name and what `context_sizes` gives, for each run; runs of one name share a row.
    """
    with plain_style("contexts"):
        names = list(dict.fromkeys(name for name, _ in rows))
        with_layers = [name for name in names if any(name == one and found["layers"] for one, found in rows)]
        heights = [max(1, len(with_layers)), len(names)]
        figure = Figure(figsize=(WIDTH, 2.3 + 0.45 * sum(heights)), layout="constrained")
        upper, lower = figure.subplots(2, 1, height_ratios=[0.6 + height for height in heights])
        signs: dict[str, int] = {}
        for axes, shown in ((upper, with_layers), (lower, names)):
            axes.spines[["top", "right", "left"]].set_visible(False)
            axes.set_yticks(range(len(shown)), ["\n".join(fitted_lines(name, 120, 2)) for name in shown])
            axes.set_ylim(max(1, len(shown)) - 0.5, -0.5)
            axes.tick_params(axis="y", length=0)
            for text in axes.get_yticklabels():
                text.set_parse_math(False)
        upper.set_xscale("log")
        upper.set_title("Contexts, RMS: hollow before, filled after", loc="left", fontsize=9)
        lower.set_title("The label's share of the pooled variance", loc="left", fontsize=9)
        lower.set_xlim(-0.03, 1.03)
        for name, found in rows:
            for layer in found["layers"].values():
                for stage in (stage for stage in STAGES if stage in layer):
                    values = layer[stage]["contexts"] | ({"h.bias": layer[stage]["h.bias"]} if layer[stage]["h.bias"] else {})
                    for context, value in values.items():
                        number = signs.setdefault(context, len(signs))
                        _mark(upper, value, with_layers.index(name), stage, number)
            for part, number in (("backbone", 0), ("neck", 1)):
                for stage, value in found["label_share"][part].items():
                    _mark(lower, value, names.index(name), stage, number)
        _legend(upper, list(signs))
        _legend(lower, ["after the backbone", "after the neck"])
        return figure


def _mark(axes: Any, value: float, row: int, stage: str, number: int) -> None:
    after = stage == "after"
    colour = COLOURS[number % len(COLOURS)]
    axes.plot(
        [value],
        [row + (0.12 if after else -0.12)],
        MARKERS[number % len(MARKERS)],
        markersize=5,
        color=colour,
        markerfacecolor=colour if after else "none",
        linestyle="",
    )


def _legend(axes: Any, names: Sequence[str]) -> None:
    handles = [
        Line2D([], [], marker=MARKERS[n % len(MARKERS)], color=COLOURS[n % len(COLOURS)], linestyle="")
        for n in range(len(names))
    ]
    if handles:
        legend = axes.legend(
            handles, [str(n) for n in range(len(names))], loc="upper center", bbox_to_anchor=(0.4, -0.18), ncols=3
        )
        for text, name in zip(legend.get_texts(), names, strict=True):
            text.set_parse_math(False)
            text.set_text(name)
    axes.grid(axis="x", color=GREY, alpha=0.25)


def _short(value: float) -> float:
    return float(f"{value:.5g}")
