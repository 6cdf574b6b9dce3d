"""Independent random streams, each derived from (seed, name).

Two runs of an ablation with the same seed must differ only in the neck. So backbone, neck, head, data order and augmentation
each have their own stream, which depends only on seed and name, not on earlier draws of other parts.

The streams of a run come in three groups: `init` (backbone, neck, head), `order` (order, size, rotation, sampler) and `augment`
(augment, flip, dropout). The option `streams` can give a group a seed of its own, so that one source of noise varies alone.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:  # tables are made without torch, whose import takes seconds
    import torch

# The groups of a run's streams that can have a seed of their own.
GROUPS = ("init", "order", "augment")


def seed_of(resolved: Mapping[str, Any], group: str) -> int:
    """The seed of a group of a run's streams.

    Args:
        resolved: The run's config as plain containers; one of earlier code has no `streams`.
        group: One of `GROUPS`.

    Returns:
        Its own in `streams`, or the run's.
    """
    own = (resolved.get("streams") or {}).get(group)
    return resolved["seed"] if own is None else own


def varying_streams(configs: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """The groups of streams, and `rounding`, that follow the seed in runs that differ in the seed.

    Args:
        configs: The runs' configs as plain containers; at least one.

    Returns:
        In the order of `GROUPS`. A group without a seed of its own follows the seed, whether there are several or not.
    """
    own = [config.get("streams") or {} for config in configs]
    groups = [name for name in GROUPS if any(each.get(name) is None for each in own) or _differ(own, name)]
    return (*groups, *(["rounding"] if _differ(own, "rounding") else []))


def without_seed(identity: Mapping[str, Any]) -> dict[str, Any]:
    """An identity without what the runs of a row may differ in: the seed, and a draw of the rounding that follows it."""
    streams = identity.get("streams") or {}
    follows = streams.get("rounding") == identity["seed"]
    own = {"streams": {**streams, "rounding": "seed"}} if follows else {}
    return {**identity, "seed": None, **own}


def _differ(streams: Sequence[Mapping[str, Any]], name: str) -> bool:
    return len({each.get(name) for each in streams}) > 1


def stream_seed(seed: int, name: str, *steps: int) -> int:
    """Derive the seed of a stream.

    Args:
        seed: The run's seed, any integer.
        name: The stream's name, such as `neck` or `order`.
        *steps: Counters inside the stream (epoch, step, rank), so that any point is reached without replaying earlier draws.

    Returns:
        An integer in [0, 2**63).
    """
    key = "/".join([str(int(seed)), name, *(str(int(step)) for step in steps)])
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") >> 1


def torch_generator(seed: int, name: str, *steps: int) -> "torch.Generator":
    """Return a torch generator on the CPU at the start of the stream (seed, name, *steps)."""
    import torch

    return torch.Generator().manual_seed(stream_seed(seed, name, *steps))


def numpy_generator(seed: int, name: str, *steps: int) -> np.random.Generator:
    """Return a numpy generator at the start of the stream (seed, name, *steps)."""
    return np.random.default_rng(stream_seed(seed, name, *steps))


def seed_device(device: "torch.device", seed: int) -> None:
    """Set the generator that layers such as dropout draw from on a device.

    `torch.manual_seed` sets those of all devices, and formats a traceback on the way, which takes up to 0.4 ms.

    Args:
        device: Where the model is.
        seed: An integer in [0, 2**63).
    """
    import torch

    if device.type == "cpu":
        torch.default_generator.manual_seed(seed)
    elif device.type == "cuda":
        torch.cuda.default_generators[torch.cuda.current_device() if device.index is None else device.index].manual_seed(seed)
    else:
        torch.manual_seed(seed)


@contextmanager
def stream(seed: int, name: str, *steps: int) -> Iterator[None]:
    """Let torch's global CPU generator draw from the stream, and restore its state afterwards.

    torch's layers initialise themselves from the global generator, so this initialises a module from its own stream.
    """
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream_seed(seed, name, *steps))
        yield
