"""Independent random streams, each derived from (seed, name).

Two cells of an ablation that share a seed must differ in the neck alone. So nothing draws from a generator that somebody
else has already drawn from: backbone, neck, head, data order and augmentation each own a stream, and a stream depends on its
seed and name only, never on what ran before it.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def stream_seed(seed: int, name: str, *steps: int) -> int:
    """Derive the seed of a stream.

    Args:
        seed: The run's seed; every integer counts, 0 included.
        name: The stream's name, such as `neck` or `order`.
        *steps: Counters inside the stream (epoch, step, rank), so that any point of it can be reached without replaying it.

    Returns:
        An integer in [0, 2**63).
    """
    key = "/".join([str(int(seed)), name, *(str(int(step)) for step in steps)])
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") >> 1


def torch_generator(seed: int, name: str, *steps: int) -> torch.Generator:
    """A torch generator on the CPU at the start of the stream (seed, name, *steps)."""
    return torch.Generator().manual_seed(stream_seed(seed, name, *steps))


def numpy_generator(seed: int, name: str, *steps: int) -> np.random.Generator:
    """A numpy generator at the start of the stream (seed, name, *steps)."""
    return np.random.default_rng(stream_seed(seed, name, *steps))


@contextmanager
def stream(seed: int, name: str, *steps: int) -> Iterator[None]:
    """Make torch's global CPU generator draw from the stream, and put it back afterwards.

    torch's own initialisers take no generator; this is how a module is initialised from a stream of its own.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream_seed(seed, name, *steps))
        yield
