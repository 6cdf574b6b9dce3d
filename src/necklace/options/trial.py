"""Parts of a run made for a trial, without data and without memory for weights: what they say to their options."""

import inspect
import json
import re
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch.overrides import TorchFunctionMode

from necklace.backbones import CifarResNet
from necklace.data.augment import Augmentation
from necklace.options.signatures import located

# A trial has these; what depends on them is left to the real run.
CHANNELS, CLASSES, MAP_SIZE = 64, 2, (4, 4)
MAPS = 8  # that a dense head is given
UNREAD = ": nothing reads it"
QUICK = ("necklace.necks", "necklace.heads", "necklace.data.sizes", "torch.optim")


@lru_cache(maxsize=4096)
def trial_problem(path: str, content: str) -> str | None:
    """A sentence about the first option that a part refuses, or None.

    Args:
        path: Of the part in a config, such as `neck`.
        content: The part as JSON.
    """
    node = json.loads(content)
    make = _maker(path, node)
    if make is None:
        return None
    try:
        with torch.device("meta"), _Unfilled():
            make()
    except (TypeError, ValueError) as error:
        cause: BaseException = error
    except Exception as error:
        # Hydra wraps what a constructor raises; anything but a refusal comes from this being a trial.
        if not isinstance(error.__cause__, TypeError | ValueError):
            return None
        cause = error.__cause__
    else:
        return None
    text = " ".join(str(cause).split())
    unexpected = re.search(r"unexpected keyword argument '(\w+)'", text)
    if unexpected:
        return f"{path}.{unexpected[1]}{UNREAD}"
    name = re.match(r"(\w+)=", text)
    if name and name[1] == "out_channels":  # which may be right for the channels that there will be
        return None
    if name and name[1] in node:
        return f"{path}.{text}"
    return text if text.startswith(path) else f"{path}: {text}"


class _Unfilled(TorchFunctionMode):
    """Leaves tensors without random values: on `meta` they hold none, and torch imports its compiler (1.3 s) for it."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Do what was asked for, unless it is to fill a tensor."""
        return args[0] if func in (torch.Tensor.normal_, torch.Tensor.uniform_) else func(*args, **(kwargs or {}))


def _without_dynamo(optimizer: Any) -> Any:
    """An optimizer, as `_partial_` gives it, that does not import torch's compiler (1.3 s) to keep out of it."""
    if not isinstance(optimizer, partial) or not inspect.isclass(optimizer.func):
        return optimizer
    made: Any = optimizer.func
    plain = {"add_param_group": inspect.unwrap(made.add_param_group)}
    return partial(type(made.__name__, (made,), plain), *optimizer.args, **optimizer.keywords)


def _maker(path: str, node: dict[str, Any]) -> Callable[[], Any] | None:
    if path == "data.augment":
        return lambda: Augmentation(**node)
    function = located(node["_target_"])
    if function is CifarResNet:
        options: dict[str, Any] = {name: value for name, value in node.items() if not name.startswith("_")} | {"width": 1}
        return lambda: CifarResNet(**options)
    module = getattr(function, "__module__", "")
    if not inspect.isclass(function) or not module.startswith(QUICK):
        return None
    config = OmegaConf.create(node)
    if path == "neck":
        return lambda: instantiate(config, channels=CHANNELS)
    if path == "head" and getattr(function, "dense", False):
        channels, strides = [CHANNELS] * MAPS, [2**place for place in range(MAPS)]
        return lambda: instantiate(config, channels=channels, num_classes=CLASSES, strides=strides)
    if path == "head":
        return lambda: instantiate(config, channels=CHANNELS, num_classes=CLASSES, map_size=MAP_SIZE, stride=1)
    if path == "optimizer":
        return lambda: _without_dynamo(instantiate(config))([torch.zeros(1, requires_grad=True)])
    return lambda: instantiate(config)
