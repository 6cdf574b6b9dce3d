import re
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from necklace.config import resolved
from necklace.guard.interpolations import MOST, _Growth, check_growth
from tests.conftest import compose_train


def measured(node: Any) -> int:
    """Characters of values and keys, and containers, of what is filled in."""
    if isinstance(node, Mapping):
        return 1 + sum(len(str(key)) + measured(value) for key, value in node.items())
    if isinstance(node, list):
        return 1 + sum(len(str(place)) + measured(value) for place, value in enumerate(node))
    return len(str(node))


NAMES = "abcdef"


@st.composite
def configs(draw: st.DrawFn) -> dict[str, Any]:
    """A config whose values refer to earlier ones, as texts, whole values, list places and by a name that is a value."""
    config: dict[str, Any] = {"n0": "a", "n1": [draw(st.text(NAMES, max_size=9)), 7], "key": "n0"}
    for number in range(2, 8):
        earlier = [f"n{k}" for k in range(number)]
        texts = [name for name in earlier if isinstance(config[name], str) and config[name] != "${n1}"]
        one, other = draw(st.sampled_from(texts)), draw(st.sampled_from(texts))
        kinds = [f"${{{one}}}-${{{other}}}", f"x${{.{one}}}", "${n1[0]}${n1.1}", "${${key}}", "${n1}"]
        kinds += [{"in": f"${{..{one}}}", "of": ["${n1}", f"${{{other}}}"]}, "plain"]
        config[f"n{number}"] = draw(st.sampled_from(kinds))
    return config


@given(configs())
def test_what_a_config_grows_to_is_known_before_it_grows(config: dict[str, Any]) -> None:
    made = OmegaConf.create(config)
    grown = OmegaConf.to_container(made, resolve=True)
    assert _Growth(OmegaConf.to_container(made, resolve=False)).of(())[0] == measured(grown)


def doubling(how: Any) -> dict[str, Any]:
    return {"a0": "ha" * 20} | {f"a{k}": how(f"a{k - 1}") for k in range(1, 40)}


@pytest.mark.parametrize(
    "how",
    [
        lambda name: f"${{{name}}}${{{name}}}",
        lambda name: [f"${{{name}}}", f"${{{name}}}"],
        lambda name: {"x": f"${{{name}}}", "y": f"${{..{name}}}"},
        lambda name: f"${{{name}}}${{${{names.{name}}}}}",
    ],
)
def test_what_doubles_in_every_line_is_refused_at_once(how: Any) -> None:
    config = doubling(how) | {"names": {f"a{k}": f"a{k}" for k in range(40)}}
    with pytest.raises(ValueError, match=f"has more than {MOST} characters when its references"):
        check_growth(config)


def test_what_cannot_be_followed_is_left_to_omegaconf_or_refused() -> None:
    check_growth({"a": "${b}", "b": "${a}", "c": "${nowhere}", "d": "${oc.env:HOME}", "e": "${f.x}", "f": "${e.x}"})
    check_growth({"size": 8, "deep": {"list": ["${size}", None, 1.5, True]}})
    with pytest.raises(ValueError, match=re.escape("a: has more than 1000 references (${...})")):
        check_growth({"a": "${b}" * 1001, "b": ""})
    with pytest.raises(ValueError, match="is reached through more than 150 values and references"):
        check_growth({f"a{k}": f"${{a{k + 1}}}" for k in range(200)} | {"a200": "x"})


def test_a_config_that_doubles_is_refused_before_it_is_filled_in(hydra_ready: None) -> None:
    overrides = [f"+bomb.a{k}='${{bomb.a{k - 1}}}${{bomb.a{k - 1}}}'" for k in range(1, 40)]
    config, _ = compose_train(["+bomb.a0=hahaha", *overrides])
    with pytest.raises(ValueError, match=r"bomb\.a\d+: has more than"):
        resolved(config)
