"""Where the ranks of a run meet before they are a group: a store at MASTER_ADDR:MASTER_PORT, of the first or of torchrun."""

import json
import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any

from torch.distributed import TCPStore  # pyright: ignore[reportPrivateImportUsage]
from torch.distributed.distributed_c10d import PrefixStore

POLL_S = 0.05
# What a rank may take to come, beside trainer.timeout_s and what this one took: imports alone take seconds.
START_S = 60.0


class RanksLost(RuntimeError):
    """Other ranks of the run did not come, or have ended."""


@dataclass(frozen=True)
class Decision:
    """What the first rank has decided for all.

    Attributes:
        action: `train`; `found`, as the run's record exists; or `end`, as the first rank could not begin, and says why.
        folder: The run's folder.
        resume: The checkpoint to go on from; None to begin.
    """

    action: str
    folder: str = ""
    resume: str | None = None


class Meeting:
    """A store that all ranks reach.

    Args:
        rank: This process's rank; the first, or torchrun, holds the store.
        size: Number of ranks.
        timeout_s: For how long to wait for whoever holds the store, in seconds; at least `START_S`.

    Raises:
        RanksLost: Nobody answers, or the environment does not say where.

    Attributes:
        store: The store.
        size: Number of ranks.
    """

    def __init__(self, rank: int, size: int, timeout_s: float) -> None:
        self._rank, self.size = rank, size
        self._seconds, self._born = max(START_S, timeout_s), time.monotonic()
        address, port = os.environ.get("MASTER_ADDR", "127.0.0.1"), os.environ.get("MASTER_PORT")
        if size < 2 or port is None:
            raise RanksLost(
                f"trainer.devices: this process is rank {rank} of a run of several, and WORLD_SIZE={size or 'none'}, "
                f"MASTER_PORT={port or 'none'} do not say where to meet; start all by torchrun or srun, or unset LOCAL_RANK"
            )
        holds = rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"  # where it is True, torchrun does
        wait = timedelta(seconds=self._seconds)
        try:  # without waiting for all: one of them may have ended by now
            store = TCPStore(address, int(port), size, holds, timeout=wait, wait_for_workers=False, multi_tenant=True)
        except RuntimeError as error:
            raise RanksLost(f"rank {rank} of {size} cannot meet the others at {address}:{port}: {error}") from error
        self.store: Any = PrefixStore("necklace", store)

    def tell(self, decision: Decision) -> None:
        """Tell the others, as the first rank; if they have nothing to do, wait until they know, since this process may end."""
        self.store.set("decision", json.dumps(asdict(decision)))
        if decision.action != "train":
            self.absent("heard", START_S)

    def told(self) -> Decision:
        """Wait for what the first rank decides, which may wait for hours for another process that trains the run.

        Raises:
            RanksLost: The first rank has ended.
        """
        try:
            while not self.store.check(["decision"]):
                time.sleep(POLL_S)
            decision = Decision(**json.loads(self.store.get("decision")))
            self.store.set(f"heard/{self._rank}", "1")
        except RuntimeError as error:
            raise RanksLost(f"rank 0 of {self.size} has ended before it said what to do") from error
        return decision

    def arrive(self, is_trouble: Callable[[], bool]) -> None:
        """Say that this rank is ready, and wait until all are.

        Args:
            is_trouble: Whether another rank is known to have failed.

        Raises:
            RanksLost: One did not come in time, or has failed.
        """
        self.store.set(f"here/{self._rank}", "1")
        seconds = self._seconds + 2 * (time.monotonic() - self._born)  # the others may have to read the same data first
        absent = ", ".join(map(str, self.absent("here", seconds, is_trouble)))
        if absent:
            how = "has ended" if is_trouble() else f"did not come within {seconds:.0f} s"
            raise RanksLost(f"rank {absent} of {self.size} {how}")

    def absent(self, key: str, seconds: float, is_over: Callable[[], bool] = lambda: False) -> list[int]:
        """Wait until all other ranks have set a key; gives those that have not, when time or waiting is over."""
        absent, deadline = [each for each in range(self.size) if each != self._rank], time.monotonic() + seconds
        with suppress(RuntimeError):  # of a store that is gone
            while absent := [each for each in absent if not self.store.check([f"{key}/{each}"])]:
                if time.monotonic() > deadline or is_over():
                    break
                time.sleep(POLL_S)
        return absent
