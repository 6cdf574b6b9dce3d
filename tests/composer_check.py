"""Compares `necklace.config` with the Hydra that is installed: `python tests/composer_check.py`, or within test_config.py.

It imports neither pytest nor torch, so that a test can run it with another version of Hydra in a process of its own.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hydra
from hydra import compose, initialize_config_dir
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
from omegaconf import Container, DictConfig

from necklace.config import Composer
from necklace.launcher.hydra_jobs import config_flags, hydra_launcher, hydra_state, restore_hydra_state

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
GOOD = [
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
]
BAD = [
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
]


def facts(node: Any) -> Any:
    """A config down to what plain equality overlooks: flags, types, and interpolations as they stand."""
    if not isinstance(node, Container) or node._is_none() or node._is_missing() or node._is_interpolation():
        return type(node), getattr(node, "_content", node)
    own = (node._metadata.flags, node._metadata.object_type, node._metadata.ref_type, node._metadata.optional)
    if isinstance(node, DictConfig):
        return own, [(key, facts(node._get_node(key))) for key in node]
    return own, [facts(node._get_node(index)) for index in range(len(node))]  # pyright: ignore[reportArgumentType, reportCallIssue]


def outcome(config_of: Callable[[], Any]) -> Any:
    """The config, or the error that came instead."""
    try:
        return facts(config_of())
    except Exception as error:
        return type(error), str(error)


def agree(composer: Composer, loader: ConfigLoader, overrides: list[str]) -> bool:
    """Compare both ways to compose; gives whether there is a config, and not an error."""
    quick = outcome(lambda: composer.compose(overrides))
    assert quick == outcome(lambda: loader.load_configuration("train", list(overrides), RunMode.RUN)), overrides
    return not isinstance(quick[0], type)


def task(config: DictConfig) -> None:
    """For a launcher that does not run it."""


def check_private_api() -> None:
    """Carry out all that uses Hydra's private API once, against what Hydra gives by its public one."""
    with initialize_config_dir(str(CONFIGS), version_base="1.3", job_name="train"):
        loader = GlobalHydra.instance().config_loader()
        composer = Composer(loader, "train")
        for overrides in GOOD:
            assert agree(composer, loader, overrides), overrides
            public = compose("train", overrides, return_hydra_config=True)
            quick = composer.compose(overrides)
            assert {**quick, "hydra": None} == {**public, "hydra": None}, overrides
            assert quick.hydra.runtime.choices == public.hydra.runtime.choices, overrides
        for overrides in BAD:
            assert not agree(composer, loader, overrides), overrides
        config = composer.compose(["seed=1"])
        assert config_flags(config) == [f"--config-path={CONFIGS}", "--config-name=train"]
        launcher = hydra_launcher(loader, ["hydra/launcher=basic", "seed=1"], "job", "out", task)
        assert type(launcher).__name__ == "BasicLauncher"
        assert launcher.config.hydra.job.name == "job"  # pyright: ignore[reportAttributeAccessIssue]
        state = hydra_state()
        assert GlobalHydra in state
        restore_hydra_state(state)
        assert GlobalHydra.instance() is state[GlobalHydra]


if __name__ == "__main__":
    check_private_api()
    sys.stdout.write(hydra.__version__)
