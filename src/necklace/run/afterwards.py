"""What a finished run is asked for besides: its pictures, and what matters in its neck. Where that fails, its record stands."""

import shlex
import time
from typing import Any

from hydra.utils import get_class

from necklace.guard.console import Console
from necklace.record import Record
from necklace.run.fit import asked_monitor
from necklace.run.folder import RunFolder
from necklace.run.loggers import RunLoggers


def monitor_of(record: Record) -> str:
    """The val metric that chose a run's weights; the larger, the better."""
    # Of the identity, over which the run's hash was taken: a record that was found may be somebody else's.
    return asked_monitor(record.config) or get_class(record.identity["task"]["_target_"]).monitor


def look_at(folder: RunFolder, record: Record, callbacks: dict[str, Any], loggers: RunLoggers, console: Console) -> None:
    """Draw and knock out what the run's `callbacks` ask for."""
    lines = []
    if callbacks.get("knockout"):
        lines += _knocked_out(folder, record, loggers)
    if callbacks["pictures"]:
        lines += _drawn(folder)
    for line in lines:
        console.print(line, markup=False)


def _drawn(folder: RunFolder) -> list[str]:
    try:
        from necklace.diagnostics.pictures import draw_run  # here, as few runs ask for it, and matplotlib takes its time

        return draw_run(folder.path, own=True)
    except Exception as error:
        again = shlex.join(["necklace", "inspect", str(folder.path)])
        return [f"pictures: {error}; the run itself is finished, and {again} tries again"]


def _knocked_out(folder: RunFolder, record: Record, loggers: RunLoggers) -> list[str]:
    begun = time.perf_counter()
    try:
        from necklace.diagnostics.knockout import knock_out_run  # here, as few runs ask for it

        content = knock_out_run(folder.path, monitor_of(record), own=True)
        if not content["changes"]:
            return [f"knockout: {note}" for note in content["notes"]]
        loggers.knocked_out(content, record)
    except Exception as error:
        again = shlex.join(["necklace", "inspect", str(folder.path), "--knockout"])
        return [f"knockout: {error}; the run itself is finished, and {again} tries again"]
    seconds = time.perf_counter() - begun
    layers = ", ".join(content["layers"])
    return [f"knockout of {layers}: {seconds:.1f} s; {folder.path / 'knockout.json'}", *content["notes"]]
