"""An image set without its pixels as plain values, as JSON has them: what stands beside the pixels in a file of the cache.

All fields of the set are kept, tensors with their type and shape, and fields that are such sets of tensors themselves.
"""

import types
from dataclasses import fields, is_dataclass
from typing import Any, Union, get_args, get_origin, get_type_hints

import torch

from necklace.data.images import ImageSet

# They say where the pixels are, which the file does.
_OF_PIXELS = ("pixels", "starts")


def packed(images: ImageSet) -> dict[str, Any]:
    """The fields of a set but its pixels, as values that JSON gives back as they are, floats to the last bit."""
    return {each.name: _packed(getattr(images, each.name)) for each in fields(images) if each.name not in _OF_PIXELS}


def unpacked(content: dict[str, Any]) -> dict[str, Any]:
    """The fields of a set as `packed` took them: all arguments of `ImageSet` but its pixels.

    Raises:
        TypeError, ValueError, LookupError, AttributeError: It is not what `packed` gives.
    """
    hints = get_type_hints(ImageSet)
    return {name: _unpacked(value, hints[name]) for name, value in content.items()}


def _packed(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        kind = str(value.dtype).removeprefix("torch.")
        return {"dtype": kind, "shape": list(value.shape), "values": value.reshape(-1).tolist()}
    if is_dataclass(value):
        return {each.name: _packed(getattr(value, each.name)) for each in fields(value)}
    return [_packed(one) for one in value] if isinstance(value, tuple) else value


def _unpacked(value: Any, hint: Any) -> Any:
    if value is None:
        return None
    if get_origin(hint) in (Union, types.UnionType):
        (hint,) = [part for part in get_args(hint) if part is not type(None)]
    if hint is torch.Tensor:
        return torch.tensor(value["values"], dtype=getattr(torch, value["dtype"])).reshape(value["shape"])
    if is_dataclass(hint) and isinstance(hint, type):
        hints = get_type_hints(hint)
        return hint(**{name: _unpacked(one, hints[name]) for name, one in value.items()})
    return tuple(value) if isinstance(value, list) else value
