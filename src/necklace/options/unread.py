"""Options that exist and that nothing reads, because of what other options say: each with the reason.

Two rows of a study that differ in such an option only would be the same training under two names.
"""

from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

Node = Mapping[str, Any]
"""The options of one part of a config, resolved."""


def _backbone(node: Node) -> dict[str, str]:
    found = {} if node.get("pretrained") else {"pretrained_skip": "there is no backbone.pretrained"}
    if stages := node.get("stages"):
        found["stage"] = f"backbone.stages={','.join(map(str, stages))} says where it ends"
    return found


def _focal_modulation(node: Node) -> dict[str, str]:
    found = {} if node.get("use_postln_in_modulation") else {"ln_eps": "neck.use_postln_in_modulation is off"}
    return found | _focal(node)


def _focal(node: Node) -> dict[str, str]:
    """What is common to FocalModulation and FocalBlock, which normalises with `ln_eps` in any case."""
    found: dict[str, str] = {}
    kernels, level = node.get("kernels"), node.get("focal_level", 2)
    if isinstance(kernels, list):
        stated = {"focal_window": kernels[:1], "focal_level": [len(kernels)]}
        steps = {after - before for before, after in pairwise(kernels) if isinstance(after, int)}
        for name, value in (*stated.items(), ("focal_factor", sorted(steps))):
            if value != [node.get(name)]:
                found[name] = f"neck.kernels={','.join(map(str, kernels))} takes its place"
        level = len(kernels)
    elif node.get("context") == "none":
        found |= dict.fromkeys(("focal_window", "focal_factor"), "neck.context=none looks at no neighbours")
    elif level in (0, 1):
        names = ("focal_window", "focal_factor", "context") if level == 0 else ("focal_factor",)
        found |= dict.fromkeys(names, f"neck.focal_level={level} has no {'' if level == 0 else 'second '}level")
    if level == 1 and node.get("aggregate") == "top":
        found["aggregate"] = "the only level is the top one"
    contexts = (1 if node.get("aggregate") == "top" else level) + bool(node.get("global_context", True))
    if contexts == 1 and node.get("normalize_modulator"):
        found["normalize_modulator"] = "there is one context only"
    return found


def _sgd(node: Node) -> dict[str, str]:
    return {} if node.get("momentum") else {"dampening": "optimizer.momentum is 0"}


def _trainer(node: Node) -> dict[str, str]:
    return {} if node.get("gradient_clip_val") else {"gradient_clip_algorithm": "there is no trainer.gradient_clip_val"}


# Dotted path of a `_target_`'s class to the rule of its options; that of the Trainer, which has no `_target_`, is `trainer`.
RULES: dict[str, Callable[[Node], dict[str, str]]] = {
    "necklace.backbones.libraries.TorchvisionResNet": _backbone,
    "necklace.backbones.libraries.TimmBackbone": _backbone,
    "necklace.backbones.lite0.Lite0": _backbone,
    "necklace.necks.focal.FocalModulation": _focal_modulation,
    "necklace.necks.focal_block.FocalBlock": _focal,
    "torch.optim.sgd.SGD": _sgd,
    "trainer": _trainer,
}
