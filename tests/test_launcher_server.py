"""The server's list of modules, and the cost of starting it."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from necklace.config import HYDRA_LAZY
from necklace.launcher.preload import FREEZE, PRELOAD, PRELOAD_WANDB

# Runs a job in a process of a server that is started with a list of the caller's own.
EXTRA = """
import sys
from necklace.launcher.job import Job, pack_call
from necklace.launcher.local import LocalOptions, run_jobs
from necklace.launcher.server import start_server
from tests.launcher_calls import report

start_server(["colorsys", "no_such_module"])
call = Job(0, [], [], 1, False, pack_call(report, 0))
loaded = run_jobs([call], LocalOptions(1, 1, "train.py", sys.argv[1], None))[0].return_value["loaded"]
print(*(name in loaded for name in ("colorsys", "necklace.launcher.freeze", "wandb.apis.public")))
"""


@pytest.mark.parametrize("name", [name for name in (*PRELOAD, *PRELOAD_WANDB, FREEZE) if name not in HYDRA_LAZY])
def test_a_preloaded_module_exists(name: str) -> None:
    """multiprocessing skips a module that is missing, without a word."""
    assert find_spec(name) is not None


def test_to_start_the_server_takes_no_heavy_import() -> None:
    heavy = ("torch", "wandb", "lightning_fabric", "hydra_plugins")
    code = f"import sys, necklace.launcher.server; print([name for name in {heavy} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout == "[]\n"


@pytest.mark.slow
def test_a_server_that_cannot_import_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("raise RuntimeError('out of order')")
    code = EXTRA.replace('"colorsys", "no_such_module"', '"broken"')
    command = [sys.executable, "-c", code, str(tmp_path / "locks")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), *filter(None, sys.path)])}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert result.returncode == 1
    assert "RuntimeError: the server that runs are forked from died; what it printed says why" in result.stderr
    assert "out of order" in result.stderr


@pytest.mark.slow
def test_the_server_imports_what_its_caller_asks_for_and_nothing_for_wandb_else(tmp_path: Path) -> None:
    command = [sys.executable, "-c", EXTRA, str(tmp_path / "locks")]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert result.stdout == "True True False\n", result.stderr
