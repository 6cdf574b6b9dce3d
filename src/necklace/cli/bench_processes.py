"""Studies and runs in processes of their own, timed."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

NECKLACE = (sys.executable, "-m", "necklace.cli.main")


def timed(command: Sequence[str], folder: Path, environment: Mapping[str, str] | None = None) -> tuple[float, str]:
    """Run a command to its end.

    Args:
        command: The program and its arguments.
        folder: Where to run it.
        environment: Variables besides this process's.

    Returns:
        Wall-clock seconds, and what it printed.

    Raises:
        RuntimeError: It failed; the message has its error in a line.
    """
    started = time.perf_counter()
    ended = subprocess.run(
        command, cwd=folder, env={**os.environ, **(environment or {})}, capture_output=True, text=True, check=False
    )
    seconds = time.perf_counter() - started
    if ended.returncode:
        lines = ended.stderr.split("\n") + ended.stdout.split("\n")
        said = next((line for line in lines if line.startswith("error: ")), None) or ended.stderr.strip().rpartition("\n")[2]
        raise RuntimeError(f"{' '.join(command)} ended with exit code {ended.returncode}: {said}")
    return seconds, ended.stdout


def write_study(folder: Path, name: str, seeds: int, row: Mapping[str, Any], overrides: Mapping[str, Any]) -> Path:
    """Write a study of one grid of rows.

    Args:
        folder: Where `necklace ablate` will be run.
        name: Of the study.
        seeds: How many.
        row: The grid; its first row is the baseline.
        overrides: Of all runs.

    Returns:
        The file.
    """
    first = {key: value[0] if isinstance(value, list) else value for key, value in row.items()}
    others = [f"{key}={value}" for key, value in first.items() if key != "neck"]
    study = {"question": "How long does it take?", "baseline": ", ".join([first["neck"], *others])}
    study |= {"seeds": list(range(seeds)), "overrides": dict(overrides), "rows": [dict(row)]}
    path = folder / "experiments" / name / "study.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(study))  # JSON is YAML
    return path


def records_of(folder: Path, study: str) -> list[dict[str, Any]]:
    """The records of a study's runs, each with `written`: when, in seconds since the epoch."""
    paths = folder.glob(f"outputs/{study}/*/record.json")
    return [json.loads(path.read_text()) | {"written": path.stat().st_mtime} for path in paths]


def words_of(overrides: Mapping[str, Any]) -> list[str]:
    """Overrides as a command line has them."""
    return [f"{key}={value}" for key, value in overrides.items()]
