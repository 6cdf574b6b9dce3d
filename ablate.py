"""A study, from plan to table: python ablate.py NAME, for what experiments/NAME/study.yaml asks."""

import signal
import sys

# Until there is something to stop in good order, Ctrl-C ends this process without a traceback out of its imports.
if __name__ == "__main__" and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from hydra_plugins._necklace_server import start_server

if __name__ == "__main__" and not {
    "-h",
    "--help",
    "--plan",
    "--table",
    "--verify",
    "--reproduce",
    "--from",
    "--wandb-sync",
} & set(sys.argv):
    start_server()  # which imports, on another core, what this process is about to import as well

import argparse
import gc
import shlex
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from filelock import FileLock
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console

from necklace.study.analysis import analyse
from necklace.study.archive import Archive, archive_of, read_archive, read_costs, write_costs
from necklace.study.compose import Composer
from necklace.study.costs import measure_costs
from necklace.study.execute import execute, plan_lines
from necklace.study.figures import write_figures
from necklace.study.mirror import mirrored, sync, write_table
from necklace.study.plan import METRICS, Plan, make_plan, override, read_study
from necklace.study.runs import archive_of_runs
from necklace.study.states import states
from necklace.study.table import Layout, layout, terminal
from necklace.study.untrained import composed
from necklace.study.verify import reproduce, verify, write_study

HERE = Path(__file__).resolve().parent


def main() -> None:
    """Parse the command and carry it out; exit code 1 where a cell is not done or something does not hold."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    arguments = _parse()
    console = Console(soft_wrap=True, highlight=False, markup=False)
    try:
        if arguments.root:
            code = table_of_runs(arguments.root, arguments.metric or METRICS[0], arguments.figures, console)
        else:
            code = study(arguments, console)
    except KeyboardInterrupt:
        sys.exit("stopped; the same command goes on from here")
    except (OSError, ValueError, RuntimeError, HydraException, OmegaConfBaseException) as error:
        sys.exit(f"error: {error}")
    gc.freeze()  # the interpreter's end would look through all that was imported: 1.3 s
    sys.exit(code)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Run what is missing of a study and write its tables, figures and report.",
        epilog="Overrides (key=value) are Hydra's, of all cells; hydra.launcher.slots=N runs so many cells side by side.",
    )
    parser.add_argument("name", nargs="?", help="folder below experiments/")
    parser.add_argument("overrides", nargs="*", default=[], metavar="key=value")
    instead = parser.add_mutually_exclusive_group()
    instead.add_argument("--plan", action="store_true", help="only say what is there and what is missing")
    instead.add_argument("--table", action="store_true", help="run nothing, write the tables of what is there")
    parser.add_argument("--retry-failed", action="store_true", help="run failed cells again")
    parser.add_argument("--rerun-stale", action="store_true", help="train cells again that other code has trained")
    parser.add_argument("--seeds", type=int, metavar="N", help="so many seeds instead of the study's")
    parser.add_argument(
        "--allow", action="append", default=[], metavar="FIELD", help="let a field differ; printed below the table"
    )
    instead.add_argument("--verify", action="store_true", help="derive everything committed from records/ and compare")
    instead.add_argument("--reproduce", type=int, metavar="K", help="train K random cells again and compare with their records")
    instead.add_argument("--wandb-sync", action="store_true", help="upload the runs that W&B does not have yet; run nothing")
    parser.add_argument("--config-dir", type=Path, metavar="DIR", help="more configs, such as a neck of yours")
    instead.add_argument(
        "--from", dest="root", type=Path, metavar="DIR", help="a table of any runs, such as those in outputs/demo"
    )
    parser.add_argument(
        "--metric",
        choices=METRICS,
        metavar="METRIC",
        help=f"with --from: one of {', '.join(METRICS)}; the first if none is given",
    )
    parser.add_argument("--figures", type=Path, metavar="DIR", help="with --from: also draw figures into this folder")
    arguments = parser.parse_intermixed_args()
    if (arguments.name is None) == (arguments.root is None):
        parser.error("one of NAME and --from DIR, please")
    if arguments.root is None and (arguments.metric or arguments.figures):
        parser.error("--metric and --figures go with --from DIR; a study's metric stands in its study.yaml")
    if arguments.config_dir and not arguments.config_dir.is_dir():
        parser.error(f"--config-dir {arguments.config_dir}: there is no such folder")
    if arguments.name and "=" in arguments.name:
        parser.error(f"the study's name comes before overrides such as {arguments.name}")
    return arguments


def study(arguments: argparse.Namespace, console: Console) -> int:
    """Plan, run, tabulate, or check a study."""
    folder = Path("experiments") / arguments.name
    if arguments.verify:
        return _verify(read_archive(folder), folder, console)
    if arguments.reproduce is not None:
        return _reproduce(read_archive(folder), arguments.reproduce, arguments.overrides, console)
    read = read_study(folder / "study.yaml")
    own = [text for text in arguments.overrides if not text.lstrip("+~").startswith("hydra")]
    for_hydra = [text for text in arguments.overrides if text not in own]
    for text in own:
        if text.lstrip("+~").partition("=")[0] in ("seed", "study", "rerun"):
            raise ValueError(f"{text}: the study sets this; see --seeds, --retry-failed and --rerun-stale")
    if arguments.config_dir:
        for_hydra.append(override("hydra.searchpath", [f"file://{arguments.config_dir.resolve()}"]))
    earlier = read_archive(folder) if (folder / "records" / "study.json").exists() else None
    kept = earlier.cells if earlier else ()
    with initialize_config_dir(str(HERE / "configs"), version_base="1.3"):
        searched = [text for text in for_hydra if text.startswith("hydra.searchpath")]
        plan = make_plan(read, own + searched, arguments.seeds)
        found = states(plan)
        rerun = ({"failed"} if arguments.retry_failed else set()) | ({"stale"} if arguments.rerun_stale else set())
        for line in plan_lines(plan, found, rerun):
            console.print(line)
        recorded = {cell.record.cell_hash for cell in kept if cell.record}
        elsewhere = sum(c.cell_hash in recorded and at.state == "missing" for c, at in zip(plan.cells, found, strict=True))
        if elsewhere:
            console.print(f"{elsewhere} of them were trained elsewhere and are in records/: --table makes the table of these,")
            console.print("while a run trains them again")
        if arguments.plan:
            return 0
        if arguments.wandb_sync:
            lines, complete = sync(plan, found)
            for line in lines:
                console.print(line)
            return 0 if complete else 1
        seeds = ["--seeds", str(arguments.seeds)] if arguments.seeds else []
        added = [*own, *seeds, *(part for field in arguments.allow for part in ("--allow", field))]
        if earlier:
            _check_replaced(plan, earlier, added, arguments.table, folder, console)
        if not arguments.table:
            execute(plan, for_hydra, HERE / "train.py", arguments.retry_failed, arguments.rerun_stale, console)
            found = states(plan)
        archive = archive_of(plan, found, kept, arguments.allow, added, {})
        analyse(archive)  # what is not fair need not be measured
        archive = replace(archive, costs=_costs(plan, archive, folder, not arguments.table))
        in_wandb = None if arguments.table else mirrored(plan)
    code, table = _write(archive, folder, console)
    line = write_table(table, plan, in_wandb[0]) if in_wandb else None
    if line:
        console.print(line)
    return code


def _check_replaced(
    plan: Plan, earlier: Archive, added: Sequence[str], only_table: bool, folder: Path, console: Console
) -> None:
    """Results that the plan has no place for go when its table is written: only if study.yaml asks for others."""
    planned = {cell.cell_hash for cell in plan.cells}
    lost = [cell.cell for cell in earlier.cells if cell.record and cell.record.cell_hash not in planned]
    if not lost:
        return
    held, one = f"{folder} holds {len(lost)} results", f"(such as {lost[0]})"
    before, now = (shlex.join(_without_allow(arguments)) for arguments in (earlier.arguments, added))
    if before and before != now:
        raise ValueError(
            f"{held} of ablate.py {plan.study.name} {before} {one}, which would be removed without that; give it again, "
            f"put it into study.yaml, or remove {folder / 'records'}"
        )
    if now:
        raise ValueError(
            f"{held} that these overrides or seeds have no place for {one}; "
            "give them a study of their own: experiments/OTHER/study.yaml"
        )
    if only_table:
        raise ValueError(
            f"{held} that study.yaml no longer asks for {one}: --table would only remove them, "
            "without it they are replaced by what it asks for now"
        )
    console.print(f"{held} that study.yaml no longer asks for {one}; they will be removed")


def _without_allow(arguments: Sequence[str]) -> list[str]:
    """A command's arguments without --allow FIELD, which changes no cell."""
    return [text for n, text in enumerate(arguments) if "--allow" not in (text, arguments[n - 1] if n else "")]


def _costs(plan: Plan, archive: Archive, folder: Path, measure: bool) -> dict[str, dict]:
    """The rows' costs: those in the folder if they are of the same cells and code, else measured now."""
    done = {cell.record.cell_hash for cell in archive.cells if cell.record}
    first = {cell.row: cell for cell in reversed(plan.cells) if cell.cell_hash in done}
    rows = {row: first[row] for row in plan.rows if row in first}

    def known() -> dict[str, dict]:
        marks = {row: [cell.cell_hash, cell.code] for row, cell in rows.items()}
        return {row: cost for row, cost in read_costs(folder).items() if [cost["cell_hash"], cost["code"]] == marks.get(row)}

    if not measure or known().keys() == rows.keys():
        return known()
    with FileLock(plan.root / ".locks" / "costs.lock"):  # of two ablate.py, the second finds what the first has measured
        if known().keys() == rows.keys():
            return known()
        composer = Composer(GlobalHydra.instance().config_loader(), "train")
        measured = measure_costs({row: composed(composer, cell.overrides)[0] for row, cell in rows.items()}, plan.pool)
        costs = {row: cost | {"cell_hash": rows[row].cell_hash, "code": rows[row].code} for row, cost in measured.items()}
        write_costs(costs, folder)
    return costs


def _write(archive: Archive, folder: Path, console: Console) -> tuple[int, Layout]:
    table = write_study(archive, folder)
    _print(table, archive.name)
    lost = [cell for cell in archive.cells if cell.record is None]
    console.print(f"{folder}: runs.csv, table.md, table.tex, figures/, records/, report.html")
    return 1 if lost else 0, table


def _print(table: Layout, title: str) -> None:
    Console().print(terminal(table, title))
    console = Console(soft_wrap=True, highlight=False, markup=False)
    for note in [table.caption, *table.notes]:
        console.print(note)


def _verify(archive: Archive, folder: Path, console: Console) -> int:
    problems = verify(archive, folder)
    for problem in problems:
        console.print(f"{folder}: {problem}")
    if not problems:
        done = sum(1 for cell in archive.cells if cell.record)
        console.print(f"{folder}: tables, figures and report are what the {done} records give")
    return 1 if problems else 0


def _reproduce(archive: Archive, count: int, overrides: Sequence[str], console: Console) -> int:
    with tempfile.TemporaryDirectory(prefix="reproduce-") as scratch:
        repetitions = reproduce(archive, count, Path(scratch), overrides, np.random.default_rng())
    for again in repetitions:
        due = (
            "bitwise"
            if not again.why_not_bitwise
            else f"within {archive.tolerance} of {archive.metric} ({again.why_not_bitwise})"
        )
        weights = "equal weights" if again.same_weights else "other weights"
        verdict = "holds" if again.holds else "DOES NOT HOLD"
        console.print(f"{again.cell}: {verdict}, {due}: {weights}, largest difference {again.difference:.3g}")
    return 0 if all(again.holds for again in repetitions) else 1


def table_of_runs(root: Path, metric: str, figures: Path | None, console: Console) -> int:
    """Print the table of the runs below a folder, whatever they are."""
    archive = archive_of_runs(root, metric)
    results = analyse(archive)
    if figures:
        write_figures(results, figures)
    _print(layout(results), str(root))
    return 1 if any(cell.record is None for cell in archive.cells) else 0


if __name__ == "__main__":
    main()
