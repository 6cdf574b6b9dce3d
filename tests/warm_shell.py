"""A shell's own `python` that asks the tests' process for a warm one, see tests/warm.py: for commands in a script of bash."""

import json
import shlex
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from socketserver import StreamRequestHandler, ThreadingUnixStreamServer
from threading import Thread

from tests.warm import WarmProcess, warm_up

# What the shell starts: a Python that imports next to nothing, and says what the warm process said.
ASK = """
import json, os, socket, sys
with socket.socket(socket.AF_UNIX) as call:
    call.connect(sys.argv[1])
    with call.makefile("rw") as file:
        print(json.dumps([sys.argv[2:], os.getcwd(), dict(os.environ)]), file=file, flush=True)
        code, output, errors = json.loads(file.readline())
sys.stdout.write(output)
sys.stderr.write(errors)
sys.exit(code if code >= 0 else 128 - code)
"""


class _Answer(StreamRequestHandler):
    def handle(self) -> None:
        (script, *arguments), cwd, env = json.loads(self.rfile.readline())
        ended = WarmProcess(script, *arguments, cwd=Path(cwd), env=env).finish()
        self.wfile.write(json.dumps([ended.returncode, ended.stdout, ended.stderr]).encode() + b"\n")


@contextmanager
def warm_command() -> Iterator[str]:
    """The beginning of a command line, for `bash`; a script or the name of a module follows, then its arguments."""
    warm_up()
    with tempfile.TemporaryDirectory() as folder:  # a short path, as that of a socket has to be
        place = str(Path(folder, "socket"))
        with ThreadingUnixStreamServer(place, _Answer) as server:
            thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
            thread.start()
            try:
                yield shlex.join([sys.executable, "-I", "-S", "-c", ASK, place])
            finally:
                server.shutdown()
                thread.join()
