"""A cell composed quickly is the cell that Hydra composes."""

from collections.abc import Iterator
from typing import Any

import pytest
from hydra import initialize_config_dir
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from omegaconf import Container, DictConfig, OmegaConf

from necklace.study.compose import Composer
from tests.conftest import CONFIGS


@pytest.fixture(scope="module")
def loader() -> Iterator[ConfigLoader]:
    with initialize_config_dir(str(CONFIGS), version_base="1.3", job_name="train"):
        yield GlobalHydra.instance().config_loader()


@pytest.fixture(scope="module")
def composer(loader: ConfigLoader) -> Composer:
    return Composer(loader, "train")


def facts(node: Any) -> Any:
    """A config down to what plain equality overlooks: flags, types, and interpolations as they stand."""
    if not isinstance(node, Container) or node._is_none() or node._is_missing() or node._is_interpolation():
        return type(node), getattr(node, "_content", node)
    own = (node._metadata.flags, node._metadata.object_type, node._metadata.ref_type, node._metadata.optional)
    if isinstance(node, DictConfig):
        return own, [(key, facts(node._get_node(key))) for key in node]
    return own, [facts(node._get_node(index)) for index in range(len(node))]  # pyright: ignore[reportArgumentType, reportCallIssue]


def outcome(config_of: Any) -> Any:
    """The config, or the error that came instead."""
    try:
        return facts(config_of())
    except Exception as error:
        return type(error), str(error)


def agree(composer: Composer, loader: ConfigLoader, overrides: list[str]) -> bool:
    quick = outcome(lambda: composer.compose(overrides))
    assert quick == outcome(lambda: loader.load_configuration("train", list(overrides), RunMode.RUN))
    return not isinstance(quick[0], type)


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["seed=1"],
        ["neck=focal", "neck.focal_level=3", "seed=1", "data.eval_sizes=[24,32]", "optimizer=sgd", "optimizer.lr=0.1"],
        ["+recipe=cifar_sizes", "data.root='a,b=c'", "data/sizes=multiscale", "study='x, y'"],
        ["neck=focal", "neck.kernels=[3,7]", "neck.kernels=null", "+trainer.limit_train_batches=10", "~trainer.precision"],
        ["outputs=${study}/x", "study=${seed}", "++trainer.devices=2", "+trainer={limit_val_batches: 3}"],
        ["hydra.job.config.override_dirname.exclude_keys=[seed]", "seed=3", "hydra.sweep.dir=here", "hydra/launcher=basic"],
        ["hydra.searchpath=[file:///nowhere]", "seed=2"],
        ["data={size: 24}", "data.size=28"],
        ["~logger", "seed=0"],
    ],
)
@pytest.mark.filterwarnings("ignore:provider=hydra.searchpath")
def test_a_cell_equals_the_one_that_hydra_composes(composer: Composer, loader: ConfigLoader, overrides: list[str]) -> None:
    assert agree(composer, loader, overrides)
    assert agree(composer, loader, overrides)  # the second time from what the first has left


@pytest.mark.parametrize(
    "overrides",
    [
        ["foo=1"],
        ["neck=fpn"],
        ["neck/foo=1"],
        ["seed=0,1"],
        ["seed=range(3)"],
        ["neck.focal_level=2", "+neck.focal_level=1"],  # the first fails before the second could allow it
        ["+seed=1"],
        ["~neck.nothing"],
        ["two words"],
        ["+neck=sppf"],
        ["++neck=sppf"],
    ],
)
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


def test_what_is_done_to_a_cell_does_not_reach_the_next(composer: Composer) -> None:
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
