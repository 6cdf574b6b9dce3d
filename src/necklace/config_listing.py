"""What is in the groups of configs/, for `--help`, read once; needs Hydra's private API."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import IConfigRepository
from hydra.core.object_type import ObjectType


@contextmanager
def listing_once() -> Iterator[None]:
    """Within it, Hydra looks once at what is in a config group, and not twice for one help, each time through all its own."""
    original = ConfigLoaderImpl.get_group_options
    repositories: dict[str, IConfigRepository] = {}  # to make one takes 5 ms, and there are 70 groups

    def options(
        self: Any, group_name: str, results_filter: Any = ObjectType.CONFIG, config_name: Any = None, overrides: Any = ()
    ) -> list[str]:
        place = repr((config_name, overrides))
        if place not in repositories:
            repositories[place] = self._parse_overrides_and_create_caching_repo(config_name, list(overrides or ()))[1]
        return repositories[place].get_group_options(group_name, results_filter)

    changed: Any = ConfigLoaderImpl
    changed.get_group_options = options
    try:
        yield
    finally:
        changed.get_group_options = original
