"""Runs of a study through another of Hydra's launchers: what a job calls, and what became of each, whatever the launcher does.

A launcher may raise when one job dies, and then says nothing of the others; what they have left in their folders does.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from omegaconf import DictConfig, OmegaConf

from necklace.code_version import changed_modules
from necklace.launcher.hydra_jobs import JobLost
from necklace.launcher.local import failed
from necklace.run.folder import RunBusy
from necklace.run.runner import RunRefused, run_composed
from necklace.spec import RunSpec
from necklace.study.plan import Plan, PlannedRun
from necklace.study.status import StatusReader

# Launchers that have a twin here, which needs no accounting and loses no job.
TWINS = {"hydra_plugins.hydra_submitit_launcher.submitit_launcher.SlurmLauncher": "hydra_plugins.necklace_slurm.SlurmLauncher"}


def is_slurm(plan: Plan) -> bool:
    """Whether a study's runs are jobs of SLURM."""
    target = plan.composed.hydra.launcher.get("_target_", "")
    return target in TWINS or target in TWINS.values()


def launcher_options(plan: Plan) -> dict[str, Any]:
    """The options of a study's launcher."""
    given: Any = OmegaConf.to_container(plan.composed.hydra.launcher, resolve=True)
    return {name: value for name, value in given.items() if not name.startswith("_")}


def check_code(planned: Mapping[str, str], found: Mapping[str, str]) -> None:
    """Refuse to train with other code than a run was planned with.

    Raises:
        RunRefused: It is other code.
    """
    if changed := changed_modules(dict(planned), dict(found)):
        raise RunRefused(
            f"the code is not what the run was planned with: {', '.join(changed)}; nothing was trained, and the same command "
            "plans it anew"
        )


@dataclass(frozen=True)
class TrainComposed:
    """What a job calls with the config that its launcher has composed.

    Attributes:
        planned: Hash to code version, of each run that was planned.
    """

    planned: Mapping[str, Mapping[str, str]]

    def __call__(self, config: DictConfig) -> list[str]:
        """Train the run, if it is one that was planned, with the code that it was planned with.

        Returns:
            Sentences on what was damaged.
        """
        told: list[str] = []
        run_composed(config, interactive=False, told=told, check=self._check)
        return told

    def _check(self, spec: RunSpec) -> None:
        if spec.hash not in self.planned:
            raise RunRefused(
                f"{spec.name}: is no run that was planned: data or configs have changed since; the same command plans it anew"
            )
        check_code(self.planned[spec.hash], spec.code)


def launch(launcher: Launcher, specs: Sequence[RunSpec], runs: Sequence[PlannedRun], status: StatusReader) -> list[JobReturn]:
    """Launch runs and wait for them; gives each one's return, whatever the launcher gives.

    Args:
        launcher: Ready to launch.
        specs: What it launches.
        runs: The same as they are in the plan.
        status: Of the plan.
    """
    before = [_begun(status, run) for run in runs]
    try:
        returns: list[Any] = list(launcher.launch([list(spec.overrides) for spec in specs], initial_job_idx=0))
    except Exception as error:
        begun = [_begun(status, run) for run in runs]
        if begun == before:  # it is the launcher that does not work
            words = f"{type(launcher).__name__} could not launch it: {type(error).__name__}: {error}"
            return [failed(spec.overrides, JobLost(words)) for spec in specs]
        return _after(error, specs, runs, status)
    returns += [None] * (len(runs) - len(returns))
    return [_told(returned, spec, run, status) for returned, spec, run in zip(returns, specs, runs, strict=False)]


def _told(returned: Any, spec: RunSpec, run: PlannedRun, status: StatusReader) -> JobReturn:
    """What a launcher gives for a run, unless the run's folder knows better."""
    if isinstance(returned, JobReturn) and (returned.status == JobStatus.FAILED or status.of(run).state != "missing"):
        return returned
    return failed(spec.overrides, JobLost(f"its job ended, and left no record in {run.spec.root}"))


def _after(error: Exception, specs: Sequence[RunSpec], runs: Sequence[PlannedRun], status: StatusReader) -> list[JobReturn]:
    """The returns of jobs whose launcher has raised as it waited for them in their order.

    The first that has not ended, and that nobody trains, is the one whose job has died; those after it are still to be
    launched.
    """
    returns, cause = [], [error]
    for spec, run in zip(specs, runs, strict=True):
        at = status.of(run)
        if at.state in ("done", "stale", "running"):
            returned = JobReturn(overrides=list(spec.overrides), status=JobStatus.COMPLETED)
        elif at.state == "failed":
            returned = failed(spec.overrides, RuntimeError(at.failure))
        elif cause:
            returned = failed(spec.overrides, cause.pop())
        else:
            returned = failed(spec.overrides, RunBusy(f"{at.folder.path}: is still to be launched"))
        returns.append(returned)
    return returns


def _begun(status: StatusReader, run: PlannedRun) -> object:
    """What changes when a run begins."""
    path = status.of(run).folder.code_path
    return path.stat().st_mtime_ns if path.exists() else None
