"""What processes that train together tell each other."""

from typing import Any

import torch


def all_gather_object(item: Any) -> list[Any]:
    """The item of every rank, in order of rank."""
    if not torch.distributed.is_initialized():
        return [item]
    items: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(items, item)
    return items
