"""What Hydra refuses while it composes a config, in words that name the real option."""

from collections.abc import Collection, Sequence
from difflib import get_close_matches
from functools import cached_property
from typing import Any

from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from necklace.config import Composer, choices_of, leaves
from necklace.options.errors import OptionError
from necklace.options.kinds import shown
from necklace.options.nearest import advice, nearest


def composed(composer: Composer, overrides: Sequence[str]) -> DictConfig:
    """`composer.compose`, with its errors explained.

    Raises:
        OptionError: An override is wrong.
    """
    try:
        return composer.compose(overrides)
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        raise OptionError(explained(composer, overrides, error)) from error


def explained(composer: Composer, overrides: Sequence[str], error: Exception) -> str:
    """The error of a composition, a line for each override that is wrong.

    Hydra advises to add a key that it does not know, which gives a config with a key that nothing reads.

    Args:
        composer: Of the same config files.
        overrides: Those that Hydra refused; some may sweep over several values.
        error: Hydra's own.
    """
    parsed = []
    for text in overrides:
        try:
            parsed.append(_single(composer, text))
        except HydraException:
            return f"{text}: must be key=value; a value with spaces, brackets or commas needs quotes, such as 'key=\"a, b\"'"
    for_hydra, choices, values = composer.split(parsed)
    path = [str(override.input_line) for override in for_hydra]
    problems: list[str] = []
    chosen = []
    try:
        first = choices_of(composer.compose(path).hydra)
        for override in choices:
            problem = _choice_problem(composer, override, path, first)
            problems += [problem] if problem else []
            chosen += [] if problem else [str(override.input_line)]
        config = composer.compose([*path, *chosen])
    except (HydraException, OmegaConfBaseException, ValueError):
        return "\n".join(problems) or _hydras_words(error)
    known = _Known(config)
    for override in values:
        problem = _value_problem(override, config, known)
        problems += [problem] if problem else []
    return "\n".join(problems) or _hydras_words(error)


def _single(composer: Composer, text: str) -> str:
    """The override itself, or the first of those that it sweeps over."""
    override = next(one for kind in composer.split([text]) for one in kind)
    if not override.is_sweep_override():
        return text
    return (
        f"{override.get_key_element()}={next(iter(override.sweep_string_iterator()))}" if override.is_discrete_sweep() else text
    )


def _choice_problem(composer: Composer, override: Override, path: Sequence[str], first: dict[str, str]) -> str | None:
    group, value = override.key_or_group, override.value()
    if override.is_delete():
        return None
    if (override.is_add() or override.is_force_add()) and group in first:
        return f"{override.input_line}: {group} is chosen already; {group}={value} chooses another"
    known = composer.choices(group, path)
    if not isinstance(value, str | list):
        return f"{group}={shown(value)}: must be one of {', '.join(known)}"
    for name in value if isinstance(value, list) else [value]:
        if isinstance(name, str) and name not in known:
            near = get_close_matches(name, known, 1, 0.5)
            meant = f"; did you mean {group}={near[0]}?" if near else ""
            return f"{group}={name}: there is no {group}/{name}{meant} There are: {', '.join(known)}".replace(
                " There", "; there", not near
            )
    return None


class _Known:
    """The options that there are, by their whole dotted paths.

    Attributes:
        taken: Config group to the choice taken.
        there: Those that the config's files have.
    """

    def __init__(self, config: DictConfig) -> None:
        plain: Any = OmegaConf.to_container(config, resolve=False)
        del plain["hydra"]
        self._plain = plain
        self.taken = choices_of(config.hydra)
        self.there = [*(path for path, _ in leaves(plain)), *self.taken]

    @cached_property
    def read(self) -> list[str]:
        """These, and all that something reads."""
        from necklace.options.readers import readers_of  # here, so that a misspelt option is answered before torch is imported

        return list(dict.fromkeys([*readers_of(self._plain).options, *self.there]))

    def around(self, key: str) -> list[str]:
        """The options that `key` may have been meant for."""
        return self.there if nearest(key, self.there) in self.there else self.read


def _value_problem(override: Override, config: DictConfig, known: _Known) -> str | None:
    """What is wrong with a value's override, which is put onto the config otherwise."""
    key, text = override.key_or_group, str(override.input_line)
    try:
        Composer.apply(override, config)
    except (HydraException, OmegaConfBaseException) as error:
        there = OmegaConf.select(config, key, throw_on_missing=False) is not None
        if override.is_add() and there:
            return f"{text}: {key} is an option already, without the +: {text.lstrip('+')}"
        if not override.is_delete() and _may_be_added(key, override.value(), {*known.around(key)} - known.taken.keys(), config):
            return f"{text}: {key} is read, but not set yet; +{text} sets it"
        if override.is_delete() or not there:
            what = "there is nothing of this name" if override.is_delete() else "nothing reads it"
            return f"{key}: {what}{advice(key, known.around(key), known.taken)}"
        return f"{text}: {str(error.__cause__ or error).splitlines()[0]}"
    return None


def _may_be_added(key: str, value: Any, known: Collection[str], config: DictConfig) -> bool:
    """Whether something would read the key, and Hydra only wants a + for what no file has."""
    above = [key.rsplit(".", count)[0] for count in range(key.count(".") + 1)]
    there = OmegaConf.select(config, key, throw_on_missing=False) is not None
    return any(path in known for path in above) and (isinstance(value, dict) if there else True)


def _hydras_words(error: BaseException) -> str:
    """Hydra's own words, with those of the error that caused it."""
    words = [str(error).strip(), str(error.__cause__).strip() if isinstance(error.__cause__, OmegaConfBaseException) else ""]
    return "\n".join(filter(None, words)) or type(error).__name__
