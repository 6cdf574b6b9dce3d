"""Disks that are full at any moment of a run: the path is named, the run stays one that is missing, and goes on later."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import necklace.atomic
from necklace.run.folder import RunFolder
from necklace.run.runner import RunFailed, RunRefused, RunStopped, run
from tests.conftest import SMALL, spec_of
from tests.test_run_resume import OPTIONS, result


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A real file system of 16 MiB."""
    folder = tmp_path_factory.mktemp("disk")
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(folder)], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"a small file system cannot be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(disk: Path) -> Path:
    """Leave no byte free; the file that has them all."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file:
        for size in (2**20, 4096):
            try:
                while file.write(bytes(size)) == size:
                    pass
            except OSError:
                continue
    return ballast


@pytest.mark.parametrize(
    ("name", "number"),
    [
        *(("config.yaml", 1), ("gates.parquet", 1), ("history.csv", 2), ("best.ckpt", 1), ("last.ckpt", 1)),
        *(("last.ckpt", 3), ("record.json", 1)),
    ],
)
def test_a_disk_that_is_full_at_a_file_of_a_run(
    name: str, number: int, disk: Path, twin: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    outputs = disk / f"{name}{number}"
    spec = spec_of([*OPTIONS, f"outputs={outputs}"])
    folder, left = RunFolder.of(spec), [number]

    def full(path: Path, content: str | bytes, wait_for_disk: bool) -> None:
        left[0] -= path.name == name
        if path.name == name and not left[0]:
            fill(disk)
        replace(path, content, wait_for_disk)

    replace = necklace.atomic._replace
    monkeypatch.setattr(necklace.atomic, "_replace", full)
    place = (
        folder.path if name in ("code", "config.yaml", "gates.parquet", "history.csv", "record.json") else folder.checkpoints
    )
    words = rf"^{place / name}: cannot be written \(No space left on device\); when there is room, the same command goes on"
    try:
        with pytest.raises(RunStopped, match=words):
            run(spec, interactive=False)
        assert not folder.failed_path.exists()
        assert not list(folder.path.rglob(".*"))  # no half file either
        # Nor does a call that comes too early make anything worse.
        with pytest.raises((RunRefused, OSError), match=r"No space left on device|MiB are free"):
            run(spec, interactive=False)
        assert not folder.failed_path.exists()
    finally:
        (disk / "ballast").unlink(missing_ok=True)
    assert result(run(spec, interactive=False)) == twin
    monkeypatch.undo()


@pytest.fixture(scope="module")
def twin(tmp_path_factory: pytest.TempPathFactory) -> dict:
    return result(run(spec_of([*OPTIONS, f"outputs={tmp_path_factory.mktemp('undisturbed')}"])))


def test_a_cache_of_pixels_on_a_full_disk_is_named_and_leaves_nothing(disk: Path) -> None:
    outputs = disk / "cache"
    outputs.mkdir()
    ballast = fill(disk)
    try:
        with pytest.raises((OSError, RunFailed), match=r"data\.cache=.*: cannot write drawn images there \(No space left"):
            run(spec_of([*SMALL, f"outputs={outputs}", "data.source.train=70"]))
        assert not [path for path in outputs.rglob("*") if path.is_file() and path.stat().st_size]
    finally:
        ballast.unlink()
    assert run(spec_of([*SMALL, f"outputs={outputs}", "data.source.train=70", "epochs=1"])).epochs == 1
