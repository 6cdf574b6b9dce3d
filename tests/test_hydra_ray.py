"""Ray's launcher: this project's defaults stand in for the plugin's own, and without it it says what to install."""

import sys

import pytest
from hydra.core.global_hydra import GlobalHydra

from hydra_plugins.necklace_ray import RayLauncher
from necklace.launcher.hydra_jobs import hydra_launcher
from tests.conftest import SMALL, compose_train


def test_the_options_are_this_projects(hydra_ready: None) -> None:
    from hydra.core.hydra_config import HydraConfig

    compose_train(["hydra/launcher=ray", "hydra.launcher.ray.init.address=127.0.0.1:6379"])
    options = HydraConfig.get().launcher.ray
    assert (options.init.address, options.init.log_to_driver, options.init.object_store_memory) == (
        "127.0.0.1:6379",
        False,
        None,
    )
    assert (options.remote.num_cpus, options.remote.max_retries) == (1, 3)


def test_without_the_extra_the_launcher_says_what_to_install(hydra_ready: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    words = r"hydra/launcher=ray: Ray is not installed; pip install 'necklace\[ray\]'"
    with pytest.raises(ModuleNotFoundError, match=words):
        RayLauncher({})  # pyright: ignore[reportArgumentType]
    with pytest.raises(Exception, match=words):
        hydra_launcher(GlobalHydra.instance().config_loader(), ["hydra/launcher=ray", *SMALL], "job", "out", print)
