"""Hydra's launchers and jobs: what a launcher is made from, and what a job's process has to know of Hydra's state."""

from collections.abc import Sequence
from typing import Any

from hydra._internal.callbacks import Callbacks
from hydra.core.config_loader import ConfigLoader
from hydra.core.plugins import Plugins
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, RunMode, TaskFunction
from omegaconf import DictConfig, open_dict


class JobLost(RuntimeError):
    """A job that ended without its run: cancelled, vanished, or never begun. The run is missing, and another call goes on."""


def hydra_launcher(
    config_loader: ConfigLoader,
    overrides: Sequence[str],
    job_name: str,
    output_dir: str,
    task_function: TaskFunction,
    config_name: str = "train",
) -> Launcher:
    """The launcher that a multirun with these overrides has, set up to launch.

    Args:
        config_loader: Hydra's, such as `GlobalHydra.instance().config_loader()`.
        overrides: Shared by all jobs; the launcher and its options among them.
        job_name: For Hydra's `hydra.job.name`.
        output_dir: For Hydra's `hydra.runtime.output_dir`.
        task_function: What each job calls with its config.
        config_name: The primary config.

    Raises:
        hydra.errors.HydraException: As Hydra raises it: an override or an option of the launcher is refused.
    """
    config = config_loader.load_configuration(config_name, list(overrides), RunMode.MULTIRUN)
    with open_dict(config.hydra):
        config.hydra.job.name = job_name
        config.hydra.runtime.output_dir = output_dir
    context = HydraContext(config_loader=config_loader, callbacks=Callbacks(config))
    return Plugins.instance().instantiate_launcher(hydra_context=context, task_function=task_function, config=config)


def hydra_state() -> dict[Any, Any]:
    """Hydra's objects of which a process has one each, for `restore_hydra_state` in another process.

    Its plugins are left out, as are OmegaConf's resolvers: those of a script need not pickle.
    """
    return Singleton.get_state()["instances"]


def restore_hydra_state(state: dict[Any, Any]) -> None:
    """Take over what `hydra_state` gave in another process."""
    Singleton._instances.update(state)


def error_of(returned: JobReturn) -> BaseException | None:
    """The error of a job that has failed, None for any other; `JobReturn.return_value` would raise it."""
    return returned._return_value if returned.status == JobStatus.FAILED else None


def config_flags(config: DictConfig) -> list[str]:
    """The flags that lead a script with Hydra's decorator to the same config files, wherever this config's come from.

    Args:
        config: A composed config with its `hydra` node.

    Returns:
        Such as `["--config-path=/home/me/configs", "--config-name=train"]`. Folders from `hydra.searchpath` are not among them.
    """
    flags = {"main": "--config-path", "command-line": "--config-dir"}
    sources = [source for source in config.hydra.runtime.config_sources if source.provider in flags and source.path]
    paths = [("pkg://" if source.schema == "pkg" else "") + source.path for source in sources]
    named = [f"{flags[source.provider]}={path}" for source, path in zip(sources, paths, strict=True)]
    return [*named, f"--config-name={config.hydra.job.config_name}"]
