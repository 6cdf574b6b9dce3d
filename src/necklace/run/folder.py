"""A run's folder, `outputs/STUDY/RUN/`: which files it has, who holds it, what an interrupted or failed run left there."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from omegaconf import OmegaConf

from necklace.atomic import temporary, write_whole
from necklace.guard.links import check_no_link, remove
from necklace.guard.private import scrubbed, without_home
from necklace.identity import check_identity, hash_of_name
from necklace.locks import Lock
from necklace.record import Record, check_file_of_evidence, read_record, write_record
from necklace.spec import RunSpec

SUPERSEDED = "superseded.json"


class RunBusy(RuntimeError):
    """Another process is training this run."""


@dataclass(frozen=True)
class RunFolder:
    """Paths and state of one run on disk.

    Attributes:
        path: `outputs/STUDY/RUN`; need not exist.
    """

    path: Path

    @classmethod
    def of(cls, spec: RunSpec) -> "RunFolder":
        """The folder of a run: the one that ends in its hash, else the one that it would be given."""
        found = next(iter(sorted(spec.root.glob(f"*_{spec.hash}"))), None)
        return cls(found or spec.root / spec.name)

    @property
    def name(self) -> str:
        """The run's name."""
        return self.path.name

    @property
    def record_path(self) -> Path:
        """`record.json`, which is there once the run has finished."""
        return self.path / "record.json"

    @property
    def failed_path(self) -> Path:
        """`FAILED`, with the traceback of a run that failed."""
        return self.path / "FAILED"

    @property
    def code_path(self) -> Path:
        """`code`, the code version that wrote the checkpoints; it is written when a run starts."""
        return self.path / "code"

    @property
    def config_path(self) -> Path:
        """`config.yaml`, the resolved config."""
        return self.path / "config.yaml"

    @property
    def history_path(self) -> Path:
        """`history.csv`, the learning curve."""
        return self.path / "history.csv"

    @property
    def gates_path(self) -> Path:
        """`gates.parquet`, the gate statistics."""
        return self.path / "gates.parquet"

    @property
    def evidence_path(self) -> Path:
        """`evidence.npz`, from which the metrics of test can be derived again, where the record alone does not do."""
        return self.path / "evidence.npz"

    @property
    def checkpoints(self) -> Path:
        """`checkpoints/`, with `best.ckpt` and `last.ckpt`."""
        return self.path / "checkpoints"

    @property
    def best(self) -> Path:
        """The checkpoint that val chose."""
        return self.checkpoints / "best.ckpt"

    @property
    def last(self) -> Path:
        """The checkpoint from which an interrupted run continues."""
        return self.checkpoints / "last.ckpt"

    @property
    def previous(self) -> Path:
        """The checkpoint before the last, for when that is damaged."""
        return self.checkpoints / "previous.ckpt"

    @property
    def latest(self) -> Path | None:
        """The checkpoint from which training goes on, if there is one: while a new last one is written, the one before."""
        return next((path for path in (self.last, self.previous) if path.exists()), None)

    @property
    def pictures(self) -> Path:
        """`pictures/`, where they were asked for."""
        return self.path / "pictures"

    @property
    def ranks(self) -> Path:
        """`ranks/`, what each process says of itself while several train the run, or have failed to."""
        return self.path / "ranks"

    @property
    def lock_path(self) -> Path:
        """The lock that the process that trains the run holds."""
        return self.path.parent / ".locks" / f"{hash_of_name(self.name)}.lock"

    def record(self) -> Record | None:
        """The run's record, or None while there is none.

        Raises:
            ValueError: It, or the evidence that it names, is damaged; or its config is not what its hash was taken over.
        """
        if not self.record_path.exists():
            return None
        record = read_record(self.record_path)
        check_identity(record.config, record.identity, record.data["digest"], record.hash, str(self.record_path))
        check_file_of_evidence(record, self.evidence_path)
        return record

    def set_aside(self) -> Path:
        """Give a record that cannot be used another name; the run then counts as unfinished. Gives the new path."""
        aside = self.record_path.with_name("record.damaged.json")
        os.replace(self.record_path, aside)
        return aside

    def failure(self) -> str | None:
        """Why the run failed, in one line: the exception, its message and notes, from the end of FAILED; None without one."""
        if not self.failed_path.exists():
            return None
        lines = self.failed_path.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        frames = [number for number, line in enumerate(lines) if line.startswith('  File "')]
        rest = lines[frames[-1] + 1 :] if frames else [line for line in lines if not line.startswith("Traceback")]
        while frames and rest and rest[0].startswith("    "):  # the frame's code and what Python underlines in it
            rest = rest[1:]
        return " ".join(line.strip() for line in rest) or "FAILED is empty"

    def is_held(self) -> bool:
        """Whether a process is training the run."""
        if not self.lock_path.exists():
            return False
        return Lock(self.lock_path).is_taken()

    @contextmanager
    def held(self, waiting: Callable[[str], object] | None) -> Iterator[None]:
        """Hold the run against other processes; the system releases it when this process ends, however it ends.

        Args:
            waiting: Is given a sentence before this waits for another process; None raises instead.

        Raises:
            RunBusy: Another process holds it, and `waiting` is None.
            CannotLock: The file system cannot lock.
        """
        self.lock_path.parent.mkdir(exist_ok=True)
        lock = Lock(self.lock_path)
        if not lock.take():
            if waiting is None:
                raise RunBusy(f"{self.path}: another process is training it{lock.holder()}")
            waiting(f"{self.path}: another process is training it{lock.holder()}; waiting for it to end")
            lock.take(wait=True)
        try:
            yield
        finally:
            lock.release()

    def supersede(self) -> None:
        """Clear the folder; its record stays, under another name, until there is a new one."""
        if not self.path.exists():
            return
        check_no_link(self.path)
        if self.record_path.exists():
            os.replace(self.record_path, self.path / SUPERSEDED)
        for path in self.path.iterdir():
            if path.name != SUPERSEDED:
                remove(path)

    def prepare(self, spec: RunSpec, note: Callable[[str], object]) -> None:
        """Ready the folder for a run; a checkpoint stays if the code that wrote it is the code that would continue it.

        Args:
            spec: The run.
            note: Is given a sentence where a checkpoint is left behind.

        Raises:
            ValueError: The folder or that of the checkpoints is a link to elsewhere.
        """
        check_no_link(self.path, self.checkpoints)
        version = json.dumps(spec.code, indent=1) + "\n"
        if self.checkpoints.exists() and (not self.code_path.exists() or self.code_path.read_text() != version):
            note(f"{self.path}: its checkpoint was written by other code; starting from the first epoch")
            shutil.rmtree(self.checkpoints)
        self.path.mkdir(exist_ok=True)
        for unfinished in [*self.path.glob(".*"), *self.checkpoints.glob(".*")]:  # files that a killed process was writing
            if unfinished.is_symlink() or not unfinished.is_dir():
                unfinished.unlink()
        shutil.rmtree(self.ranks, ignore_errors=True)
        self.failed_path.unlink(missing_ok=True)
        write_whole(self.code_path, version)
        write_whole(self.config_path, OmegaConf.to_yaml(OmegaConf.create(without_home(spec.resolved))))

    def finish(self, record: Record) -> None:
        """Write the record of the finished run."""
        write_record(record, self.record_path)
        shutil.rmtree(self.ranks, ignore_errors=True)
        (self.path / SUPERSEDED).unlink(missing_ok=True)

    def discard(self) -> None:
        """Remove a run that could not begin; the record that it was to replace stands again."""
        if not (self.path / SUPERSEDED).exists():
            shutil.rmtree(self.path, ignore_errors=True)
            return
        for path in self.path.iterdir():
            if path.name != SUPERSEDED:
                remove(path)
        os.replace(self.path / SUPERSEDED, self.record_path)

    def mark_failed(self, text: str) -> None:
        """Leave FAILED behind, with a traceback or a sentence."""
        self.path.mkdir(parents=True, exist_ok=True)
        write_whole(self.failed_path, scrubbed(text))


def check_writable(root: Path) -> None:
    """Make the study's folder, and find out before training whether it can be written.

    Raises:
        OSError: It cannot.
    """
    probe = temporary(root / "write")
    try:
        root.mkdir(parents=True, exist_ok=True)
        try:
            probe.write_bytes(b"\0" * 4096)
        finally:
            probe.unlink(missing_ok=True)
    except OSError as error:
        raise OSError(f"outputs={root.parent}: cannot write to {root} ({error.strerror or error})") from error
