"""The processes that train a run together: one decision, made by the first and told to all, and one word on why they failed.

Mostly a run is one process, and all of this is nothing. Where it is several, Lightning starts the others when training begins,
or a launcher such as torchrun or srun has started all of them at once. Either way every rank but the first meets it before it
does anything else, and is told whether there is something to train, and from which checkpoint. What a rank has to say when it
ends is in a file of the run's folder.
"""

import os
import signal
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from subprocess import Popen
from typing import Any

import pytorch_lightning as pl
import torch
import torch.distributed as dist
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.strategies.launchers import _SubprocessScriptLauncher
from torch.distributed.distributed_c10d import PrefixStore

from necklace.run.conditions import group_size, is_single, rank, set_threads, started_outside
from necklace.run.folder import RunFolder
from necklace.run.meeting import Decision, Meeting
from necklace.run.rank_reports import Cause, RankReports, cause_of, here, state_of
from necklace.run.rank_watch import POLL_S, RankWatch

TIMEOUT_S = 600.0
# How long a rank that has lost the others waits for one of them to say why, or to say that it will.
PATIENCE_S = 4.0
# The variables by which Lightning tells the processes that it starts of each other.
VARIABLES = ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK", "LOCAL_RANK", "WORLD_SIZE")


class Ranks:
    """The processes that train a run together, as one of them sees them.

    Args:
        trainer: The run's resolved `trainer` config.

    Raises:
        ValueError: Several nodes, and nothing that has started a process for each device.

    Attributes:
        rank: This process's, from 0.
        resume: The checkpoint that all go on from, None to begin; known once that is decided.
        begun: Knows whether the run has begun to train.
    """

    def __init__(self, trainer: dict[str, Any]) -> None:
        self.rank, self.resume = rank(trainer), None
        self.begun = Begun()
        self._timeout_s = float(trainer.get("timeout_s") or TIMEOUT_S)
        self._single, self._outside = is_single(trainer), started_outside(trainer)
        self._size = group_size(trainer) if self._outside else 1
        nodes = str(trainer.get("num_nodes") or 1)
        if nodes != "1" and not self._outside:
            raise ValueError(f"trainer.num_nodes={nodes}: start a process for each device of each node, by srun or torchrun")
        self._meeting: Meeting | None = None
        self._folder: RunFolder | None = None
        self._decision: Decision | None = None
        self._watch: RankWatch | None = None
        self._joined = False
        self._started: list[Popen[bytes]] = []
        self._environment = {name: os.environ.get(name) for name in VARIABLES}

    @contextmanager
    def leading(self) -> Iterator[None]:
        """The first rank's walk: where it ends without a decision, the others are told to end as well.

        Raises:
            RanksLost: A launcher has started the others, and they cannot be met.
        """
        if self._outside:
            self._meeting = Meeting(0, self._size, self._timeout_s)
        try:
            yield
        except Exception:
            self._decide(Decision("end"))
            raise
        finally:
            self.close()

    def found(self, folder: RunFolder) -> None:
        """Tell the others that the run has a record."""
        self._decide(Decision("found", str(folder.path)))

    def train(self, folder: RunFolder, resume: Path | None) -> None:
        """Decide that the run is to be trained; ranks that Lightning has yet to start are told when they come.

        Args:
            folder: The run's, ready to be written.
            resume: The checkpoint to go on from, None to begin.
        """
        self._enter(folder, resume)
        self._decide(Decision("train", str(folder.path), None if resume is None else str(resume)))

    def told(self) -> tuple[RunFolder, bool]:
        """Wait for what the first rank decides; gives the run's folder, and whether there is something to train.

        Raises:
            RanksLost: The first rank cannot be met, or has ended.
            SystemExit: It could not begin, and says why.
        """
        self._meeting = Meeting(self.rank, self._size, self._timeout_s)
        self._decision = self._meeting.told()
        if self._decision.action == "end":
            sys.exit(1)
        folder, resume = RunFolder(Path(self._decision.folder)), self._decision.resume
        if self._decision.action == "train":
            self._enter(folder, Path(resume) if resume else None)
        return folder, self._decision.action == "train"

    def attach(self, trainer: pl.Trainer) -> None:
        """Let Lightning start the other ranks by way of this; before `trainer.fit`."""
        plain = trainer.strategy.launcher
        if isinstance(plain, _SubprocessScriptLauncher) and self._watch is not None:
            trainer.strategy._launcher = _Launcher(plain, self)

    def join(self, strategy: Any, size: int, started: list[Popen[bytes]]) -> None:
        """Become one of the group, when all ranks are there.

        Args:
            strategy: Lightning's.
            size: Number of ranks.
            started: The processes that this one has started.

        Raises:
            RanksLost: A rank did not come in time, or has ended.
        """
        if self._joined:
            return
        self._joined, self._started, self._size = True, started, size
        assert self._watch is not None
        assert self._decision is not None
        if self._meeting is None:
            self._meeting = Meeting(self.rank, size, self._timeout_s)
            self._meeting.tell(self._decision)
        self._watch.start()
        self._meeting.arrive(lambda: self._watch is not None and self._watch.is_trouble)
        device = strategy.root_device
        if device.type == "cuda":
            torch.cuda.set_device(device)
        dist.init_process_group(
            strategy._get_process_group_backend(),
            store=PrefixStore("group", self._meeting.store),
            rank=self.rank,
            world_size=size,
            timeout=timedelta(seconds=self._timeout_s),
            device_id=None if device.type == "cpu" else device,
        )

    def done(self) -> None:
        """Nothing that follows needs the others."""
        if self._watch is not None:
            self._watch.stop()

    def failed(self, error: Exception, words: str) -> Cause:
        """Find out why the run has failed, after this rank has met an error; ends this process if another rank says it.

        Args:
            error: The error.
            words: The same in words to a person.

        Raises:
            SystemExit: A lower rank says it.
            KeyboardInterrupt: A rank was stopped by a signal, which is no failure.
        """
        trace = "".join(traceback.format_exception(error))
        if self._watch is None or self._size == 1:
            return Cause("raised", words, trace)
        state = state_of(error)
        self._watch.say(state, words, trace)
        deadline = time.monotonic() + PATIENCE_S
        if self.rank and not self._leads(deadline):
            sys.exit(1)
        while state == "broken" and time.monotonic() < deadline and not self._all_said():
            time.sleep(POLL_S)
        cause = self._cause()
        self._kill()
        self._joined = False  # a group with a broken connection cannot be left in good order
        if cause.kind == "stopped":
            raise KeyboardInterrupt from error
        return cause

    def stopped(self) -> None:
        """Tell the others that this rank was stopped by a signal."""
        if self._watch is not None:
            self._watch.say("stopped", "", "")

    def close(self) -> None:
        """Leave the group, and the environment as it was."""
        self.done()
        if self._joined and dist.is_initialized():
            with suppress(RuntimeError):
                dist.destroy_process_group()
        if self._started or self._joined:
            for name, value in self._environment.items():
                os.environ.pop(name, None)
                if value is not None:
                    os.environ[name] = value
        self._meeting = None

    def _enter(self, folder: RunFolder, resume: Path | None) -> None:
        self._folder, self.resume = folder, resume
        self.begun.steps = resume is not None
        if not self._single:
            self._reports = RankReports(folder.ranks)
            self._watch = RankWatch(self._reports.enter(self.rank), self._reports, self._codes, self._end)

    def _decide(self, decision: Decision) -> None:
        """Decide once; tell those who are there."""
        if self._decision is None:
            self._decision = decision
            if self._meeting is not None:
                self._meeting.tell(decision)

    def _codes(self) -> dict[int, int]:
        """Exit codes of the processes that this one has started and that have failed, by rank."""
        codes = {number: process.poll() for number, process in enumerate(self._started, self.rank + 1)}
        return {number: code for number, code in codes.items() if code}

    def _all_said(self) -> bool:
        """Whether a rank has said what it raised, or every other one how it fares, or has ended."""
        found = self._reports.read()
        if any(each.state == "raised" for each in found.values()):
            return True
        quiet = {each.rank for each in found.values() if each.state == "training" and not each.is_gone()}
        others = {number for number in range(self._size) if number != self.rank}
        return not (others & quiet) - set(self._codes()) and others <= {*found, *self._codes()}

    def _leads(self, deadline: float) -> bool:
        """Whether it is for this rank to say why the run failed: all lower ones are gone, or do not react."""
        while True:
            found = self._reports.read()
            mine, lower = found.get(self.rank), [each for each in found.values() if each.rank < self.rank]
            if mine is None or mine.pid != os.getpid() or any(each.state != "training" for each in lower):
                return False  # a lower one says it; or has done so, and the folder is cleared or another try's
            quiet = [each for each in lower if not each.is_gone()]
            if not quiet or time.monotonic() > deadline:
                return not quiet or any(each.is_late for each in found.values())
            time.sleep(POLL_S)

    def _cause(self) -> Cause:
        return cause_of(self._reports.read(), self._size, self._timeout_s, self._codes())

    def _end(self) -> None:
        """End this process, whose main thread does not react to the end of another rank, from the thread that watches."""
        assert self._folder is not None
        if self._leads(time.monotonic()):
            cause = self._cause()
            if cause.kind != "stopped":
                with suppress(OSError):
                    self._folder.mark_failed(cause.text)
                    os.write(2, f"error: {cause.words}\nFAILED; see {self._folder.failed_path}\n".encode())
            self._kill()
        os._exit(1)

    def _kill(self) -> None:
        """End the ranks that this one has started, and those on this machine that hang; others end by themselves."""
        for process in self._started:
            process.kill()
            process.wait()
        found = self._reports.read()
        for each in found.values() if any(each.is_late for each in found.values()) else ():
            hangs = each.rank != self.rank and each.state in ("training", "silent") and each.host == here()
            if hangs and not each.is_gone():
                with suppress(OSError):
                    os.kill(each.pid, signal.SIGKILL)


class Begun(Callback):
    """Knows whether a run has begun to train.

    Attributes:
        steps: Whether a step has begun.
    """

    steps = False

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int) -> None:
        """Remember it."""
        self.steps = True


class _Launcher(_SubprocessScriptLauncher):
    """Lightning's, without the thread that kills this process when another rank fails: its cause would be lost with it."""

    def __init__(self, plain: _SubprocessScriptLauncher, ranks: Ranks) -> None:
        super().__init__(plain.cluster_environment, plain.num_processes, plain.num_nodes)
        self._ranks = ranks

    def launch(self, function: Any, *args: Any, trainer: pl.Trainer | None = None, **kwargs: Any) -> Any:
        """Start the other ranks unless they are there, form the group with them, and call the function."""
        assert trainer is not None
        self.cluster_environment.validate_settings(num_devices=self.num_processes, num_nodes=self.num_nodes)
        if not self.cluster_environment.creates_processes_externally:
            self._call_children_scripts()
        set_threads(self.num_processes)
        self._ranks.join(trainer.strategy, self.num_processes * self.num_nodes, self.procs)
        return function(*args, **kwargs)
