"""What a methods section says of the parts that a config names: their definition, what to cite, and their options.

The words are those of this project's classes alone. A class of somebody else's is named, and all its options are told.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from necklace.identity import NEUTRAL, leaves, shown
from necklace.record import Record
from necklace.results.prose import Cite, Code, Part, Sentence
from necklace.results.recipe import at
from necklace.results.results import Results

_POOLING = "spatial pyramid pooling[@he2014spp] in the form that detectors of the YOLO family use"
_BETWEEN = (
    "between two 1 × 1 convolutions with batch normalisation[@ioffe2015batch] and SiLU, the first of which halves the channels"
)
_CUT = ", cut behind the stage that the neck stands on"
_DRAWN_ON = "drawn, on grey textured ground with strokes of clutter"

# Class to what it is, where the options in `USUAL` have the values that they have there; `[@key]` cites, and code is in ``.
PARTS = {
    "NoNeck": "none, so the head is given the backbone's map",
    "ConvNeck": "two 1 × 1 convolutions, each with batch normalisation[@ioffe2015batch] and SiLU, which see one position "
    "alone, with as many channels between them as the map has where no width is told",
    "SPP": f"{_POOLING}: max-pools of stride 1 side by side, {_BETWEEN}",
    "SPPF": f"{_POOLING}: one max-pool of stride 1, three times in a chain, {_BETWEEN}",
    "MeanConcat": "the mean over the map is joined to the channels of each position, and a 1 × 1 convolution with batch "
    "normalisation[@ioffe2015batch] and SiLU follows",
    "GlobalContext": "the global context block[@cao2019gcnet]: a mean over positions, weighted by a softmax, passes a "
    "bottleneck with LayerNorm and ReLU and is added to every position; unlike in the paper's code, its last layer does not "
    "start at zero",
    "SelfAttention": "self-attention over all positions[@vaswani2017attention] and an MLP, each with a norm before it and a "
    "residual connection[@dosovitskiy2021image], without positional encoding",
    "FocalModulation": "focal modulation[@yang2022focal], bare, without norm, residual connection or MLP",
    "FocalBlock": "focal modulation[@yang2022focal] in its residual block: LayerNorm, modulation, "
    "LayerScale[@touvron2021going]; LayerNorm, MLP, LayerScale",
    "CifarResNet": "the residual network for CIFAR[@he2016deep], with 1 × 1 convolutions as shortcuts where the shape changes",
    "FastCnn": "a small network after airbench[@jordan2024airbench]",
    "TorchvisionResNet": "a residual network[@he2016deep] of torchvision" + _CUT,
    "TimmBackbone": "a network of timm[@wightman2019timm]" + _CUT,
    "Lite0": "EfficientNet-Lite0 of timm[@wightman2019timm]" + _CUT,
    "Gap": "the mean over the map and one linear layer",
    "Flatten": "fully connected, over the flattened map",
    "Corner": "the mean over the top left corner of the map and one linear layer; it looks at nothing else",
    "Pyramid": "spatial pyramid pooling[@he2014spp], max-pools over n × n bins, and one linear layer",
    "DenseHead": "dense and anchor-free[@tian2019fcos] over a feature pyramid[@lin2017feature]: a score for each class and "
    "four distances at each point, with batch normalisation for each level and without centreness",
    "Classification": "cross-entropy",
    "MultiLabel": "binary cross-entropy, in the mean over classes",
    "Detection": "quality focal loss[@li2020generalized] plus 2 times the GIoU loss[@rezatofighi2019generalized], where "
    "points are assigned to boxes by how well class and place agree[@feng2021tood]; predictions pass non-maximum suppression "
    "within each class at an IoU of 0.6, and at most 100 boxes of an image count",
    "one_cycle": "One cycle[@smith2017super]: the learning rate rises from 1/25 of its value to all of it in the first share "
    "of the steps and then falls to about 0, each along half a cosine; meanwhile the momentum (Adam's first beta) falls from "
    "0.95 to 0.85 and rises again",
    "cosine": "The learning rate rises linearly in the warm-up and then falls along half a cosine to 0[@loshchilov2017sgdr]",
    "Cifar": "the photographs of CIFAR[@krizhevsky2009learning]",
    "Glyphs": f"{_DRAWN_ON}: a glyph of one of ten kinds, which is the label",
    "Context": f"{_DRAWN_ON}: a grey glyph, of one of as many kinds as there are classes, and a small square, the marker, of "
    "one of as many colours; kind and colour are uniform and independent; between the two lie at least `min_gap` empty pixels "
    "along one axis, which is more than the backbone's receptive field, as each run checks",
    "ContextBoxes": f"{_DRAWN_ON}: one or two grey glyphs, each with a box, and a small square, the marker, whose colour is "
    "the class of every box; between marker and glyph lie at least `min_gap` empty pixels along one axis, which is more than "
    "the receptive field of backbone and head, as each run checks",
}

MODULATION = (
    "In focal modulation, a query is multiplied at each position with a gated sum of contexts, through 1 × 1 convolutions. The "
    "contexts are depth-wise convolutions in a chain, each with a GELU, and the GELU of the mean of the last over the map. "
    "`focal_level` is how many convolutions there are, `focal_window` how wide the first is, and by `focal_factor` each "
    "further one is wider."
)
"""What the classes `FocalModulation` and `FocalBlock` share."""

_SUM = "the label is the sum of the indices of kind and colour, modulo the number of classes"
GRADES = {
    "join": f"each image shows both, and {_SUM}",
    "hints": f"{_SUM}; in a quarter of the training images the marker is missing, in another quarter the glyph, and the label "
    "is the other's index",
    "transport": "the glyph lies in the top left corner, and the label is the marker's colour",
}
"""What the label of the source `Context` is, by grade."""

USUAL: dict[str, Any] = {
    "bias": True, "proj_drop": 0, "drop": 0, "use_postln_in_modulation": False, "normalize_modulator": False, "ln_eps": 1e-5,
    "gating": True, "global_context": True, "global_norm": "none", "global_scale": 1, "aggregate": "all",
    "interaction": "multiply", "context": "conv",
}  # fmt: skip
"""Options of the classes in `PARTS` that go without saying at these values."""

OPTIONS: dict[str, str] = {
    "global_norm=batch": "batch normalisation of the global context before its gate",
    "global_scale": "a factor on the map's mean before its GELU",
    "gating=false": "contexts are summed without gates",
    "global_context=false": "no global context",
    "aggregate=top": "of the local contexts, the last alone",
    "interaction=add": "query and modulator are added",
    "interaction=dw_convnet": "no query: the modulator alone goes on, through a further convolution",
    "context=avg_pool": "average pools in place of the depth-wise convolutions",
    "context=none": "GELU alone in place of the depth-wise convolutions",
    "kernels": "the windows, in place of those by focal_window and focal_factor",
    "normalize_modulator=true": "the sum of contexts is divided by their number",
    "use_postln_in_modulation=true": "LayerNorm before the last convolution",
    "proj_drop": "dropout after the last convolution",
    "drop": "dropout in the MLP",
    "layerscale": "its value at the start",
    "mlp_ratio": "hidden channels of the MLP over channels",
    "GlobalContext.reduction": "channels over those of the bottleneck",
    "ConvNeck.width": "channels between the two",
    "SPP.kernel_sizes": "positions",
    "SPPF.kernel_size": "positions",
    "Corner.side": "pixels of the image",
    "DenseHead.levels": "maps of the pyramid",
    "DenseHead.width": "channels",
    "DenseHead.depth": "convolutions before the scores, and before the distances",
    "DenseHead.kernel": "their side",
}
"""Options of the classes in `PARTS` in words, by name, by name and value, or by class and name."""

# Options that are no matter of a method, or are told elsewhere.
_UNTOLD = {"cache", "train", "test", "grade", "boxes", "classes", *NEUTRAL["neck"]}
_DRAWN = ("Glyphs", "Context", "ContextBoxes")


def class_of(node: Any) -> str:
    """The name of the class that a part of a config names, if it is one of `PARTS`; else nothing."""
    target = str(at(node, "_target_") or "")
    name = target.rpartition(".")[2]
    return name if target.startswith("necklace.") and name in PARTS else ""


def words_of(node: Mapping[str, Any]) -> Sentence:
    """What a part of a config is; nothing of a class that is not in `PARTS`."""
    name = class_of(node)
    grade = GRADES.get(str(node.get("grade") or "join"), "") if name == "Context" else ""
    return parsed(f"{PARTS.get(name, '')}{f'; {grade}' if grade else ''}")


def parsed(text: str) -> list[Part]:
    """Words of this file as parts of a sentence: `[@key]` cites, and code is in ``."""
    found: list[Part] = []
    for number, piece in enumerate(re.split(r"(\[@\w+\]|`[^`]+`)", text)):
        found += [Cite(piece[2:-1]) if piece[0] == "[" else Code(piece[1:-1])] if number % 2 else [piece] if piece else []
    return found


def options_of(node: Mapping[str, Any]) -> list[str]:
    """The options of a part of a config that a reader needs, such as `focal_level=2`, by name."""
    usual: Mapping[str, Any] = USUAL if class_of(node) else {}
    without = _UNTOLD | ({"focal_window", "focal_level", "focal_factor"} if class_of(node) and node.get("kernels") else set())
    found = leaves({name: value for name, value in sorted(node.items()) if name[:1] != "_" and name not in without})
    told = {name: value for name, value in found.items() if value not in (None, [], "", {})}
    return [f"{name}={_plain(value)}" for name, value in told.items() if name not in usual or value != usual[name]]


Opening = Callable[[Record, Sequence[Part], bool], Sentence]
"""How a sentence begins, from a record, the names of the rows that it is about, and whether these are all rows."""


def part_sentences(results: Results, keys: Sequence[str], opening: Opening, options: bool = True) -> list[Sentence]:
    """A sentence on each class that the runs have at a place of their config: what it is, and its options.

    Args:
        results: Those of the study.
        keys: The place, such as `("neck",)`.
        opening: How the sentence begins.
        options: Whether options are told, those that are not the same in all these rows by row. Without them, there is no
            sentence on a class that is not in `PARTS`.
    """
    groups: dict[str, dict[str, list[Record]]] = {}
    for row in results.rows:
        for run in row.runs:
            if run.record and isinstance(node := at(run.record.config, *keys), dict) and (options or class_of(node)):
                key = f"{node.get('_target_')} {words_of(node)}"
                groups.setdefault(key, {}).setdefault(row.name, []).append(run.record)
    alone = len(groups) == 1
    return [[*_beginning(rows, keys, opening, alone), *(_told(rows, keys) if options else []), "."] for rows in groups.values()]


def _beginning(rows: Mapping[str, Sequence[Record]], keys: Sequence[str], opening: Opening, alone: bool) -> list[Part]:
    first = next(iter(rows.values()))[0]
    node = at(first.config, *keys)
    words = words_of(node) if class_of(node) else [Code(str(node.get("_target_", "")))]
    return [*opening(first, listed(list(rows)), alone), *words]


def _told(rows: Mapping[str, Sequence[Record]], keys: Sequence[str]) -> list[Part]:
    """The options of rows that have one class: what they share, and what each has besides."""
    nodes = {name: [at(record.config, *keys) for record in records] for name, records in rows.items()}
    name_of = class_of(next(iter(nodes.values()))[0])
    explained: set[str] = set()
    each = {name: [options_of(node) for node in several] for name, several in nodes.items()}
    every = [found for several in each.values() for found in several]
    common = [option for option in every[0] if all(option in found for found in every)]
    told: list[Part] = [" (", *_joined(common, name_of, explained), ")"] if common else []
    own: dict[tuple[str, ...], list[str]] = {}
    for name, several in each.items():
        for found in dict.fromkeys(tuple(option for option in found if option not in common) for found in several):
            own.setdefault(found, []).append(name)
    for found, names in own.items():
        if found:
            told += ["; in ", *listed(names), " with ", *_joined(found, name_of, explained)]
    return told


def listed(names: Sequence[str]) -> list[Part]:
    """Names of rows as code, with commas between."""
    return [part for number, name in enumerate(names) for part in (*([", "] if number else []), Code(name))]


def _joined(options: Sequence[str], name: str, explained: set[str]) -> list[Part]:
    """Options of a class as code, each explained once where `OPTIONS` has words for it."""
    parts: list[Part] = []
    for number, option in enumerate(options):
        key = option.partition("=")[0]
        found = [one for one in (option, key, f"{name}.{key}") if one in OPTIONS and one not in explained] if name else []
        parts += ["; " if number else "", Code(option), *(f", {OPTIONS[one]}" for one in found[:1])]
        explained |= set(found)
    return parts


def _plain(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else shown(value)


def drawn(record: Record) -> bool:
    """Whether a run's images are drawn by this project."""
    return class_of(at(record.config, "data", "source")) in _DRAWN


def splits_val_off(record: Record) -> bool:
    """Whether it is known that a run's validation images were split off its training images."""
    source, images = at(record.config, "data", "source") or {}, record.data.get("images", {})
    name, most = class_of(source), at(record.config, "data", "train_images")
    if name in (*_DRAWN, "Cifar"):
        return source.get("grade") != "hints"
    return bool(most) and images.get("train", 0) + images.get("val", 0) == most
