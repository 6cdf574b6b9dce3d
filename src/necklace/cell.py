"""What makes a run that run: its identity, a hash over it, and a folder name that a person can read."""

import ast
import hashlib
import json
import re
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

# Code that no run trains with: it reads runs, or shows them elsewhere.
ONLOOKERS = {"study", "canvas.py", "drawings.py", "erf.py", "loggers.py", "pictures.py", "wandb_runs.py"}

# What a run's result does not depend on, so that its identity must not either. All else counts: an option too many in the
# identity makes a new cell, which costs time; a forgotten one would pass off one cell's result as another's.
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


def code_digest(plain: dict[str, Any]) -> str:
    """A sha256 over the code that a run trains with: a record of another digest is stale.

    It covers this package without `ONLOOKERS`, and the files of the config's own classes, such as a
    neck of the user's; installed packages count by their versions. Comments, docstrings and layout do not count.

    Args:
        plain: The resolved config.

    Returns:
        Hexadecimal digits.
    """
    own = {path for target in sorted(set(_targets(plain))) if (path := _own_file(target.rpartition(".")[0]))}
    parts = [_package_digest(), *(_file_code(path) for path in sorted(own))]
    return hashlib.sha256("".join(parts).encode()).hexdigest()


def _targets(node: Any) -> Iterator[str]:
    """All `_target_`s of a config."""
    if isinstance(node, dict):
        if isinstance(node.get("_target_"), str):
            yield node["_target_"]
        for value in node.values():
            yield from _targets(value)
    elif isinstance(node, list):
        for value in node:
            yield from _targets(value)


@cache
def _own_file(module: str) -> Path | None:
    """The file of a module that is neither of this package nor installed; None for all others and where there is none."""
    try:
        spec = find_spec(module)
    except (ImportError, ValueError):
        # A target such as package.module.Class.method; what cannot be found fails at its use, with a better message.
        return _own_file(module.rpartition(".")[0]) if "." in module else None
    if spec is None or spec.origin is None or not Path(spec.origin).is_file():
        return None
    path = Path(spec.origin).resolve()
    inside = any(path.is_relative_to(folder) for folder in _not_own())
    return None if inside or path.suffix != ".py" else path


@cache
def _not_own() -> list[Path]:
    """Folders of this package and of all that is installed."""
    installed = [Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    return [Path(__file__).resolve().parent, *installed]


@cache
def _package_digest() -> str:
    """The code of this package, once a process: what is loaded is what was there when it started."""
    package = Path(__file__).resolve().parent
    paths = sorted(path for path in package.rglob("*.py") if path.relative_to(package).parts[0] not in ONLOOKERS)
    return hashlib.sha256("".join(f"{path.relative_to(package)} {_file_code(path)}\n" for path in paths).encode()).hexdigest()


@cache
def _file_code(path: Path) -> str:
    """A sha256 over a file's syntax tree without docstrings."""
    tree = ast.parse(path.read_bytes(), str(path))
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0] if node.body else None
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
                node.body = node.body[1:]
    # Since Python 3.13, empty lists are left out unless asked for: the digest must not depend on that.
    text = ast.dump(tree, **({"show_empty": True} if sys.version_info >= (3, 13) else {}))
    return hashlib.sha256(text.encode()).hexdigest()


@cache
def git_state() -> dict[str, Any] | None:
    """Commit and dirty flag of the code, or None where it is not from a checkout; asked once, when the code is loaded."""
    root = Path(__file__).resolve().parents[2]

    def git(*command: str) -> str:
        return subprocess.run(["git", "-C", str(root), *command], capture_output=True, text=True, check=True).stdout

    try:
        git("ls-files", "--error-unmatch", str(Path(__file__).resolve()))  # or it is installed within another's checkout
        return {"sha": git("rev-parse", "HEAD").strip(), "dirty": bool(git("status", "--porcelain").strip())}
    except (OSError, subprocess.CalledProcessError):
        return None


def _file_digest(path: str) -> str:
    if not Path(path).is_file():
        raise FileNotFoundError(f"backbone.pretrained={path}: there is no such file")
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
