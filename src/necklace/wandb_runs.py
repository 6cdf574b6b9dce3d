"""W&B's runs in a run's folder: opened, found again, and what their server was found to be.

What W&B may cost is bounded: before a process's first online run its server is asked for a sign of life, every wait has a
limit, and where something fails the run stays on disk, ready for `wandb sync`. W&B writes blocks of 32 KiB, so a killed run's
file lacks its last rows; one that goes on therefore starts another file, with a number after the id.
"""

import os
import ssl
from functools import cache
from http.client import HTTPException
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

import wandb
from rich.console import Console
from wandb.errors import Error as WandbError

from necklace.cell import git_state

# Seconds. Without limits W&B waits 108 s for a server that does not answer, and at the end of a run as long as it takes.
PROBE_S, INIT_S, FINISH_S = 5.0, 5.0, 5.0
# In the folder of an online run until all of it has been uploaded.
UPLOADING = "uploading"
# Other names that W&B has for its modes.
ALIASES = {"dryrun": "offline", "run": "online"}

# What each server was found to be: None if it answers, else why it is left alone from then on.
_found: dict[str, str | None] = {}


def open_run(folder: Path, run_id: str, mode: str, finish_s: float, **about: Any) -> wandb.Run | None:
    """Open a W&B run, offline where the server fails.

    Args:
        folder: Its files go to `wandb/` in there.
        run_id: Its id, or the beginning of it where the folder holds runs already.
        mode: `online` or `offline`.
        finish_s: Seconds that its end may wait for the upload.
        about: What else `wandb.init` is to know.

    Returns:
        The run, or None where W&B does not even start offline, which is told.
    """
    git = git_state()
    for attempt in dict.fromkeys((mode, "offline")):
        number = max((run_number(file) for file in run_files(folder)), default=0) + 1
        try:
            run = wandb.init(
                id=run_id if number == 1 else f"{run_id}-{number}",
                dir=str(folder),
                mode=attempt,  # pyright: ignore[reportArgumentType]
                # A run that is still active, such as a failed one's, would otherwise be handed out and the new config lost.
                reinit="finish_previous",
                settings=wandb.Settings(
                    console="off",
                    silent=True,
                    git_commit=git["sha"] if git else None,
                    disable_git=git is None,
                    init_timeout=INIT_S,
                    finish_timeout=finish_s,
                    finish_timeout_raises=True,
                    x_graphql_retry_max=1,
                    x_graphql_retry_wait_max_seconds=1,
                ),
                **about,
            )
        except Exception as error:  # W&B raises what its own process and its libraries raise, not only its own errors
            words = f"{error}".partition("\n")[0].replace("<no message>", "") or type(error).__name__
            if attempt == "offline":
                tell(f"W&B does not start ({words}); the run goes on without it")
                return None
            _found[_server()] = words
            tell(offline_line(words))
            continue
        if attempt == "online":
            (Path(run.dir).parent / UPLOADING).touch()
        return run
    return None


def arrived(folder: Path) -> bool:
    """Whether all of an online run that has ended was uploaded; if so, it is no longer marked as one that was not.

    W&B ends a run without a word where its server refused a part of it for good; only its log has the error.
    """
    log = folder / "logs" / "debug-internal.log"
    whole = not log.exists() or '"level":"ERROR' not in log.read_text(encoding="utf-8", errors="replace")
    if whole:
        (folder / UPLOADING).unlink(missing_ok=True)
    return whole


def run_files(folder: Path) -> list[Path]:
    """The files of the W&B runs in a folder, the newest last."""
    return sorted(folder.glob("wandb/*run-*/run-*.wandb"), key=lambda file: (run_number(file), file))


def run_number(file: Path) -> int:
    """Which run of its cell a file holds: `run-HASH.wandb` the first, `run-HASH-2.wandb` the second."""
    number = file.stem.rpartition("-")[2]
    return int(number) if file.stem.count("-") > 1 and number.isdigit() else 1


def wandb_mode(mode: str | None) -> tuple[str, str | None]:
    """How runs are to be opened; asks the server once a process, and for no longer than `PROBE_S`.

    Args:
        mode: `online`, `offline`, or None to choose by WANDB_MODE and whether there is a key.

    Returns:
        `online`, `offline`, or `disabled` where WANDB_MODE says so; and where it is offline against the wish, why.

    Raises:
        ValueError: Another mode.
    """
    if not os.environ.get("WANDB_MODE", "unset"):
        del os.environ["WANDB_MODE"]  # exported without a value, which W&B refuses
    said, allowed = f"logger.mode={mode}", "online, offline or null; logger=none leaves W&B out"
    try:
        if mode is None and "WANDB_MODE" in os.environ:
            mode = ALIASES.get(os.environ["WANDB_MODE"], os.environ["WANDB_MODE"])
            said, allowed = f"WANDB_MODE={mode}", "online, offline or disabled"
            if mode == "disabled":
                return mode, None
        mode = mode or ("online" if has_wandb_key() else "offline")
    except (WandbError, ValueError) as error:  # such as a key of the wrong length, or a server's address that is none
        return "offline", " ".join(f"{error}".split())
    if mode not in ("online", "offline"):
        raise ValueError(f"{said}: must be {allowed}")
    if mode == "offline":
        return mode, None
    # W&B's reports on itself go to the same server, and the process waits for them at its end: 10 s to 22 s if it is silent.
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    server = _server()
    if server not in _found:
        _found[server] = _probe(server)
    return ("offline" if _found[server] else "online"), _found[server]


def has_wandb_key() -> bool:
    """Whether an API key is configured (WANDB_API_KEY, settings file or .netrc); asks no server and no person."""
    # W&B would ask the server for the name of the key's owner, to tell it, and wait 5 s for an answer each time.
    wandb.setup(settings=wandb.Settings(silent=True))
    return wandb.login(prompt=False, verify=False)


def offline_line(why: str) -> str:
    """What to tell where runs are offline against the wish."""
    return f"W&B is left alone ({why}); runs are written to disk, from where wandb sync uploads them"


@cache  # so that it is told once
def tell(line: str) -> None:
    """Print a line, the first time that a process has it to say."""
    Console(soft_wrap=True, highlight=False).print(line, markup=False)


def _server() -> str:
    """The server's address, from WANDB_BASE_URL or W&B's settings."""
    return wandb.setup().settings.base_url


def _probe(server: str) -> str | None:
    """Why a server does not answer, or None if it does."""
    outcome: list[str | None] = [f"{server} has not answered within {PROBE_S:.0f} s"]

    def ask() -> None:
        try:
            urlopen(Request(server, method="HEAD"), timeout=PROBE_S).close()
        except HTTPError as error:
            outcome[0] = f"{server} answers with {error.code}" if error.code >= 500 else None
        except URLError as error:
            # Who is asked for another certificate is there; W&B has its own ways of trusting one.
            outcome[0] = None if isinstance(error.reason, ssl.SSLError) else f"{server}: {error.reason}"
        except (OSError, HTTPException) as error:
            outcome[0] = f"{server}: {error}"
        else:
            outcome[0] = None

    # In a thread, since looking up a name has a time limit of its own, and a long one.
    thread = Thread(target=ask, daemon=True)
    thread.start()
    thread.join(PROBE_S)
    return outcome[0]
