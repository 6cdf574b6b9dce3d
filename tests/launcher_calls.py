"""Functions that the launcher's tests have called in processes of their own: a module that imports little."""

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any


def report(number: int) -> dict[str, Any]:
    main = sys.modules["__main__"]
    return {"number": number, "argv": sys.argv, "pid": os.getpid(), "spec": main.__spec__, "loaded": set(sys.modules)}


def stumble(word: str) -> None:
    raise ValueError(f"stumbled over {word}")


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def wait_for_file(path: Path) -> str:
    while not path.exists():
        time.sleep(0.01)
    return path.read_text(encoding="utf-8")


def kill_server() -> None:
    """Kill the server that this process was forked from."""
    os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(60)
