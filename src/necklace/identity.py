"""A run's identity: all that changes its result, the hash over it, and the readable name of its folder."""

import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

# What a run's result does not depend on, so that its identity must not either. All else counts: an option too many in the
# identity makes a new run, which costs time; a forgotten one would pass off one run's result as another's.
NEUTRAL = {
    "": {"logger", "callbacks", "outputs", "study", "rerun"},
    # Digest and sizes stand for these.
    "data": {"source", "root", "on_corrupt", "download", "year", "size", "memory_gib", "cache"},
    "backbone": {"pretrained"},  # likewise
    "trainer": {
        "accelerator",
        "devices",
        "num_nodes",
        "strategy",
        "deterministic",
        "log_every_n_steps",
        "enable_progress_bar",
    },
}

# Options that came later than the first runs, with the value at which a run is what it was before there was the option. At
# that value they do not count, so that earlier runs keep their hash. An option that is new in configs/ has to be put here;
# tests/golden/options.json lists those that were there from the start.
ADDED: dict[str, Any] = {}


def run_identity(resolved: dict[str, Any], digest: dict[str, str]) -> dict[str, Any]:
    """All that changes a run's result, and nothing else: no paths, loggers, devices or progress bars.

    Args:
        resolved: The config as plain containers.
        digest: The data's content, by split.

    Returns:
        A JSON-ready dict.
    """
    kept = {name: value for name, value in resolved.items() if name not in NEUTRAL[""]}
    for group, neutral in NEUTRAL.items():
        if group:
            kept[group] = {name: value for name, value in kept[group].items() if name not in neutral}
    kept["data"]["digest"] = digest
    weights = resolved["backbone"].get("pretrained")
    kept["backbone"]["pretrained"] = _file_digest(weights) if weights else None
    for option, as_before in ADDED.items():
        kept = _without(kept, option.split("."), as_before)
    return kept


def hash_identity(identity: dict[str, Any]) -> str:
    """Ten hex digits over an identity."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:10]


def run_label(choices: dict[str, str], overrides: Sequence[str], seed: int) -> str:
    """A readable folder name, such as `context_cifar_resnet_focal_focal_level-3_s0`: safe in paths, at most 100 characters."""
    parts = [choices["data"], choices["backbone"], choices["neck"]]
    if choices.get("data/sizes", "fixed") != "fixed":
        parts.insert(1, choices["data/sizes"])
    parts += [text.removeprefix("neck.") for text in overrides if text.startswith("neck.")]
    return re.sub(r"[^\w.,+-]+", "-", "_".join(parts), flags=re.ASCII)[:90] + f"_s{seed}"


def hash_of_name(name: str) -> str:
    """The hash at the end of a run's name."""
    return name.rpartition("_")[2]


def _without(node: dict[str, Any], path: Sequence[str], value: Any) -> dict[str, Any]:
    """The node without the option at `path`, if it is there and has the value."""
    name, *rest = path
    if not isinstance(node, dict) or name not in node:
        return node
    if rest:
        return {**node, name: _without(node[name], rest, value)}
    return node if node[name] != value else {key: kept for key, kept in node.items() if key != name}


def _file_digest(path: str) -> str:
    if not Path(path).is_file():
        raise FileNotFoundError(f"backbone.pretrained={path}: there is no such file")
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
