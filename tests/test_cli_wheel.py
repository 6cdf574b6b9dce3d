"""The wheel, installed without the checkout: its configs, its launcher and its code are its own."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml

from necklace.code_version import code_version
from necklace.record import read_record

ROOT = Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.slow

TINY = {"data.source.train": 60, "data.source.test": 20, "data.size": 24, "backbone.width": 4, "batch_size": 16}
TINY |= {"epochs": 1, "logger": "none"}
# Imported by the environment's every process: notes each file below the checkout that is opened.
WATCH = """
import os, sys

def watch(event, arguments):
    if event == "open" and isinstance(arguments[0], (str, bytes)):
        path = os.path.abspath(os.fsdecode(arguments[0]))
        if path.startswith({root!r} + os.sep) and not path.startswith({allowed!r}):
            with open({log!r}, "a") as file:
                file.write(path + "\\n")

sys.addaudithook(watch)
"""


def run(*command: str | Path, cwd: Path) -> str:
    """Run a command without this process's ways to the checkout; gives what it prints."""
    ways = ("PYTHONPATH", "VIRTUAL_ENV", "PYTHONHOME")
    environment = {name: value for name, value in os.environ.items() if name not in ways}
    done = subprocess.run(
        list(map(str, command)),
        cwd=cwd,
        env=environment | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy of the files in version control: building leaves folders behind."""
    folder = tmp_path_factory.mktemp("wheel")
    listing = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(
        [*listing, "pyproject.toml", "README.md", "LICENSE", "src", "configs"], capture_output=True, check=True
    )
    for name in filter(None, names.stdout.decode().split("\0")):
        if os.path.lexists(ROOT / name):
            (folder / "source" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / "source" / name, follow_symlinks=False)
    build = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--disable-pip-version-check",
        "--no-deps",
        "--no-build-isolation",
    ]
    run(*build, "--wheel-dir", folder, folder / "source", cwd=folder)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh environment with the wheel, and with this environment's packages but for this project."""
    folder = tmp_path_factory.mktemp("environment")
    run(sys.executable, "-m", "venv", "--without-pip", folder, cwd=folder)
    run(sys.executable, "-m", "pip", "--python", folder, "install", "--quiet", "--no-deps", "--no-index", wheel, cwd=folder)
    (packages,) = folder.glob("lib/python*/site-packages")
    others = [place for place in sys.path if Path(place).name in ("site-packages", "dist-packages")]
    # A folder named in a .pth file is searched, but its own .pth files, such as an editable install's, are not read.
    (packages / "others.pth").write_text("\n".join([*others, "import watch_checkout"]) + "\n")
    watch = WATCH.format(root=str(ROOT), allowed=tuple(others), log=str(folder / "opened"))
    (packages / "watch_checkout.py").write_text(watch)
    return folder


def test_the_wheel_carries_what_is_no_code(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    configs = {f"necklace/configs/{path.relative_to(ROOT / 'configs')}" for path in (ROOT / "configs").rglob("*.yaml")}
    assert len(configs) > 30
    assert configs <= names
    assert {"necklace/results/report.html.j2", "hydra_plugins/necklace_local.py"} <= names
    code = {path.relative_to(ROOT / "src").as_posix() for path in (ROOT / "src").rglob("*.py")}
    assert {name for name in names if name.endswith(".py")} == code
    assert {name.partition("/")[0] for name in names if ".dist-info" not in name} == {"necklace", "hydra_plugins"}


def test_the_wheel_trains_and_runs_a_study_without_the_checkout(installed: Path, tmp_path: Path) -> None:
    python, necklace = installed / "bin" / "python", installed / "bin" / "necklace"
    code = "import necklace, hydra_plugins.necklace_local as local; print(necklace.__file__, local.__file__)"
    assert all(Path(path).is_relative_to(installed) for path in run(python, "-c", code, cwd=tmp_path).split())

    overrides = [f"{key}={value}" for key, value in TINY.items()]
    run(necklace, "train", "neck=sppf", *overrides, cwd=tmp_path)
    (path,) = tmp_path.glob("outputs/runs/*/record.json")
    record = read_record(path)
    assert (record.choices["neck"], record.epochs, record.git) == ("sppf", 1, None)
    assert record.code == code_version(record.config)  # the same wherever the code lies

    study = {
        "question": "Does it run?",
        "baseline": "none",
        "seeds": [0],
        "overrides": TINY,
        "rows": [{"neck": ["none", "spp"]}],
    }
    folder = tmp_path / "experiments" / "tiny"
    folder.mkdir(parents=True)
    (folder / "study.yaml").write_text(yaml.safe_dump(study))
    output = run(necklace, "ablate", "tiny", cwd=tmp_path)
    assert "2 to run" in output
    assert "| spp |" in (folder / "table.md").read_text()
    assert (folder / "report.html").stat().st_size > 10_000
    header = json.loads((folder / "records" / "study.json").read_text())
    assert [run["state"] for run in header["runs"]] == ["done", "done"]
    assert len(list(tmp_path.glob("outputs/tiny/*/record.json"))) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["experiments", "outputs"]
    opened = installed / "opened"
    assert not opened.exists(), opened.read_text()
    run(python, "-c", f"open({str(ROOT / 'pyproject.toml')!r})", cwd=tmp_path)
    assert opened.read_text() == f"{ROOT / 'pyproject.toml'}\n"  # so the watch works
