"""Pretrained weights from a local file: every tensor of the network is filled from it, or the run stops."""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import nn

State = dict[str, torch.Tensor]


def loadable_names(network: nn.Module) -> list[str]:
    """Names of the tensors that a weights file must contain: all but BatchNorm's step counters."""
    return [name for name in network.state_dict() if not name.endswith("num_batches_tracked")]


def load_weights(
    network: nn.Module, path: str, skip: Sequence[str] = (), renamed: Callable[[State], State] | None = None
) -> tuple[int, int]:
    """Load a network's weights from a local file.

    Every tensor of the network must be in the file, except those named in `skip`: a tensor that is missing or has another
    shape would silently stay random, so it is an error. Tensors that the network does not have (later stages, the classifier)
    are ignored.

    Args:
        network: The network to fill, in place.
        path: A .safetensors file, or a .pth/.pt file with a state dict (bare, or under `state_dict` or `model`).
        skip: Name prefixes of tensors that may keep their initial values.
        renamed: Gives the file's tensors the network's names, where it has others.

    Returns:
        The number of tensors loaded, and the total number of tensors.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: The file is not a state dict, or does not cover the network.
    """
    stored = read_state_dict(path)
    stored = renamed(stored) if renamed else stored
    own = network.state_dict()
    required = loadable_names(network)
    loaded, missing, misshapen = {}, [], []
    for name in required:
        source = next((key for key in _file_names(name) if key in stored), None)
        if source is not None and stored[source].shape == own[name].shape:
            loaded[name] = stored[source]
        elif not any(name.startswith(prefix) for prefix in skip):
            if source is None:
                missing.append(name)
            else:
                misshapen.append(f"{name} {tuple(stored[source].shape)} instead of {tuple(own[name].shape)}")
    if missing or misshapen:
        problems = [f"lacks {_some(missing)}"] * bool(missing) + [f"has {_some(misshapen)}"] * bool(misshapen)
        raise ValueError(
            f"backbone.pretrained={path}: covers {len(loaded)} of {len(required)} tensors; the file "
            f"{' and '.join(problems)}. Name layers that may stay random in backbone.pretrained_skip"
        )
    network.load_state_dict(loaded, strict=False)
    return len(loaded), len(required)


def read_state_dict(path: str) -> dict[str, torch.Tensor]:
    """Read a state dict without running any code from the file.

    Args:
        path: As for `load_weights`.

    Returns:
        Name to tensor.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: The file is not a state dict.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"backbone.pretrained={path}: there is no such file")
    if path.endswith(".safetensors"):
        from safetensors.torch import load_file

        return load_file(path)
    content = torch.load(path, map_location="cpu", weights_only=True)
    for key in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not all(isinstance(value, torch.Tensor) for value in content.values()):
        raise ValueError(f"backbone.pretrained={path}: holds no state dict (a dict of name to tensor)")
    return content


def _file_names(name: str) -> list[str]:
    """Names that a tensor may have in a file: timm's feature wrappers add `model.` and write `stages_0` for `stages.0`."""
    bare = name.removeprefix("model.")
    head, _, index = bare.partition(".")[0].rpartition("_")
    nested = [f"{head}.{index}.{bare.partition('.')[2]}"] if head and index.isdigit() else []
    return [name, bare, *nested]


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
