"""Run what is missing of a plan, through this project's launcher or another of Hydra's.

Several commands may work on one study at once: a run is held by the process that trains it, and the others continue with the
next run and come back.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

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


def execute(
    status: StatusReader, script: Path, rerun: set[str], settings: Callable[[], Mapping[str, Settings]], console: Console
) -> dict[str, str]:
    """Run what is missing, each run at most once in this call; a run that fails is marked and does not stop the others.

    Args:
        status: Of the plan; Hydra has to be initialised with the configs.
        script: The file of which a command line trains one run, for launchers that start processes.
        rerun: States that are run again besides missing runs: `failed`, from their last checkpoint, and `stale`.
        settings: Gives, by a run's hash, settings such as its name in W&B; asked once, if anything is to be run.
        console: Where to show the progress.

    Returns:
        A run's hash to a sentence, of the runs that could not begin. These leave nothing behind.
    """
    launched: set[str] = set()
    refused: dict[str, str] = {}
    waiting = False
    for_logger: Mapping[str, Settings] | None = None
    while True:
        found = status.all()
        todo = [
            (run, at)
            for run, at in zip(status.plan.runs, found, strict=True)
            if run.spec.hash not in launched and at.state in {"missing", "damaged", *rerun}
        ]
        if not todo:
            if not any(at.state == "running" for at in found):
                return refused
            if not waiting:
                console.print("another process is running the rest; waiting for it")
                waiting = True
            time.sleep(POLL_SECONDS)
            continue
        check_loggers(todo[0][0].spec)  # all runs have the same; once, rather than each run failing for it
        for_logger = settings() if for_logger is None else for_logger
        specs = [_adapted(run, at, for_logger) for run, at in todo]

        with overview(status, found, [run for run, _ in todo], console) as watch, share_splits(status.plan.images):

            def ended(index: int, returned: JobReturn, todo: Any = todo, watch: Watch = watch) -> None:
                planned: PlannedRun = todo[index][0]
                if _is_busy(returned) or planned.spec.hash in launched:
                    return
                launched.add(planned.spec.hash)
                error = error_of(returned)
                if isinstance(error, (*REFUSALS, JobLost)):
                    refused[planned.spec.hash] = str(error).strip() or type(error).__name__  # without notes: tracebacks
                    how = "not finished" if isinstance(error, JobLost) else "refused"
                    watch.refused(planned, refused[planned.spec.hash], how)
                _mark_failed(status, planned, returned)
                for line in _told(returned):
                    watch.note(planned, line)

            # This project's launcher tells of each at once, whatever becomes of the others; others do when all have ended.
            for index, returned in enumerate(_launch(status, [run for run, _ in todo], specs, script, ended)):
                ended(index, returned)


def _adapted(planned: PlannedRun, at: RunStatus, for_logger: Mapping[str, Settings]) -> RunSpec:
    settings = {**for_logger.get(planned.spec.hash, {}), **RERUN[at.state]}
    return planned.spec.adapted(settings, [override(key, value) for key, value in settings.items()])


def _launch(
    status: StatusReader,
    runs: Sequence[PlannedRun],
    specs: Sequence[RunSpec],
    script: Path,
    ended: Callable[[int, JobReturn], None],
) -> Sequence[JobReturn]:
    """Launch runs and wait for them; gives each one's return."""
    plan, launcher = status.plan, status.plan.composed.hydra.launcher
    if not is_local(launcher):
        twin = elsewhere.TWINS.get(launcher.get("_target_", ""))
        overrides = [
            *plan.runs[0].spec.overrides,
            *plan.hydra_overrides,
            *([f"hydra.launcher._target_={twin}"] if twin else []),
        ]
        task = elsewhere.TrainComposed({spec.hash: spec.code for spec in specs})
        other = hydra_launcher(GlobalHydra.instance().config_loader(), overrides, "ablate", str(plan.root), task)
        return elsewhere.launch(other, specs, runs, status)
    plan.root.mkdir(parents=True, exist_ok=True)
    given: Any = OmegaConf.to_container(launcher, resolve=True)
    given = {name: value for name, value in given.items() if name != "_target_"}
    given["script"] = given["script"] or str(script)
    given["log_dir"] = given["log_dir"] or str(plan.root / ".logs")
    options = LocalOptions(**given)
    flags = [*config_flags(plan.composed), *(text for text in plan.hydra_overrides if text.startswith("hydra.searchpath"))]
    jobs = (_job(index, spec, [options.script, *flags, "hydra.mode=RUN"]) for index, spec in enumerate(specs))
    returns = run_jobs(jobs, options, ended)
    return [returns[index] for index in range(len(specs))]


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
