"""Carries out `necklace ablate`: a study from plan to table, or one of the checks of its records.

What a plan does not need is imported when it is: statistics, figures and W&B take a second.
"""

import argparse
import math
import shlex
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from hydra import initialize_config_dir

from necklace.cli.ablate import overrides_of
from necklace.cli.stopping import at_once
from necklace.cli.train import CONFIGS
from necklace.guard.console import Console
from necklace.guard.private import without_home
from necklace.launcher.slurm import queue_line
from necklace.study.collect import Kept, collect, rules_now
from necklace.study.plan import Plan, make_plan, row_settings
from necklace.study.progress import plan_lines
from necklace.study.rules import write_rules
from necklace.study.status import StatusReader
from necklace.study.store import StudyRecords, read_records
from necklace.study.study_file import EXPERIMENTS, STUDY_FILE, read_study
from necklace.tracking.tracker import wandb_options

if TYPE_CHECKING:
    from necklace.cli.until import Until
    from necklace.results.results import Results
    from necklace.results.table import TableText

TRAIN = Path(__file__).with_name("train.py")


def carry_out(arguments: argparse.Namespace) -> int:
    """Do what was asked for; gives the exit code."""
    console = Console(soft_wrap=True, highlight=False, markup=False)
    if arguments.root:
        return _table_of_runs(arguments.root, arguments.metric, arguments.figures, console)
    folder = EXPERIMENTS / arguments.name
    if arguments.verb == "verify":
        return _verify(read_records(folder), folder, console)
    if arguments.verb == "metric":
        return _table_by_metric(read_records(folder), arguments.metric, folder)
    if arguments.verb == "reproduce":
        return _reproduce(read_records(folder), folder, arguments, console)
    return _study(arguments, folder, console)


def _study(arguments: argparse.Namespace, folder: Path, console: Console) -> int:
    """Plan a study, and run it, write its tables, or upload it."""
    file = read_study(folder / STUDY_FILE)
    own, for_hydra = overrides_of(arguments)
    kept = Kept(folder)
    if kept.problem:
        console.print(f"{kept.problem}; it is passed over, and written anew with the table")
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        count = arguments.most_seeds if arguments.until_decided else arguments.seeds
        plan = make_plan(file, own, count, for_hydra, arguments.composer, arguments.trust)
        status = StatusReader(plan)
        rerun = ({"failed"} if arguments.retry_failed else set()) | ({"stale"} if arguments.rerun_stale else set())
        until = _until(plan, status, kept, arguments, console) if arguments.until_decided else None
        plan = until.plan if until else plan
        _print_plan(status, rerun, kept, console, until)
        if arguments.verb == "plan":
            return 0
        with at_once():
            from necklace.results.analysis import analyse
            from necklace.results.comparability import check_comparable
            from necklace.results.write import write_study
            from necklace.study.execute import execute
            from necklace.study.knockouts import make_missing_knockouts
            from necklace.study.profile import row_costs
        if arguments.verb == "sync":
            return _sync(plan, status, console)
        given = _given(arguments, own)
        _check_replaced(plan, kept, given, folder)
        trains = arguments.verb == "run"
        rules = rules_now(plan, status, folder)
        if trains:
            write_rules(rules, folder)  # before the first result
        refused = execute(status, TRAIN, rerun, lambda: _logger_settings(plan, console), console, until) if trains else {}
        if trains:
            make_missing_knockouts(plan, status, console.print)
        runs = collect(plan, status, kept, refused)
        undecided: list[str] = []
        if until:
            undecided, (plan, runs) = until.undecided(runs), until.counted(runs)
            rules = rules_now(plan, status.narrowed(plan), folder)
        study = StudyRecords(plan.info(arguments.allow, given), runs, {}, rules)
        differences = check_comparable(study)  # runs that cannot be compared need not be measured
        study = replace(study, costs=row_costs(plan, study.runs, folder, trains, console.print))
    results = analyse(study, differences)
    table, retired = write_study(study, results, folder)
    _print_retired(retired, folder, console)
    _print(table, study.info.name)
    console.print(f"{folder}: runs.csv, table.md, table.tex, figures/, records/, report.html")
    if trains:
        _table_to_wandb(table, results, plan, folder, console)
    for sentence in undecided:
        console.print(sentence)
    return 1 if undecided or any(run.record is None for run in study.runs) else 0


def _sync(plan: Plan, status: StatusReader, console: Console) -> int:
    with at_once():
        from necklace.tracking.wandb_study import sync
    lines, complete = sync(plan, status.all())
    for line in lines:
        console.print(line)
    return 0 if complete else 1


def _table_to_wandb(table: "TableText", results: "Results", plan: Plan, folder: Path, console: Console) -> None:
    if wandb_options(plan.loggers) is None:  # then W&B need not be installed
        return
    with at_once():
        from necklace.tracking.wandb_study import wandb_mode_of, write_table
    mode = wandb_mode_of(plan)
    line = write_table(table, results, plan, folder / "figures", mode[0]) if mode else None
    if line:
        console.print(line)


def _logger_settings(plan: Plan, console: Console) -> dict[str, dict[str, Any]]:
    """The settings of each run's loggers, by its hash; without W&B among them it is not imported."""
    if wandb_options(plan.loggers) is None:
        return row_settings(plan)
    with at_once():
        from necklace.tracking.wandb_study import logger_settings
    return logger_settings(plan, console)


def _print_retired(retired: Sequence[str], folder: Path, console: Console) -> None:
    if retired:
        console.print(f"{len(retired)} results that study.yaml no longer asks for are in {folder / 'records' / 'retired'}")
        console.print(f"(such as {retired[0]}); they come back when it asks for them again")


def _given(arguments: argparse.Namespace, own: Sequence[str]) -> list[str]:
    """What the command was given, as records/ keeps it."""
    seeds = ["--seeds", str(arguments.seeds)] if arguments.seeds else []
    if arguments.until_decided:
        seeds = ["--until-decided", *(["--max-seeds", str(arguments.max_seeds)] if arguments.max_seeds else [])]
    return without_home([*own, *seeds, *(part for field in arguments.allow for part in ("--allow", field))])


def _until(plan: Plan, status: StatusReader, kept: Kept, arguments: argparse.Namespace, console: Console) -> "Until":
    """What asks for the runs of --until-decided."""
    with at_once():
        from necklace.cli.until import Until, anytime_plan

    plan = anytime_plan(plan, status, kept)
    ignored = {"stale"} if arguments.rerun_stale else set()
    rules = rules_now(plan, status, kept.folder)
    return Until(plan, rules, kept, arguments.budget or math.inf, ignored, arguments.allow, console.print)


def _print_plan(status: StatusReader, rerun: set[str], kept: Kept, console: Console, until: "Until | None") -> None:
    plan, found = status.plan, status.all()
    if until:
        plan, found = until.asked_now(found)
    for line in plan_lines(plan, found, rerun):
        console.print(line)
    if line := queue_line(plan.root):
        console.print(f"  {line}")
    elsewhere = sum(run.spec.hash in kept and at.state == "missing" for run, at in zip(plan.runs, found, strict=True))
    if elsewhere:
        console.print(f"{elsewhere} of them were trained elsewhere and are in records/: --table makes the table of these,")
        console.print("while a run trains them again")
    if until:
        for line in until.forecast_lines(collect(status.plan, status, kept)):
            console.print(line)


def _check_replaced(plan: Plan, kept: Kept, given: Sequence[str], folder: Path) -> None:
    """Refuse to write a table that has no place for earlier results, unless it is study.yaml that no longer asks for them.

    Raises:
        ValueError: Overrides or seeds of this command, or of the one that wrote them, are the reason.
    """
    planned = {run.spec.hash for run in plan.runs}
    lost = [run.name for run_hash, run in kept.listed.items() if run_hash not in planned]
    if not lost or kept.info is None:
        return
    held, one = f"{folder} holds {len(lost)} results", f"(such as {lost[0]})"
    before, now = (shlex.join(_without_allow(arguments)) for arguments in (kept.info.arguments, given))
    if before == now:
        return
    if before:
        raise ValueError(
            f"{held} of ablate.py {shlex.quote(plan.name)} {before} {one}, which the table would lose without that; "
            f"give it again, put it into study.yaml, or remove {folder / 'records'}"
        )
    raise ValueError(
        f"{held} that these overrides or seeds have no place for {one}; "
        "give them a study of their own: experiments/OTHER/study.yaml"
    )


def _without_allow(arguments: Sequence[str]) -> list[str]:
    """A command's arguments without --allow FIELD, which changes no run."""
    return [text for n, text in enumerate(arguments) if "--allow" not in (text, arguments[n - 1] if n else "")]


def _print(table: "TableText", title: str) -> None:
    from necklace.results.table import terminal

    Console().print(terminal(table, title))
    console = Console(soft_wrap=True, highlight=False, markup=False)
    for note in [*table.answer, table.caption, *table.notes]:
        console.print(note)


def _verify(study: StudyRecords, folder: Path, console: Console) -> int:
    from necklace.results.verify import verify

    problems = verify(study, folder)
    for problem in problems:
        console.print(f"{folder}: {problem}")
    if not problems:
        done = sum(1 for run in study.runs if run.record)
        console.print(f"{folder}: tables, figures and report are what the {done} records give")
    return 1 if problems else 0


def _table_by_metric(study: StudyRecords, metric: str, folder: Path) -> int:
    """Print the table of a study's records by another metric than its own."""
    from necklace.results.analysis import analyse
    from necklace.results.table import table_text

    known = sorted({name for run in study.runs if run.record for name in run.record.metrics})
    if metric not in known:
        raise ValueError(f"{folder}: no run has the metric {metric}; there are: {', '.join(known) or 'none'}")
    _print(table_text(analyse(replace(study, info=replace(study.info, metric=metric), rules=None))), study.info.name)
    return 0


def _reproduce(study: StudyRecords, folder: Path, given: argparse.Namespace, console: Console) -> int:
    from necklace.results.analysis import analyse
    from necklace.results.write import write_study
    from necklace.study.reproduce import reproduce, with_repetitions

    trust = [*given.trust, *([given.config_dir] if given.config_dir else [])]

    repetitions = []
    with tempfile.TemporaryDirectory(prefix="reproduce-") as scratch:
        for again in reproduce(study, given.reproduce, Path(scratch), given.overrides, np.random.default_rng(), trust):
            due = (
                "bitwise"
                if not again.why_not_bitwise
                else f"within {study.info.tolerance} of {study.info.metric} ({again.why_not_bitwise})"
            )
            weights = "equal weights" if again.same_weights else "other weights"
            verdict = "holds" if again.holds else "DOES NOT HOLD"
            console.print(f"{again.name}: {verdict}, {due}: {weights}, largest difference {again.difference:.3g}")
            repetitions.append(again)
    now = read_records(folder)  # which may have changed meanwhile
    told = with_repetitions(now, repetitions)
    if told.runs != now.runs:
        if aside := [run.name for run in now.runs if run.state == "damaged"]:
            console.print(f"{folder}: no note of it is in the table, since {aside[0]} is damaged")
        else:
            _print_retired(write_study(told, analyse(told), folder)[1], folder, console)
            console.print(f"{folder}: a note of it is in the table")
    return 0 if all(again.holds for again in repetitions) else 1


def _table_of_runs(root: Path, metric: str | None, figures: Path | None, console: Console) -> int:
    """Print the table of the runs below a folder, whatever they are."""
    from necklace.results.analysis import analyse
    from necklace.results.figures import write_figures
    from necklace.results.table import table_text
    from necklace.study.adhoc import study_of_runs

    study = study_of_runs(root, metric)
    results = analyse(study)
    if figures:
        write_figures(results, figures)
    _print(table_text(results), str(root))
    return 1 if any(run.record is None for run in study.runs) else 0
