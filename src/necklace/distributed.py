"""Communication between processes that train together."""

from typing import Any

import torch


def all_gather_object(item: Any) -> list[Any]:
    """Return the items of all ranks, in order of rank; without other processes, only this one's."""
    if not torch.distributed.is_initialized():
        return [item]
    items: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(items, item)
    return items
