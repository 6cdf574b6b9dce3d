"""A config composed quickly is the one that Hydra composes, with each supported version of Hydra."""

import os
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hydra
import pytest
from hydra import initialize_config_dir
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.core.utils import JobReturn, JobStatus
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from packaging.requirements import Requirement

from necklace.config import Composer, choices_of, resolved
from necklace.config_listing import listing_once
from necklace.launcher.hydra_jobs import error_of
from tests.composer_check import BAD, CONFIGS, GOOD, agree
from tests.conftest import composed

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def loader() -> Iterator[ConfigLoader]:
    with initialize_config_dir(str(CONFIGS), version_base="1.3", job_name="train"):
        yield GlobalHydra.instance().config_loader()


@pytest.fixture(scope="module")
def composer(loader: ConfigLoader) -> Composer:
    return Composer(loader, "train")


@pytest.mark.parametrize("overrides", GOOD)
@pytest.mark.filterwarnings("ignore:provider=hydra.searchpath")
def test_a_config_equals_the_one_that_hydra_composes(composer: Composer, loader: ConfigLoader, overrides: list[str]) -> None:
    assert agree(composer, loader, overrides)
    assert agree(composer, loader, overrides)  # the second time from what the first has left


@pytest.mark.parametrize("overrides", BAD)
def test_a_mistake_gets_hydras_own_error(composer: Composer, loader: ConfigLoader, overrides: list[str]) -> None:
    assert not agree(composer, loader, overrides)


OVERRIDES = st.lists(
    st.sampled_from(
        [
            *(f"neck={name}" for name in ("none", "spp", "focal")),
            *("neck.focal_level=3", "neck.kernels=[3,5]", "neck.kernels=null", "~neck.kernels", "+neck.extra=1"),
            *("seed=1", "seed=${epochs}", "+seed=2", "optimizer.lr=0.1", "optimizer=sgd", "trainer={devices: 2}"),
            *("study='a,b'", "+recipe=demo", "data=cifar10", "hydra.job.name=x"),
        ]
    ),
    max_size=5,
)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(overrides=OVERRIDES)
def test_any_order_and_mixture_gives_the_same_as_hydra(composer: Composer, loader: ConfigLoader, overrides: list[str]) -> None:
    agree(composer, loader, overrides)


def test_a_change_to_a_config_does_not_reach_the_next(composer: Composer) -> None:
    first = composer.compose(["neck=focal", "data.eval_sizes=[24]"])
    first.data.eval_sizes.append(32)
    first.neck.focal_level = 7
    first.hydra.overrides.task.append("seed=9")
    second = composer.compose(["neck=focal", "data.eval_sizes=[24]"])
    assert second.data.eval_sizes == [24]
    assert second.neck.focal_level == 2
    assert OmegaConf.to_container(second.hydra.overrides.task) == ["neck=focal", "data.eval_sizes=[24]"]


def test_files_are_read_once_for_a_choice_of_groups(loader: ConfigLoader, monkeypatch: pytest.MonkeyPatch) -> None:
    composer = Composer(loader, "train")
    whole = []
    compose = loader.load_configuration
    monkeypatch.setattr(
        loader, "load_configuration", lambda *args, **options: whole.append(args[1]) or compose(*args, **options)
    )
    for seed in range(5):
        for neck in ("none", "focal"):
            composer.compose([f"neck={neck}", f"seed={seed}", "+trainer.max_time=null"])
    assert whole == [["neck=none"], ["neck=focal"]]


def test_a_config_without_hydras_part_and_its_choices(composer: Composer) -> None:
    config, choices = composed(composer, ["neck=focal", "study=2024", "outputs=${study}/x"])
    assert "hydra" not in config
    assert choices["neck"] == "focal"
    assert choices == choices_of(composer.compose(["neck=focal"]).hydra)
    assert not [group for group in choices if "hydra" in group]
    plain = resolved(config)
    assert plain["study"] == "2024"
    assert plain["outputs"] == "2024/x"
    assert isinstance(plain["neck"], dict)


def test_the_error_of_a_job() -> None:
    error = ValueError("no")
    assert error_of(JobReturn(status=JobStatus.FAILED, _return_value=error)) is error
    assert error_of(JobReturn(status=JobStatus.COMPLETED, _return_value=error)) is None


def oldest_supported() -> str:
    """The lower bound of pyproject.toml."""
    dependencies = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    (requirement,) = [each for each in map(Requirement, dependencies) if each.name == "hydra-core"]
    (bound,) = [each.version for each in requirement.specifier if each.operator == ">="]
    return bound


@pytest.mark.slow
@pytest.mark.parametrize("version", [oldest_supported(), hydra.__version__])
def test_hydras_private_api_is_as_expected(version: str, tmp_path: Path) -> None:
    paths = [str(ROOT / "src")]
    if version != hydra.__version__:
        paths.insert(0, str(tmp_path))
        pip = [
            sys.executable,
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            "--no-deps",
            "--target",
            tmp_path,
        ]
        installed = subprocess.run([*pip, f"hydra-core=={version}"], capture_output=True, text=True)
        if installed.returncode:
            pytest.skip(f"hydra-core {version} could not be installed: {installed.stderr.strip().splitlines()[-1]}")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    command = [sys.executable, str(ROOT / "tests" / "composer_check.py")]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stdout == version


def test_hydras_private_api_is_used_in_four_files() -> None:
    files = [*(ROOT / "src").rglob("*.py"), *ROOT.glob("*.py")]
    private = ("hydra._internal", "ConfigLoaderImpl", "._return_value", "Singleton._")
    assert {path.name for path in files if any(name in path.read_text() for name in private)} == {
        "config.py",
        "config_files.py",
        "config_listing.py",
        "hydra_jobs.py",
    }


def test_the_configs_are_looked_for_once_in_a_help(loader: ConfigLoader, monkeypatch: pytest.MonkeyPatch) -> None:
    usual: Any = ConfigLoaderImpl._parse_overrides_and_create_caching_repo
    calls = []
    name = "_parse_overrides_and_create_caching_repo"
    monkeypatch.setattr(ConfigLoaderImpl, name, lambda *some, **more: calls.append(some) or usual(*some, **more))
    expected = loader.get_group_options("neck")
    assert loader.list_groups("data") == ["sizes"]
    assert len(calls) == 2
    with listing_once():
        first = loader.get_group_options("neck")
        assert first == expected
        assert "focal" in first
        first.clear()  # a caller's own
        assert loader.get_group_options("neck") == expected
        assert loader.list_groups("data") == ["sizes"]
        assert len(calls) == 3
