"""Train a run, unless its record exists: found? held by another process? stale? failed before?"""

import os
import time
from collections.abc import Callable
from contextlib import closing
from importlib.metadata import PackageNotFoundError
from typing import Any

from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from necklace.atomic import is_full
from necklace.build import datamodule_of, facts_of
from necklace.code_version import git_state
from necklace.config import Composer, cause_of, choices_of, resolved
from necklace.guard.console import Console
from necklace.guard.private import scrubbed, without_home
from necklace.migrations import NewerRecord
from necklace.options.check import check_options, check_split_options
from necklace.options.errors import OptionError
from necklace.options.trainer import trainer_problems
from necklace.record import SCHEMA, Record, pack_bits
from necklace.run.afterwards import look_at, monitor_of
from necklace.run.checks import check_room
from necklace.run.conditions import quiet_lightning, set_threads, versions
from necklace.run.fit import fit, task_of
from necklace.run.folder import RunFolder, check_writable
from necklace.run.loggers import RunLoggers, check_loggers
from necklace.run.ranks import Ranks
from necklace.run.resume import repair
from necklace.run.smoke import smoke_test
from necklace.run.stamp import ForeignCheckpoint
from necklace.spec import RunSpec, run_spec, said_of


class RunFailed(RuntimeError):
    """A run that did not finish. If it had begun to train, its folder holds FAILED with the traceback."""


class RunRefused(RunFailed):
    """A run that could not begin: what it asks for is wrong or not there. It leaves nothing behind."""


class RunStopped(RunRefused):
    """A run that cannot go on here and now, as the disk is full. It goes on from its last checkpoint when there is room."""


class RunFailedBefore(RuntimeError):
    """A run that has failed before, and nobody asked for another try."""


def run_composed(
    config: DictConfig,
    interactive: bool = True,
    told: list[str] | None = None,
    check: Callable[[RunSpec], object] = lambda spec: None,
) -> Record | None:
    """`run` what Hydra has composed in this process; a smoke test gives no record.

    Args:
        config: The config, without its `hydra` node.
        interactive: As in `run`.
        told: As in `run`.
        check: Is given the run before it begins, and may refuse it.

    Raises:
        OptionError: An option is wrong, or has no effect.
    """
    hydra_config = HydraConfig.get()
    choices, overrides = choices_of(hydra_config), list(hydra_config.overrides.task)
    # A study may set an option for all its rows that this one does not read; and the first rank has checked for the others.
    given = overrides if interactive and int(os.environ.get("LOCAL_RANK", "0")) == 0 else []
    check_options(config, choices, given)
    plain = resolved(config)

    def spec_composed() -> RunSpec:
        facts = facts_of(plain)
        check_split_options(facts.digest, facts.own_val, given)
        composer = Composer(GlobalHydra.instance().config_loader(), str(hydra_config.job.config_name))
        said = said_of(config, plain, choices, composer, [*hydra_config.overrides.hydra, *overrides])
        spec = run_spec(plain, choices, overrides, said)
        check(spec)
        return spec

    if plain["trainer"].get("fast_dev_run"):
        smoke_test(spec_composed())
        return None
    ranks = Ranks(plain["trainer"])
    if ranks.rank:
        return _follow(spec_composed, ranks)
    with ranks.leading():
        return _lead(spec_composed(), ranks, interactive, told)


def val_metric(record: Record) -> float:
    """The val metric that chose a run's weights; the larger, the better."""
    return record.metrics[monitor_of(record)]


def run(spec: RunSpec, interactive: bool = True, told: list[str] | None = None) -> Record:
    """Train and test a run, or return its record if it has one.

    Args:
        spec: The run.
        interactive: Whether a person asks for this one run: it then waits for another process that trains the same run, and
            tries again what has failed. A study continues with its next run instead.
        told: Gets the sentences on what was damaged in the run's folder; they are printed as well.

    Returns:
        The record, which is also in the run's folder as `record.json`.

    Raises:
        RunBusy: Another process trains it, and `interactive` is off.
        RunFailedBefore: It has failed before, and neither `interactive` nor rerun=failed asks for another try.
        RunRefused: It could not take its first step; nothing of it is left behind.
        RunStopped: The disk is full.
        RunFailed: Training failed; the folder holds FAILED with the traceback.
        ValueError: The config asks for what cannot be.
    """
    ranks = Ranks(spec.resolved["trainer"])
    if ranks.rank:
        return _follow(lambda: spec, ranks)
    with ranks.leading():
        return _lead(spec, ranks, interactive, told)


def _lead(spec: RunSpec, ranks: Ranks, interactive: bool, told: list[str] | None) -> Record:
    """`run`, as the first of its ranks."""
    started = time.perf_counter()
    git_state()  # now: a commit made while this trains is not what it trains with; nor is an edit
    rerun, trainer = spec.resolved["rerun"], spec.resolved["trainer"]
    if problems := trainer_problems(trainer, spec.resolved["epochs"], spec.resolved["optimizer"]):
        raise OptionError("\n".join(problems))
    set_threads()
    folder, console = RunFolder.of(spec), Console(soft_wrap=True, highlight=False)

    def note(line: str) -> None:
        console.print(line, markup=False)
        if told is not None:
            told.append(line)

    check_writable(spec.root)
    with folder.held(console.print if interactive else None):
        record = _record_or_aside(folder, spec, note)
        stale = record is not None and record.code != spec.code
        again = rerun is True or (rerun == "stale" and stale)
        if record and not again:
            changed = " STALE: other code trained it." if stale else ""
            shown = _shown(record.metrics)
            console.print(f"This run exists: [bold]{folder.path}[/] ({shown}).{changed} rerun=true trains it again.")
            ranks.found(folder)
            return record
        if not (interactive or again) and rerun != "failed" and folder.failed_path.exists():
            raise RunFailedBefore(f"{folder.path}: has failed; rerun=failed tries again")
        _check_installed()
        check_loggers(spec)

        def prepare() -> None:
            if again:
                folder.supersede()
            folder.prepare(spec, note)
            repair(folder, spec.hash, note)
            ranks.train(folder, folder.latest)

        return _train(spec, folder, prepare, ranks, console, started)


def _check_installed() -> None:
    """The record states versions: a package that is missing ends the run before its training, not behind it.

    Raises:
        RunRefused: A package that this project needs is not installed.
    """
    try:
        versions()
    except PackageNotFoundError as error:
        name = error.name
        raise RunRefused(f"{name}: is not installed, and a record states its version; pip install {name}") from error


def _record_or_aside(folder: RunFolder, spec: RunSpec, note: Callable[[str], object]) -> Record | None:
    """The run's record; one that is damaged or of another run is set aside, and the run goes on from its last checkpoint.

    Raises:
        ValueError: It was written by newer code.
    """
    try:
        record = folder.record()
        if record is None or record.hash == spec.hash:
            return record
        problem = f"{folder.record_path}: is the record of another run, {record.name}"
    except NewerRecord:
        raise
    except (ValueError, FileNotFoundError) as error:
        problem = str(error)
    note(f"{problem}; set aside as {folder.set_aside().name}, and the run is finished again")
    return None


def _follow(make_spec: Callable[[], RunSpec], ranks: Ranks) -> Record:
    """Do what the first rank has decided: train with it, or give the record that it has found."""
    started = time.perf_counter()
    with closing(ranks):
        folder, is_trained = ranks.told()
        if not is_trained:
            record = folder.record()
            assert record is not None
            return record
        set_threads()
        try:
            spec = make_spec()
        except Exception as error:
            raise RunRefused(ranks.failed(error, words_of(error)).words) from error
        return _train(spec, folder, lambda: None, ranks, Console(quiet=True), started)


def _train(
    spec: RunSpec, folder: RunFolder, prepare: Callable[[], None], ranks: Ranks, console: Console, started: float
) -> Record:
    """Train, and leave the record behind; or FAILED where training raises, or nothing where it could not begin."""
    console.print(f"[bold]{folder.path}[/]")
    loggers = RunLoggers(spec, folder.path)
    finished: Record | None = None
    is_first = ranks.rank == 0
    refused = prepared = False

    try:
        data = datamodule_of(spec.resolved)
        if data.digest != spec.identity["data"]["digest"]:
            raise ValueError("data: the images have changed since the run was planned")
        with quiet_lightning():
            task = task_of(spec, data)
            if is_first:
                check_room(spec.root, task.model)
            prepare()
            prepared = True
            fitted = fit(spec, data, task, folder, lambda: is_first and loggers.open(), ranks, console)
        ranks.done()
        record = _record(spec, folder, fitted, time.perf_counter() - started)
        if is_first:
            folder.finish(record)
        finished = record
        best = f"best epoch {record.best_epoch + 1}/{record.epochs}: {_shown(record.metrics)}"
        console.print("; ".join([best, *_balance(record)]), markup=False)
        if is_first:
            look_at(folder, record, spec.resolved["callbacks"], loggers, console)
    except Exception as error:
        cause = ranks.failed(error, words_of(error))
        if isinstance(error, ForeignCheckpoint):  # whose it is, only its owner knows: all stays as it is
            raise RunRefused(cause.words) from error
        if is_full(error):
            raise RunStopped(_no_room(error, folder)) from error
        refused = not ranks.begun.steps and cause.kind == "raised"
        if refused:
            raise RunRefused(cause.words) from error
        folder.mark_failed(cause.text)
        raise RunFailed(f"{cause.words}\nFAILED; the traceback is in {folder.failed_path}") from error
    except BaseException:
        ranks.stopped()
        raise
    finally:
        say = (lambda line: None) if refused else (lambda line: console.print(line, markup=False))
        loggers.close(finished, folder.best, folder.pictures, say)
        if refused and prepared and is_first:
            folder.discard()
    return record


def words_of(error: BaseException) -> str:
    """An error as one reads it, never empty: its message and notes, without what Hydra has wrapped around it."""
    cause = cause_of(error)
    text = str(cause).strip()
    # Python's own say what is wrong with the code, and not to whom.
    if not text or isinstance(cause, AttributeError | TypeError | LookupError | NameError | AssertionError):
        text = f"{type(cause).__name__}: {text or 'no message'} (HYDRA_FULL_ERROR=1 shows where)"
    return "\n".join([text, *getattr(cause, "__notes__", [])])


def _no_room(error: BaseException, folder: RunFolder) -> str:
    """A full disk in words: with the path, which the error does not know where it is the screen's, sent to a file."""
    words = words_of(error)
    named = words if str(folder.path.parent) in words or "=" in words else f"{folder.path}: {words}"
    return f"{named}; when there is room, the same command goes on from here"


def _record(spec: RunSpec, folder: RunFolder, fitted: dict[str, Any], wall_seconds: float) -> Record:
    correct = fitted.pop("test_correct")
    data = fitted.pop("data")
    return Record(
        schema=SCHEMA,
        name=folder.name,
        hash=spec.hash,
        choices=spec.choices,
        config=without_home(spec.resolved),
        identity=spec.identity,
        test_correct=None if correct is None else pack_bits(correct),
        git=git_state(),
        code=spec.code,
        versions=versions(),
        wall_seconds=wall_seconds,
        data=data | scrubbed({name: data[name] for name in ("notes", "skipped")}),
        **fitted,
    )


def _shown(metrics: dict[str, float]) -> str:
    """The metrics of a run but those of single classes, such as test/class_acc/cat."""
    return ", ".join(f"{name} {value:.4g}" for name, value in sorted(metrics.items()) if name.count("/") < 2)


def _balance(record: Record) -> list[str]:
    """What an accuracy has to be held against: the share of the majority class, and whether the model just gives one class."""
    majority, only = record.majority(), record.only_prediction()
    parts = [f"majority class of test: {majority[0]}, {100 * majority[1]:.1f} %"] if majority else []
    return [*parts, f"THE MODEL PREDICTS ONE CLASS: {only}"] if only else parts
