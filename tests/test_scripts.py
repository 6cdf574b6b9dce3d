"""train.py and ablate.py: the package that they import is the one beside them."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("name", ["train.py", "ablate.py"])
def test_a_script_stops_where_another_clones_package_is_found(tmp_path: Path, name: str) -> None:
    shutil.copy(ROOT / name, tmp_path)
    path = {"PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run([sys.executable, str(tmp_path / name)], env=os.environ | path, capture_output=True, text=True)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert str(ROOT / "src" / "necklace") in line
    assert str(tmp_path / "src" / "necklace") in line
    assert f"pip install -e {tmp_path}" in line


def test_a_script_beside_its_own_package_goes_on(tmp_path: Path) -> None:
    shutil.copy(ROOT / "ablate.py", tmp_path)
    (tmp_path / "src").symlink_to(ROOT / "src")
    command = [sys.executable, str(tmp_path / "ablate.py"), "--help"]
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": str(ROOT / "src")}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
