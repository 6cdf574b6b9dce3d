"""The call that a job's process is sent: a function by its name, and its arguments."""

import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from necklace.launcher.job import FunctionName, pack_call, run_call
from tests import launcher_calls

SCRIPT = """
import pickle, sys
from functools import wraps
from inspect import unwrap
from necklace.launcher.job import FunctionName, pack_call, run_call
from dataclasses import dataclass

@dataclass
class Own:
    number: int

def decorated(function):
    @wraps(function)
    def wrapper(*arguments):
        return "decorated", function(*arguments)
    return wrapper

@decorated
def double(own):
    return 2 * own.number

if __name__ == "__main__":
    sys.stdout.buffer.write(pickle.dumps((FunctionName.of(unwrap(double)), pack_call(double, Own(21)))))
"""


def test_a_call_gives_what_the_function_gives() -> None:
    assert run_call(pack_call(launcher_calls.report, 3))["number"] == 3
    with pytest.raises(ValueError, match="over this"):
        run_call(pack_call(launcher_calls.stumble, "this"))


def test_a_function_and_classes_of_the_running_script_are_found_from_another_process(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    name, call = pickle.loads(subprocess.run([sys.executable, script], check=True, capture_output=True).stdout)
    assert name == FunctionName(None, str(script), "double")
    code = f"from necklace.launcher.job import run_call; print(run_call({call!r}))"
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True).stdout == b"('decorated', 42)\n"


@pytest.mark.parametrize("function", [lambda: None, len, "".join, Path.cwd], ids=["lambda", "builtin", "method", "classmethod"])
def test_a_function_without_a_place_in_a_module_is_refused(function: object) -> None:
    with pytest.raises(
        ValueError, match=r"hydra/launcher=local cannot send .* to another process: take a function of a module"
    ):
        pack_call(function)  # pyright: ignore[reportArgumentType]
