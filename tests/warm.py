"""The project's commands in processes of their own that are warm: forked from one that has imported everything.

A command imports for some four seconds, and its launcher's server for as long. A test of what a command does once it has begun
need not wait for that. Its process is a real one for all that: in a session of its own, its script executed as `__main__`, with
a server of its own and runs that are forked from it, ended by signals, with an exit code. A test of how a command starts, or of
what its environment does to its imports, starts Python.
"""

import atexit
import os
import runpy
import signal
import sys
import tempfile
import traceback
from collections.abc import Mapping, Sequence
from multiprocessing import forkserver, get_context, process, resource_tracker, util
from pathlib import Path
from subprocess import CompletedProcess, TimeoutExpired
from threading import Lock

from necklace.cli import stopping
from necklace.launcher.server import start_server, without_main
from necklace.launcher.worker import _forget_the_server
from necklace.study.preload import PRELOAD

# What the commands import on top of what their runs do.
COMMANDS = (*PRELOAD, "necklace.cli.study", "necklace.cli.train", "necklace.results.write", "necklace.tracking.wandb_study")
# Where this is imported to be a command, the process does not yet stand for what it was forked for.
FIRST = process.current_process()
spawn_cold = util.spawnv_passfds
# Held while one is started: what a thread hides from multiprocessing, another one would take for what was there.
STARTING = Lock()


def warm_up() -> None:
    """Start the server with what the commands import; one that runs already does without, and they import it themselves."""
    start_server(COMMANDS)


class WarmProcess:
    """`python SCRIPT ARGUMENTS`, forked from the server that the launcher has in this process.

    Args:
        script: The script, the name of a module as behind Python's `-m`, or `-c` before code.
        arguments: Its arguments.
        cwd: Its working directory.
        env: All its environment variables. Those that libraries read while they are imported have no effect.
        joined: Whether what it prints as errors goes where the rest goes.
        terminal: The terminal that it writes to, if any; `finish` then gives none of what it has printed.

    Attributes:
        pid: Of the process, and of its group and session.
    """

    def __init__(
        self,
        script: Path | str,
        *arguments: str,
        cwd: Path,
        env: Mapping[str, str],
        joined: bool = False,
        terminal: str | None = None,
    ) -> None:
        warm_up()
        self._arguments = [str(script), *arguments]
        # For its temporary files too, since one that is killed leaves them; what it has started may end a little later.
        self._folder = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        self._files = [Path(self._folder.name, name) for name in ("output", "output" if joined else "errors")]
        for file in self._files:
            file.touch()
        streams = [terminal] * 2 if terminal else [str(file) for file in self._files]
        words = (self._arguments, str(cwd), dict(env) | {"TMPDIR": self._folder.name}, streams)
        self._process = get_context("forkserver").Process(target=_carry_out, args=words)
        with STARTING, without_main():
            self._process.start()
        assert self._process.pid is not None
        self.pid: int = self._process.pid

    def is_alive(self) -> bool:
        """Whether it has not ended yet."""
        return self._process.is_alive()

    def finish(self, timeout: float = 240) -> CompletedProcess[str]:
        """Wait for its end; gives its exit code and what it has printed.

        Raises:
            subprocess.TimeoutExpired: It took too long, and is killed.
        """
        self._process.join(timeout)
        code = self._process.exitcode
        if code is None:
            os.killpg(self.pid, signal.SIGKILL)
            self._process.join()
            raise TimeoutExpired(self._arguments, timeout, self._files[0].read_text())
        output, errors = (file.read_text() for file in self._files)
        self._process.close()
        self._folder.cleanup()
        return CompletedProcess(self._arguments, code, output, errors)


def _carry_out(arguments: Sequence[str], cwd: str, env: Mapping[str, str], files: Sequence[str]) -> None:
    """Be the command, in a process that was forked for it."""
    os.setsid()
    for number, file in enumerate(files, 1):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), number)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    _forget_the_server()
    # As in the first process of a program: it has no parent, and will have a server and a tracker of its own.
    process._parent_process = None  # pyright: ignore[reportAttributeAccessIssue]
    process._current_process = FIRST  # pyright: ignore[reportAttributeAccessIssue]
    resource_tracker._resource_tracker.__init__()
    forkserver._forkserver.__init__()  # pyright: ignore[reportAttributeAccessIssue]
    util.spawnv_passfds = _spawn_server
    os.environ.clear()
    os.environ.update(env)
    tempfile.tempdir = None  # which is asked for again
    os.chdir(cwd)
    # It would leave out what was registered before the fork; a process of its own registers it first, and so calls it last.
    stopping._end = lambda: None
    own = env.get("PYTHONPATH", "").split(os.pathsep)
    sys.path[:0] = [os.path.dirname(arguments[0]), *filter(None, own)]
    sys.argv[:] = arguments
    try:
        if arguments[0] == "-c":
            exec(sys.argv.pop(1), {"__name__": "__main__"})
        elif arguments[0].endswith(".py"):
            runpy.run_path(arguments[0], run_name="__main__")
        else:
            runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)
    finally:
        atexit._run_exitfuncs()  # multiprocessing leaves them out


def _spawn_server(path: bytes, arguments: Sequence[str], fds: Sequence[int]) -> int:
    """Start what multiprocessing starts with `python -c CODE`; its server is forked: all is imported."""
    code = arguments[-1]
    if "forkserver" not in code or len(os.listdir("/proc/self/task")) > 1:  # a fork leaves threads behind
        return spawn_cold(path, arguments, fds)
    pid = os.fork()
    if pid:
        return pid
    try:
        for number in (signal.SIGTERM, signal.SIGINT):
            if callable(signal.getsignal(number)):
                signal.signal(number, signal.SIG_DFL)
        kept = sorted({0, 1, 2, *fds})
        for low, high in zip(kept, [*kept[1:], os.sysconf("SC_OPEN_MAX")], strict=True):
            os.closerange(low + 1, high)
        _forget_the_server()
        forkserver._forkserver.__init__()  # pyright: ignore[reportAttributeAccessIssue]
        exec(code, {})
    except SystemExit:
        os._exit(0)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(1)
