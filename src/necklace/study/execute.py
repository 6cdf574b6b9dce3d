"""Run what is missing of a plan, through this project's launcher or another of Hydra's.

Several commands may work on one study at once: a run is held by the process that trains it, and the others continue with the
next run and come back.
"""

import itertools
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from hydra.core.global_hydra import GlobalHydra
from hydra.core.utils import JobReturn
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console

from necklace.code_version import code_version
from necklace.data.splits import share_splits
from necklace.launcher.hydra_jobs import JobLost, config_flags, error_of, hydra_launcher
from necklace.launcher.job import Job, pack_call
from necklace.launcher.local import LocalOptions, is_local, job_processes, run_jobs
from necklace.run.folder import RunBusy
from necklace.run.loggers import check_loggers
from necklace.run.runner import RunRefused, run
from necklace.spec import RunSpec
from necklace.study import elsewhere
from necklace.study.overrides import override
from necklace.study.plan import PlannedRun
from necklace.study.progress import POLL_SECONDS, Watch, overview
from necklace.study.status import RunStatus, StatusReader

# Settings with which a run in some state is launched.
RERUN: Mapping[str, Mapping[str, Any]] = {
    "missing": {},
    "damaged": {},
    "stale": {"rerun": "stale"},
    "failed": {"rerun": "failed"},
}

# Errors of runs that did not begin: a run that has begun ends in RunFailed, and a process that died in a RuntimeError.
REFUSALS = (RunRefused, ValueError, OSError, HydraException, OmegaConfBaseException)

Settings = Mapping[str, Any]
"""Dotted key to value, of options that do not belong to a run's identity."""


def train_planned(spec: RunSpec) -> list[str]:
    """Train a run of a study in a process of the launcher, unless another process does; gives sentences on what was damaged."""
    told: list[str] = []
    # The version of what this process has imported, which is what trains, whatever the files hold by now.
    elsewhere.check_code(spec.code, code_version(spec.resolved))
    run(spec, interactive=False, told=told)
    return told


class Agenda(Protocol):
    """What is asked for of a plan, where that depends on what its runs give.

    Attributes:
        until: No run starts after this moment of `time.monotonic`.
    """

    until: float

    def asked(self, found: Sequence[RunStatus]) -> Sequence[str]:
        """The hashes of all runs that are asked for, in their order, given what exists of the plan's runs; more as more end."""
        ...

    def heading(self) -> str:
        """How far it is, in words, as `asked` has found it last."""
        ...


class _Course:
    """The runs of one call: which are due, which have ended, and which could not begin."""

    def __init__(self, status: StatusReader, rerun: set[str], agenda: Agenda | None, console: Console) -> None:
        self.status, self.agenda, self.console = status, agenda, console
        self.refused: dict[str, str] = {}
        self._ended: set[str] = set()
        self._states = {"missing", "damaged", *rerun}

    def look(self) -> tuple[list[tuple[PlannedRun, RunStatus]], bool]:
        """The runs that are due, and whether another process trains one that is asked for."""
        found = self.status.all()
        pairs = {run.spec.hash: (run, at) for run, at in zip(self.status.plan.runs, found, strict=True)}
        wanted = list(pairs.values()) if self.agenda is None else [pairs[one] for one in self.agenda.asked(found)]
        due = [(run, at) for run, at in wanted if run.spec.hash not in self._ended and at.state in self._states]
        return due, any(at.state == "running" for _, at in wanted)

    def ended(self, run: PlannedRun, returned: JobReturn, watch: Watch) -> None:
        """Take note of what a launcher gives for a run; a run that another process holds has not ended."""
        if _is_busy(returned) or run.spec.hash in self._ended:
            return
        self._ended.add(run.spec.hash)
        error = error_of(returned)
        if isinstance(error, (*REFUSALS, JobLost)):
            words = str(error).strip() or type(error).__name__  # without notes: tracebacks
            self.refused[run.spec.hash] = words
            watch.refused(run, words, "not finished" if isinstance(error, JobLost) else "refused")
        _mark_failed(self.status, run, returned)
        for line in _told(returned):
            watch.note(run, line)


def execute(
    status: StatusReader,
    script: Path,
    rerun: set[str],
    settings: Callable[[], Mapping[str, Settings]],
    console: Console,
    agenda: Agenda | None = None,
) -> dict[str, str]:
    """Run what is missing, each run at most once in this call; a run that fails is marked and does not stop the others.

    Args:
        status: Of the plan; Hydra has to be initialised with the configs.
        script: The file of which a command line trains one run, for launchers that start processes.
        rerun: States that are run again besides missing runs: `failed`, from their last checkpoint, and `stale`.
        settings: Gives, by a run's hash, settings such as its name in W&B; asked once, if anything is to be run.
        console: Where to show the progress.
        agenda: Which runs of the plan are asked for, and until when; None for all of them.

    Returns:
        A run's hash to a sentence, of the runs that could not begin. These leave nothing behind.
    """
    course = _Course(status, rerun, agenda, console)
    waiting = False
    for_logger: Mapping[str, Settings] | None = None
    while True:
        todo, others = course.look()
        if agenda is not None and time.monotonic() >= agenda.until:
            return course.refused
        if not todo:
            if not others:
                return course.refused
            if not waiting:
                console.print("another process is running the rest; waiting for it")
                waiting = True
            time.sleep(POLL_SECONDS)
            continue
        check_loggers(todo[0][0].spec)  # all runs have the same; once, rather than each run failing for it
        for_logger = settings() if for_logger is None else for_logger
        _launch(course, todo, script, for_logger)


def _launch(
    course: _Course, todo: list[tuple[PlannedRun, RunStatus]], script: Path, for_logger: Mapping[str, Settings]
) -> None:
    """Launch runs and wait for them; through this project's launcher also those that become due meanwhile."""
    status, agenda = course.status, course.agenda
    heading = None if agenda is None else agenda.heading
    first = [run for run, _ in todo]
    with overview(status, status.all(), first, course.console, heading) as watch, share_splits(status.plan.images):

        def ended(index: int, returned: JobReturn) -> None:
            course.ended(todo[index][0], returned, watch)

        def due() -> Iterator[RunSpec | None]:
            number = 0
            while True:
                for run, at in todo[number:]:
                    yield _adapted(run, at, for_logger)
                number = len(todo)
                if agenda is None:
                    return
                watch.tell_ended()
                known = {run.spec.hash for run, _ in todo}
                more = [(run, at) for run, at in course.look()[0] if run.spec.hash not in known]
                watch.add([run for run, _ in more])
                todo.extend(more)
                if not more:
                    yield None

        # This project's launcher tells of each at once, whatever becomes of the others; others do when all have ended.
        if is_local(status.plan.composed.hydra.launcher):
            _launch_here(status, due(), script, ended, math.inf if agenda is None else agenda.until)
            return
        for index, returned in enumerate(_launch_elsewhere(status, first, [_adapted(*each, for_logger) for each in todo])):
            ended(index, returned)


def _adapted(planned: PlannedRun, at: RunStatus, for_logger: Mapping[str, Settings]) -> RunSpec:
    settings = {**for_logger.get(planned.spec.hash, {}), **RERUN[at.state]}
    return planned.spec.adapted(settings, [override(key, value) for key, value in settings.items()])


def _launch_elsewhere(status: StatusReader, runs: Sequence[PlannedRun], specs: Sequence[RunSpec]) -> Sequence[JobReturn]:
    """Launch runs through another of Hydra's launchers; gives each one's return."""
    plan = status.plan
    twin = elsewhere.TWINS.get(plan.composed.hydra.launcher.get("_target_", ""))
    overrides = [
        *plan.runs[0].spec.overrides,
        *plan.hydra_overrides,
        *([f"hydra.launcher._target_={twin}"] if twin else []),
    ]
    task = elsewhere.TrainComposed({spec.hash: spec.code for spec in specs})
    other = hydra_launcher(GlobalHydra.instance().config_loader(), overrides, "ablate", str(plan.root), task)
    return elsewhere.launch(other, specs, runs, status)


def _launch_here(
    status: StatusReader,
    specs: Iterable[RunSpec | None],
    script: Path,
    ended: Callable[[int, JobReturn], None],
    until: float,
) -> None:
    """Launch runs through this project's launcher, in their order; None where the next one is not known yet."""
    plan = status.plan
    plan.root.mkdir(parents=True, exist_ok=True)
    given: Any = OmegaConf.to_container(plan.composed.hydra.launcher, resolve=True)
    given = {name: value for name, value in given.items() if name != "_target_"}
    given["script"] = given["script"] or str(script)
    given["log_dir"] = given["log_dir"] or str(plan.root / ".logs")
    options = LocalOptions(**given)
    flags = [*config_flags(plan.composed), *(text for text in plan.hydra_overrides if text.startswith("hydra.searchpath"))]
    number = itertools.count()
    command = [options.script, *flags, "hydra.mode=RUN"]
    run_jobs((spec and _job(next(number), spec, command) for spec in specs), options, ended, until)


def _job(index: int, spec: RunSpec, command: list[str]) -> Job:
    processes, on_gpu = job_processes(spec.config)
    return Job(
        index=index,
        overrides=list(spec.overrides),
        argv=[*command, *spec.overrides],
        processes=processes,
        on_gpu=on_gpu,
        call=pack_call(train_planned, spec),
    )


def _told(returned: JobReturn) -> list[str]:
    """What a run has said of damaged files in its folder."""
    told = None if error_of(returned) else returned.return_value
    return [line for line in told if isinstance(line, str)] if isinstance(told, list) else []


def _is_busy(returned: JobReturn) -> bool:
    return isinstance(error_of(returned), RunBusy)


def _mark_failed(status: StatusReader, planned: PlannedRun, returned: JobReturn) -> None:
    """Leave FAILED behind for a run whose process could not, as it died."""
    error = error_of(returned)
    if error is None or isinstance(error, (RunBusy, JobLost, *REFUSALS)):
        return
    at = status.of(planned)
    if at.state == "missing":
        at.folder.mark_failed(f"{type(error).__name__}: {error}\n")
