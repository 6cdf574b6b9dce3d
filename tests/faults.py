"""Faults that befall a study, one by one, and what becomes of it: the cases of the crash matrix.

Each case disturbs a copy of one study, of which the first run is done and the second has two of its three epochs behind it.
Then the same command is given again: it has to end with the results of a study that nothing has disturbed.
`python -m tests.faults` prints all cases as a table.
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.test_cli_study import ablate, fits, here, new_study, outcome

OVERRIDES = {"data.source.train": 60, "data.source.test": 20, "data.size": 24, "backbone.width": 4, "epochs": 3}
STUDY: dict[str, Any] = {
    "baseline": "deadly_focal, focal_level=1",
    "seeds": [0],
    "overrides": OVERRIDES | {"batch_size": 32, "callbacks.gates": 1, "logger": "none"},
    "rows": [{"neck": "deadly_focal", "neck.focal_level": [1, 2]}],
}


class Disturbed:
    """A study that is to be disturbed.

    Attributes:
        folder: Where it lies.
        done: The folder of its first run, which is done.
        half: That of its second run.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        runs = [path for path in sorted((folder / "outputs" / "tiny").iterdir()) if not path.name.startswith(".")]
        (self.done,) = [path for path in runs if (path / "record.json").exists()]
        (self.half,) = [path for path in runs if path != self.done]


@dataclass(frozen=True)
class Case:
    """A fault.

    Attributes:
        disturb: Does it; gives how a command ended that was disturbed, and what it said, where there was one.
        said: Words that this command, else the next one, has to say.
        code: The exit code of the next command, where what it finds is refused.
    """

    disturb: Callable[[Disturbed], tuple[int, str] | None]
    said: str = ""
    code: int = 0


@dataclass(frozen=True)
class Ending:
    """What became of a case.

    Attributes:
        during: The exit code of the command that was disturbed; None where there was none.
        code: The exit code of the next one.
        said: Whether the words were said.
        equal: Whether all results are those of the undisturbed study, bit for bit.
        failed: Files FAILED, after either command.
        output: All that was said.
    """

    during: int | None
    code: int
    said: bool
    equal: bool
    failed: int
    output: str


def make_template(folder: Path) -> tuple[Path, dict[str, tuple]]:
    """The study that the cases are copies of, and the outcome of one that nothing has disturbed."""
    undisturbed = new_study(folder / "undisturbed", **STUDY)
    code, output = here(undisturbed)
    assert code == 0, output
    template = new_study(folder / "template", **STUDY)
    killed(template, "after last 5")
    (template / "pid").unlink()
    return template, outcome(undisturbed)


def tried(case: Case, template: Path, expected: dict[str, tuple], folder: Path) -> Ending:
    """Try a case in a folder that does not exist yet."""
    shutil.copytree(template, folder, ignore=shutil.ignore_patterns("cache"))
    during = case.disturb(Disturbed(folder))
    failed = len(list(folder.glob("outputs/tiny/*/FAILED")))
    code, output = here(folder)
    failed += len(list(folder.glob("outputs/tiny/*/FAILED")))
    everything = (during[1] if during else "") + output
    said = case.said in everything.replace("\n", " ")
    return Ending(during[0] if during else None, code, said, outcome(folder) == expected, failed, everything)


def killed(folder: Path, moment: str, *arguments: str) -> tuple[int, str]:
    """The command is killed, with its run, at a moment that tests/user/deadly.py knows."""
    (folder / "kill").write_text(moment)
    process = ablate(folder, "hydra.launcher.slots=1", *arguments)
    (folder / "pid").write_text(str(process.pid))
    ended = process.finish()
    (folder / "kill").unlink()
    assert ended.returncode == -signal.SIGKILL, f"{moment}\n{ended.stdout}"
    (folder / "reached").unlink()
    return ended.returncode, ended.stdout


def signalled(study: Disturbed, number: signal.Signals) -> tuple[int, str]:
    """The command gets a signal while its run trains."""
    process, before = ablate(study.folder, "hydra.launcher.slots=1"), len(fits(study.folder))
    deadline = time.monotonic() + 120
    while len(fits(study.folder)) == before and process.is_alive() and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(process.pid, number)
    ended = process.finish()
    return ended.returncode, ended.stdout


@contextmanager
def full_disk(folder: Path) -> Iterator[None]:
    """A folder on a file system of its own, which has no byte free; afterwards it has some again.

    Raises:
        PermissionError: None can be mounted here.
    """
    size = sum(path.stat().st_size + 8192 for path in folder.rglob("*"))
    with tempfile.TemporaryDirectory() as kept:
        shutil.copytree(folder, kept, dirs_exist_ok=True)
        command = ["mount", "-t", "tmpfs", "-o", f"size={size + 2**21}", "tmpfs", str(folder)]
        mounted = subprocess.run(command, capture_output=True, text=True)
        if mounted.returncode:
            raise PermissionError(mounted.stderr.strip())
        try:
            shutil.copytree(kept, folder, dirs_exist_ok=True)
            with (folder / "ballast").open("wb", buffering=0) as file:
                for block in (2**20, 4096):
                    try:
                        while file.write(bytes(block)) == block:
                            pass
                    except OSError:
                        continue
            yield
            (folder / "ballast").unlink()
            shutil.rmtree(kept)
            shutil.copytree(folder, kept)
        finally:
            subprocess.run(["umount", "-l", str(folder)], check=True)
        shutil.copytree(kept, folder, dirs_exist_ok=True)


def on_full_disk(folder: Path, study: Disturbed) -> tuple[int, str]:
    """The command with one of its folders on a full disk."""
    with full_disk(folder):
        return here(study.folder)


def cut(path: Path, to: float) -> None:
    """Leave a share of a file's bytes."""
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * to)])


def foreign(study: Disturbed) -> None:
    """The other run's last checkpoint lies in the half one's folder."""
    shutil.copy(study.done / "checkpoints" / "last.ckpt", study.half / "checkpoints" / "last.ckpt")


def both_cut(study: Disturbed) -> None:
    """Neither of the two last checkpoints can be read."""
    for name in ("last.ckpt", "previous.ckpt"):
        cut(study.half / "checkpoints" / name, 0.5)


def _cut(name: str, to: float, of: str = "half") -> Callable[[Disturbed], None]:
    return lambda study: cut(getattr(study, of) / name, to)


def _kill(moment: str) -> Callable[[Disturbed], tuple[int, str]]:
    return lambda study: killed(study.folder, moment)


LAST, BEST = "checkpoints/last.ckpt", "checkpoints/best.ckpt"
KILLED = ("step 1", "step 2", "history 1", "in checkpoint 1", "in checkpoint 2", "after best 1", "after last 1")
CASES: dict[str, Case] = {
    **{f"kill -9, {moment}": Case(_kill(moment)) for moment in (*KILLED, "before record 1", "in record 1", "after record 1")},
    "SIGTERM": Case(lambda study: signalled(study, signal.SIGTERM), "stopped; the same command goes on from here"),
    "Ctrl-C": Case(lambda study: signalled(study, signal.SIGINT), "stopped; the same command goes on from here"),
    "last.ckpt empty": Case(_cut(LAST, 0), "last.ckpt: damaged (0 bytes); not used"),
    "last.ckpt cut": Case(_cut(LAST, 0.6), "from the checkpoint before"),
    "last.ckpt and previous.ckpt cut": Case(
        both_cut,
        "no checkpoint is left to go on from; starting from the first epoch",
    ),
    "best.ckpt empty": Case(_cut(BEST, 0), "best.ckpt: damaged (0 bytes); not used"),
    "best.ckpt cut": Case(_cut(BEST, 0.9), "best.ckpt: damaged"),
    "gates.parquet empty": Case(_cut("gates.parquet", 0), "gates.parquet: damaged; made again"),
    "gates.parquet cut": Case(_cut("gates.parquet", 0.5), "gates.parquet: damaged; made again"),
    "history.csv empty": Case(_cut("history.csv", 0)),
    "config.yaml empty": Case(_cut("config.yaml", 0)),
    "code cut": Case(_cut("code", 0.5), "written by other code; starting from the first epoch"),
    "record.json empty": Case(_cut("record.json", 0, "done"), "set aside as record.damaged.json"),
    "record.json cut": Case(_cut("record.json", 0.7, "done"), "set aside as record.damaged.json"),
    "full disk: outputs": Case(lambda study: on_full_disk(study.folder / "outputs", study), "No space left on device"),
    "full disk: experiments": Case(
        lambda study: on_full_disk(study.folder / "experiments", study), "cannot be written (No space left on device)"
    ),
    "foreign last.ckpt": Case(foreign, "is no checkpoint of run", 1),
}


def main(names: list[str]) -> None:
    """Try cases, all without names, and print what became of each."""
    from tests.warm import warm_up

    warm_up()
    with tempfile.TemporaryDirectory() as folder:
        template, expected = make_template(Path(folder))
        print(f"{'fault':34} {'then':>5} {'next':>5}  {'said':5} {'equal':6} FAILED  seconds")
        for number, name in enumerate(names or CASES):
            started = time.monotonic()
            try:
                end = tried(CASES[name], template, expected, Path(folder, str(number)))
            except PermissionError as error:
                print(f"{name:34} not tried: {error}")
                continue
            words = f"{'-' if end.during is None else end.during:>5} {end.code:>5}  {'yes' if end.said else 'NO':5}"
            print(
                f"{name:34} {words} {'yes' if end.equal else 'no':6} {end.failed:6}  {time.monotonic() - started:.1f}",
                flush=True,
            )
            if not end.said or end.code != CASES[name].code or (not end.equal and not end.code):
                print(end.output)


if __name__ == "__main__":
    main(sys.argv[1:])
