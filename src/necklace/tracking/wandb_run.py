"""W&B runs in a run's folder: opening them, finding their files, and asking once whether the server answers.

The time that W&B may take is bounded: before a process's first online run the server is probed, every wait has a limit, and
where something fails the run stays on disk, ready for `wandb sync`. W&B writes blocks of 32 KiB, so a killed run's file lacks
its last rows; a resumed run therefore starts another file, with a number after the id.
"""

import os
import ssl
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPException
from pathlib import Path
from threading import Thread
from typing import Any, TypeVar
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

import wandb
from wandb.errors import Error as WandbError

from necklace.code_version import git_state
from necklace.guard.private import scrubbed, without_home
from necklace.tracking.tracker import print_once

T = TypeVar("T")

# Seconds. Without limits W&B waits 108 s for a server that does not answer, and at the end of a run without end.
PROBE_S, INIT_S, FINISH_S = 5.0, 5.0, 5.0
# A killed process leaves no more than this: the header of a run's file, or a part of it.
EMPTY_BYTES = 7
# In the folder of an online run until all of it has been uploaded.
UPLOADING = "uploading"
# W&B's other names for its modes.
ALIASES = {"dryrun": "offline", "run": "online"}

# Server to None if it answers, else to the reason why it is not asked again.
_found: dict[str, str | None] = {}


def open_run(folder: Path, run_id: str, mode: str, finish_s: float, program: str, **about: Any) -> wandb.Run | None:
    """Open a W&B run, offline where the server fails.

    Args:
        folder: The W&B run's files go to its `wandb/`.
        run_id: The W&B run's id, or the beginning of it where the folder holds runs already.
        mode: `online` or `offline`.
        finish_s: Seconds that its end may wait for the upload.
        program: What W&B calls the program that made the run; the launcher's processes have no script that it could find.
        about: Further arguments of `wandb.init`.

    Returns:
        The run, or None where W&B does not even start offline, which is printed.
    """
    git = git_state()
    # W&B uploads where a run's files lie, and what the command was.
    place = str(folder) if without_home(str(folder)) == str(folder) else os.path.relpath(folder)
    for attempt in dict.fromkeys((mode, "offline")):
        number = max((run_number(file) for file in run_files(folder)), default=0) + 1
        try:
            _leave_dead_service()
            settings = wandb.Settings(
                console="off",
                silent=True,
                program=without_home(program),
                git_commit=git["sha"] if git else None,
                disable_git=git is None,
                init_timeout=INIT_S,
                finish_timeout=finish_s,
                finish_timeout_raises=True,
                x_graphql_retry_max=1,
                x_graphql_retry_wait_max_seconds=1,
                x_executable=without_home(sys.executable),
                x_disable_meta=os.path.expanduser("~").strip("/") in place,
            )
            with _without_launch(), _arguments_without_home():
                run = wandb.init(
                    id=run_id if number == 1 else f"{run_id}-{number}",
                    dir=place,
                    mode=attempt,  # pyright: ignore[reportArgumentType]
                    # Otherwise W&B would return a run that is still active, such as a failed one's, and lose the new config.
                    reinit="finish_previous",
                    settings=settings,
                    **about,
                )
        except Exception as error:  # W&B raises what its own process and its libraries raise, not only its own errors
            words = f"{error}".partition("\n")[0].replace("<no message>", "") or type(error).__name__
            if attempt == "offline":
                print_once(f"W&B does not start ({words}); the run continues without it")
                return None
            _found[_server()] = words
            print_once(offline_line(words))
            continue
        if attempt == "online":
            (Path(run.dir).parent / UPLOADING).touch()
        return run
    return None


def link_beside(folder: Path, files: Path) -> None:
    """Link a W&B run's folder from the one that holds all runs, so that `wandb leet outputs/STUDY` shows them.

    Args:
        folder: The run's folder. Links to its earlier W&B runs, which hold less of the same history, are removed.
        files: The folder of its newest W&B run, somewhere below.
    """
    with suppress(OSError):  # a file system without links; the runs are where they always are
        for link in folder.parent.glob("*run-*"):
            if link.is_symlink() and Path(os.readlink(link)).parts[:1] == (folder.name,):
                link.unlink(missing_ok=True)
        (folder.parent / files.name).symlink_to(os.path.relpath(files, folder.parent), target_is_directory=True)


@contextmanager
def _arguments_without_home() -> Iterator[None]:
    """Within it, the command's arguments are as a record may keep them."""
    before = sys.argv[1:]
    sys.argv[1:] = scrubbed(before)
    try:
        yield
    finally:
        sys.argv[1:] = before


@contextmanager
def _without_launch() -> Iterator[None]:
    """Within it, a new run does not ask W&B Launch for its inputs, unless somebody uses it: to ask, it is imported, for 1 s."""
    step: str = "_detect_and_apply_job_inputs"
    if "wandb.sdk.launch" in sys.modules or not hasattr(wandb.Run, step):
        yield
        return
    before = getattr(wandb.Run, step)
    setattr(wandb.Run, step, lambda run: None)
    try:
        yield
    finally:
        setattr(wandb.Run, step, before)


def arrived(folder: Path) -> bool:
    """Whether all of an online run that has ended was uploaded; if so, its mark as incomplete is removed.

    Where the server refused a part of a run for good, W&B ends the run without a message; only its log has the error.
    """
    log = folder / "logs" / "debug-internal.log"
    whole = not log.exists() or '"level":"ERROR' not in log.read_text(encoding="utf-8", errors="replace")
    if whole:
        (folder / UPLOADING).unlink(missing_ok=True)
    return whole


def run_files(folder: Path) -> list[Path]:
    """The files of the W&B runs in a folder, the newest last."""
    return sorted(folder.glob("wandb/*run-*/run-*.wandb"), key=lambda file: (run_number(file), file))


def unsynced(folder: Path) -> Path | None:
    """The newest W&B run file of a folder if it has still to be uploaded; earlier ones hold less of the same history."""
    newest = next((file for file in reversed(run_files(folder)) if file.stat().st_size > EMPTY_BYTES), None)
    if newest is None or newest.with_suffix(".wandb.synced").exists():
        return None
    offline = newest.parent.name.startswith("offline-")
    return newest if offline or (newest.parent / UPLOADING).exists() else None


def run_number(file: Path) -> int:
    """The number of a W&B run in its folder: 1 for `run-HASH.wandb`, 2 for `run-HASH-2.wandb`."""
    number = file.stem.rpartition("-")[2]
    return int(number) if file.stem.count("-") > 1 and number.isdigit() else 1


def wandb_mode(mode: str | None) -> tuple[str, str | None]:
    """The mode to open runs in; asks the server once a process, and for no longer than `PROBE_S`.

    Args:
        mode: `online`, `offline`, or None to choose by WANDB_MODE and whether there is a key.

    Returns:
        `online`, `offline`, or `disabled` where WANDB_MODE says so; and the reason where online was wanted and is not possible.

    Raises:
        ValueError: Another mode.
    """
    if not os.environ.get("WANDB_MODE", "unset"):
        del os.environ["WANDB_MODE"]  # exported without a value, which W&B refuses
    option, allowed = f"logger.mode={mode}", "online, offline or null; logger=none leaves W&B out"
    try:
        if mode is None and "WANDB_MODE" in os.environ:
            mode = ALIASES.get(os.environ["WANDB_MODE"], os.environ["WANDB_MODE"])
            option, allowed = f"WANDB_MODE={mode}", "online, offline or disabled"
            if mode == "disabled":
                return mode, None
        mode = mode or ("online" if has_wandb_key() else "offline")
    except (WandbError, ValueError) as error:  # such as a key of the wrong length, or an invalid server address
        return "offline", " ".join(f"{error}".split())
    if mode not in ("online", "offline"):
        raise ValueError(f"{option}: must be {allowed}")
    if mode == "offline":
        return mode, None
    # W&B's error reports go to the same server, and the process waits for them at its end: 10 s to 22 s if it is silent.
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    server = _server()
    if server not in _found:
        _found[server] = _probe(server)
    return ("offline" if _found[server] else "online"), _found[server]


def has_wandb_key() -> bool:
    """Whether an API key is configured (WANDB_API_KEY, settings file or .netrc); asks neither the server nor the user."""
    # Unless silent, W&B asks the server for the key's owner, to print the name, and waits 5 s for an answer each time.
    _leave_dead_service()
    return wandb.login(prompt=False, verify=False)


def _leave_dead_service() -> None:
    """Set W&B up; WANDB_SERVICE, which a process hands to those that it starts, may name one that has ended since."""
    try:
        wandb.setup(settings=wandb.Settings(silent=True))
    except Exception:
        if os.environ.pop("WANDB_SERVICE", None) is None:
            raise
        wandb.setup(settings=wandb.Settings(silent=True))


def offline_line(why: str) -> str:
    """The message where runs are offline although online was wanted."""
    return f"W&B is left alone ({why}); runs are written to disk, from where wandb sync uploads them"


def _server() -> str:
    """The server's address, from WANDB_BASE_URL or W&B's settings."""
    return wandb.setup().settings.base_url


def _probe(server: str) -> str | None:
    """The reason why a server does not answer, or None if it does."""
    outcome: list[str | None] = [f"{server} has not answered within {PROBE_S:.0f} s"]

    def ask() -> None:
        try:
            urlopen(Request(server, method="HEAD"), timeout=PROBE_S).close()
        except HTTPError as error:
            outcome[0] = f"{server} answers with {error.code}" if error.code >= 500 else None
        except URLError as error:
            # A server with another certificate does answer; W&B has its own ways of trusting one.
            outcome[0] = None if isinstance(error.reason, ssl.SSLError) else f"{server}: {error.reason}"
        except (OSError, HTTPException) as error:
            outcome[0] = f"{server}: {error}"
        else:
            outcome[0] = None

    # In a thread, since looking up a host name has a long time limit of its own.
    thread = Thread(target=ask, daemon=True)
    thread.start()
    thread.join(PROBE_S)
    return outcome[0]


def at_server(does: str, ask: Callable[[], T]) -> T:
    """What a server answers, for servers that may know a part of W&B only.

    Args:
        does: What the server was hoped to do, such as `keeps a report`.
        ask: Asks it.

    Raises:
        RuntimeError: It does not, in a sentence, whatever W&B's libraries made of its answer.
    """
    try:
        answer = ask()
    except Exception as error:  # an answer without what W&B's own server would say ends in errors of any kind
        words = f"{error}".strip().partition("\n")[0]
        raise RuntimeError(
            f"{_server()} is no server that {does} ({type(error).__name__}{f': {words}' if words else ''}); "
            "--dry-run prints what would be saved"
        ) from error
    return answer


def default_entity() -> str | None:
    """The W&B user or team that runs go to; asks the server."""
    return wandb.Api(timeout=10).default_entity
