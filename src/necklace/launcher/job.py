"""A job: one run as the launcher hands it to a process of its own."""

import importlib
import os
import pickle
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing import spawn
from operator import attrgetter
from types import FunctionType
from typing import Any


@dataclass(frozen=True)
class Job:
    """One run, ready to be started on any free slot.

    Attributes:
        index: Its number among the jobs; names its log file and its result.
        overrides: Those of the run, for messages.
        argv: Command line of this single run: by it Lightning starts the run's other processes.
        processes: Number of its processes, one for each device.
        on_gpu: Whether it uses GPUs where the machine has any.
        call: The function to call with its arguments, from `pack_call`.
    """

    index: int
    overrides: Sequence[str]
    argv: Sequence[str]
    processes: int
    on_gpu: bool
    call: bytes


@dataclass(frozen=True)
class FunctionName:
    """Where another process finds a function. A function with Hydra's decorator, or of the running script, does not pickle.

    Attributes:
        module: Its module, or None if that is the script that the user started.
        script: Path of that script.
        name: Its name within the module, such as `main`.
    """

    module: str | None
    script: str
    name: str

    @classmethod
    def of(cls, function: Callable[..., Any]) -> "FunctionName":
        """The name of a function.

        Raises:
            ValueError: The function has no name by which another process could find it.
        """
        if not isinstance(function, FunctionType) or "<" in function.__qualname__:
            raise ValueError(f"hydra/launcher=local cannot send {function!r} to another process: take a function of a module")
        script = os.path.abspath(getattr(sys.modules["__main__"], "__file__", None) or "")
        return cls(None if function.__module__ == "__main__" else function.__module__, script, function.__qualname__)

    def load(self) -> Callable[..., Any]:
        """The function, with its decorators."""
        if self.module is None:
            # As multiprocessing would: the script becomes `__main__`, executed under another name and with a `__spec__` of
            # None, by which Lightning knows that the other ranks are to be started by the script's path.
            spawn.import_main_path(self.script)
        module = sys.modules["__main__"] if self.module is None else importlib.import_module(self.module)
        return attrgetter(self.name)(module)


def pack_call(function: Callable[..., Any], *arguments: Any) -> bytes:
    """A call for a job's process.

    Args:
        function: A function at the top level of a module. What it returns has to pickle. A JobReturn that it returns is the
            job's result as it is; any other value becomes the `return_value` of one.
        arguments: What it is called with; they have to pickle.

    Raises:
        ValueError: The function has no name by which another process could find it.
    """
    # The arguments are bytes of their own: to unpickle them may take the module that the function is in.
    return pickle.dumps((FunctionName.of(function), pickle.dumps(arguments)))


def run_call(call: bytes) -> Any:
    """Carry out a call of `pack_call` in this process; gives what the function returns."""
    name, arguments = pickle.loads(call)
    function = name.load()
    return function(*pickle.loads(arguments))
