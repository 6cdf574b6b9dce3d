"""What makes a run that run: its identity, a hash over it, and a folder name that a person can read."""

import hashlib
import json
import re
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

# What a run's result does not depend on, so that its identity must not either. All else counts: an option too many in the
# identity makes a new cell, which costs time; a forgotten one would pass off one cell's result as another's.
NEUTRAL = {
    "": {"logger", "outputs", "study", "rerun"},
    "data": {"source", "root", "on_corrupt", "download", "year", "size"},  # digest and sizes stand for these
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


def cell_identity(plain: dict[str, Any], digest: dict[str, str]) -> dict[str, Any]:
    """All that changes a run's result, and nothing else: no paths, loggers, devices or progress bars.

    Args:
        plain: The resolved config.
        digest: The data's content, by split.

    Returns:
        A JSON-ready dict.
    """
    kept = {name: value for name, value in plain.items() if name not in NEUTRAL[""]}
    for group, neutral in NEUTRAL.items():
        if group:
            kept[group] = {name: value for name, value in kept[group].items() if name not in neutral}
    kept["data"]["digest"] = digest
    weights = plain["backbone"].get("pretrained")
    kept["backbone"]["pretrained"] = _file_digest(weights) if weights else None
    return kept


def hash_identity(identity: dict[str, Any]) -> str:
    """Ten hex digits over an identity."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:10]


def cell_label(choices: dict[str, str], overrides: list[str], seed: int) -> str:
    """A readable folder name, such as `context_cifar_resnet_focal_focal_level-3_s0`: safe in paths, at most 100 characters."""
    parts = [choices["data"], choices["backbone"], choices["neck"]]
    if choices.get("data/sizes", "fixed") != "fixed":
        parts.insert(1, choices["data/sizes"])
    parts += [text.removeprefix("neck.") for text in overrides if text.startswith("neck.")]
    return re.sub(r"[^\w.,+-]+", "-", "_".join(parts), flags=re.ASCII)[:90] + f"_s{seed}"


@cache
def git_state() -> dict[str, Any] | None:
    """Commit and dirty flag of the code, or None where it is not a checkout; asked once, when the code is loaded."""
    root = Path(__file__).resolve().parents[2]

    def git(*command: str) -> str:
        return subprocess.run(["git", "-C", str(root), *command], capture_output=True, text=True, check=True).stdout

    try:
        return {"sha": git("rev-parse", "HEAD").strip(), "dirty": bool(git("status", "--porcelain").strip())}
    except (OSError, subprocess.CalledProcessError):
        return None


def _file_digest(path: str) -> str:
    if not Path(path).is_file():
        raise FileNotFoundError(f"backbone.pretrained={path}: there is no such file")
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
