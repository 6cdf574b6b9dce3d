"""Makes the knockouts that finished runs of a study lack: those of runs that were stopped between their record and this."""

from collections.abc import Callable

from necklace.build import built
from necklace.diagnostics.knockout import FILE, knock_out_run
from necklace.diagnostics.knockout_sites import sites_of
from necklace.run.afterwards import monitor_of
from necklace.study.plan import Plan
from necklace.study.status import StatusReader


def make_missing_knockouts(plan: Plan, status: StatusReader, say: Callable[[str], object]) -> None:
    """Knock out what the runs ask for that have a record, their weights, and no knockout.

    Args:
        plan: The study.
        status: What exists of its runs. A stale run stays as it is: other code trained it.
        say: Takes a sentence for the screen.
    """
    anything: dict[str, bool] = {}
    for run, at in zip(plan.runs, status.all(), strict=True):
        folder, config = at.folder, run.spec.resolved
        if at.state != "done" or at.record is None or not config["callbacks"]["knockout"]:
            continue
        if (folder.path / FILE).exists() or not folder.best.exists():
            continue
        if run.row not in anything:
            anything[run.row] = bool(sites_of(built(config)[0])[0])
        if not anything[run.row]:
            continue
        try:
            content = knock_out_run(folder.path, monitor_of(at.record), own=True)
            say(f"{folder.path.name}: its knockout was missing, and is made")
            notes = content["notes"]
        except (OSError, ValueError) as error:
            notes = [f"knockout: {error}"]
        for note in notes:
            say(f"{folder.path.name}: {note}")
